"""Where sketches and texts lie while near duplicates are looked for: on disk, a column a file, read a piece at a time.

For each row 256 bytes of sketch and its text are on disk. In memory are about 70 bytes a row (id, rank, position,
place, start, numbers), and some 80 more while a band is worked on. The files have no name: whatever happens to the
process, nothing is left.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

import numpy as np

from luthier.curate.clusters import preference_order
from luthier.curate.near_sketch import BANDS, LIKELY, LIKELY_SHORT, PERMUTATIONS, Sketches
from luthier.curate.near_text import SEPARATOR, Row

ROWS_KEPT: Final = 4096  # texts taken apart, in memory at a time; some 20 KB each
PAIRS: Final = 1 << 16  # sketches compared at a time; 16 MB


class Shelf:
    """Rows in the order of their ids, whatever order they came in."""

    def __init__(self, batches: Iterable[Sketches | None], folder: Path | None) -> None:
        """Put everything on disk, in `folder` or where the system keeps temporary files."""
        self._keys = [TemporaryFile(dir=folder) for _ in range(BANDS)]  # noqa: SIM115 - __exit__ closes them
        self._low, self._texts = TemporaryFile(dir=folder), TemporaryFile(dir=folder)  # noqa: SIM115
        ids, ranking, numbers, short, sizes = [], [], [], [], []
        for batch in batches:
            if batch is None:
                continue
            for band, file in enumerate(self._keys):
                file.write(batch.keys[:, band].tobytes())
            self._low.write(batch.low.tobytes())
            self._texts.write(batch.texts)
            ids.append(batch.ids)
            ranking.append(batch.ranking)
            numbers.append(batch.numbers)
            short.append(batch.short)
            sizes.append(batch.sizes)
        for file in (*self._keys, self._low, self._texts):
            file.flush()
        came = np.concatenate(ids) if ids else np.empty(0, "S1")
        self._place = np.argsort(came, kind="stable").astype(np.uint32)  # row → place in the files
        self.ids = came[self._place]
        ranks = np.concatenate(ranking) if ranking else np.empty(0, np.int64)
        self.position = preference_order(ranks[self._place], self.ids)
        self.numbers = np.concatenate(numbers)[self._place] if numbers else np.empty(0, np.uint32)
        self._short = np.concatenate(short)[self._place] if short else np.empty(0, bool)
        self._starts = np.r_[0, np.cumsum(np.concatenate(sizes))] if sizes else np.zeros(1, np.int64)
        self._map = np.memmap(self._low, np.uint8, "r", shape=(len(came), PERMUTATIONS)) if ids else None
        self.row: Callable[[int], Row] = lru_cache(ROWS_KEPT)(self._row)

    def __len__(self) -> int:
        return len(self.ids)

    def keys(self, band: int) -> np.ndarray:
        """uint32 (n,): the key of every row in a band."""
        file = self._keys[band]
        file.seek(0)
        return np.fromfile(file, np.uint32, len(self))[self._place]

    def likely(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The estimated Jaccard similarity of pairs of rows, float32; 0 where it is too small for duplicates."""
        equal = np.empty(len(one), np.float32)
        for start in range(0, len(one), PAIRS):
            part = slice(start, start + PAIRS)
            equal[part] = (self._map[self._place[one[part]]] == self._map[self._place[other[part]]]).mean(1)
        enough = np.where(self._short[one] | self._short[other], LIKELY_SHORT, LIKELY)
        return np.where(equal >= enough, equal, 0)

    def parts(self, row: int) -> tuple[str, ...]:
        """What `near_text.Row` is made of."""
        place = int(self._place[row])
        start, stop = int(self._starts[place]), int(self._starts[place + 1])
        self._texts.seek(start)
        return tuple(self._texts.read(stop - start).decode("utf-8", "surrogatepass").split(SEPARATOR))

    def _row(self, row: int) -> Row:
        return Row(self.parts(row))

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        """Give the disk back."""
        self._map = None
        for file in (*self._keys, self._low, self._texts):
            file.close()
