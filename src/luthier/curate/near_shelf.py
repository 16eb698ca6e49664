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

from luthier.curate.clusters import FLAGGED, preference_order
from luthier.curate.folder import Since, places_in
from luthier.curate.near_sketch import BANDS, LIKELY, LIKELY_SHORT, PERMUTATIONS, Sketches
from luthier.curate.near_text import SEPARATOR, Row

ROWS_KEPT: Final = 4096  # texts taken apart, in memory at a time; some 20 KB each
PAIRS: Final = 1 << 16  # sketches compared at a time; 16 MB


class Shelf:
    """Rows in the order of their ids, whatever order they came in."""

    def __init__(self, batches: Iterable[Sketches | None] | None, folder: Path | None) -> None:
        """Put everything on disk, in `folder` or where the system keeps temporary files.

        Args:
            batches: None where they come one by one: with `add`, and `settle` after the last.
        """
        self._keys = [TemporaryFile(dir=folder) for _ in range(BANDS)]  # noqa: SIM115 - __exit__ closes them
        self._low, self._texts = TemporaryFile(dir=folder), TemporaryFile(dir=folder)  # noqa: SIM115
        # Of each batch: ids, ranking, numbers, whether short, bytes of text.
        self._came = [(np.empty(0, "S1"), *(np.empty(0, kind) for kind in (np.int64, np.uint32, bool, np.int64)))]
        if batches is not None:
            for batch in batches:
                self.add(batch)
            self.settle()

    def add(self, batch: Sketches | None) -> None:
        """Put further rows on disk."""
        if batch is None:
            return
        for band, file in enumerate(self._keys):
            file.write(batch.keys[:, band].tobytes())
        self._low.write(batch.low.tobytes())
        self._texts.write(batch.texts)
        self._came.append((batch.ids, batch.ranking, batch.numbers, batch.short, batch.sizes))

    def settle(self, since: Since | None = None) -> None:
        """Make what was put on disk the rows of the shelf, but for what is out `since`."""
        for file in (*self._keys, self._low, self._texts):
            file.flush()
        came, ranking, numbers, short, sizes = map(np.concatenate, zip(*self._came, strict=True))
        del self._came  # it would lie beside what is made of it
        self._total = len(came)
        order = np.argsort(came, kind="stable")
        if since is not None:
            ids = came[order]
            ranking[order[places_in(ids, since.flagged)]] |= FLAGGED
            order = np.delete(order, places_in(ids, since.out))
        self._place = order.astype(np.uint32)  # row → place in the files
        self.ids = came[self._place]
        self.position = preference_order(ranking[self._place], self.ids)
        self.numbers, self._short = numbers[self._place], short[self._place]
        self._starts = np.r_[0, np.cumsum(sizes)]
        self._map = np.memmap(self._low, np.uint8, "r", shape=(len(came), PERMUTATIONS)) if len(came) else None
        self.row: Callable[[int], Row] = lru_cache(ROWS_KEPT)(self._row)

    def __len__(self) -> int:
        return len(self.ids)

    def keys(self, band: int) -> np.ndarray:
        """uint32 (n,): the key of every row in a band."""
        file = self._keys[band]
        file.seek(0)
        return np.fromfile(file, np.uint32, self._total)[self._place]

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
