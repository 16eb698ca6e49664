"""Near duplicates: rows that say the same but for a few edits, found by MinHash and decided by comparison.

One band at a time: rows with the same key are candidates, the likeliest pairs are compared first (`near_rules`), and
those that pass are joined. What is joined already is not compared again, so a large group of copies costs about one
comparison a row. The joined rows are then split into stars (`clusters`), so that each duplicate was itself compared
with the row that is kept for it.

Work and memory have bounds whatever the data is:

- In a bucket (rows with one key in a band) every row is compared with the `WINDOW` rows after it. Those of a large
  bucket are ordered so that copies come together: in every other band by the numbers in them (what is made from one
  template mostly differs in those, and is no duplicate then), and by their keys in the bands that follow.
- A row that was compared with `TRIES` others in vain is not compared any more. Rows made from a template do that.

The notes say how often that cut something short. Copies meet in most of the 32 bands, so it takes a large group of rows
that are alike but no duplicates to hide one.
"""

import gc
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from luthier.curate.clusters import Components, stars
from luthier.curate.example import Entry
from luthier.curate.folder import BATCH, Dataset
from luthier.curate.near_rules import near
from luthier.curate.near_shelf import Shelf
from luthier.curate.near_sketch import BANDS, sketch_examples
from luthier.curate.near_text import Row, plain_example

REASON: Final = "near duplicate"
VERSION: Final = 1
WINDOW: Final = 8
FOLLOWING: Final = 3  # bands that order a large bucket
TRIES: Final = 32
AHEAD: Final = 128  # pairs that a worker gets at a time
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # as `map`, by workers
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def near_duplicates(
    dataset: Dataset, *, workers: int = 1, notes: Counter[str] | None = None, shelf: Shelf | None = None
) -> list[Entry]:
    """Every example that is a near duplicate of another, all but the best of each group.

    What counts as a near duplicate is said in `near_rules`. Kept is the example that has its side already, then the one
    not marked for review, then the one with the longer answer, then the one with the smaller id. `score` is the Jaccard
    similarity of the character 5-grams of the two.

    Args:
        notes: what was cut short is added to it.
        shelf: the sketches of all examples, where they are known. It is closed.
    """
    run = partial(dataset.run, workers=workers) if workers > 1 else None
    if shelf is None:
        shelf = Shelf(dataset.map(sketch_examples, workers=workers), dataset.path)
    return _search(shelf, notes, run)


def near_duplicates_in(
    rows: Iterable[tuple[str, ...]],
    *,
    folder: Path | None = None,
    notes: Counter[str] | None = None,
) -> list[Entry]:
    """The same for rows that are no dataset: (id, text), or (id, prompt, answer).

    Ids are all different.

    Args:
        folder: where temporary files go; None for the system's place for them.
    """
    rest = iter(rows)
    batches = iter(lambda: [plain_example(*row) for row in islice(rest, BATCH)], [])
    return _search(Shelf(map(sketch_examples, batches), folder), notes)


def _search(shelf: Shelf, notes: Counter[str] | None, run: Run | None = None) -> list[Entry]:
    counts = Counter() if notes is None else notes
    with shelf, _no_collection():
        joined, pairs, likenesses = _join(shelf, counts, run)

        def compare(kept: int, row: int) -> float | None:
            pair = min(kept, row) << 32 | max(kept, row)
            place = int(np.searchsorted(pairs, np.uint64(pair)))
            if place < len(pairs) and pairs[place] == pair:
                return float(likenesses[place])
            if not shelf.likely(np.array([kept]), np.array([row]))[0]:
                return None
            return near(shelf.row(kept), shelf.row(row))

        entries = []
        for members in joined.groups():
            found, left = stars(members.tolist(), shelf.position, compare)
            if left:
                counts["rows kept because their group fell apart into too many"] += left
            for row, kept, likeness in found:
                ids = shelf.ids[row].decode(), shelf.ids[kept].decode()
                entries.append(
                    Entry(
                        ids[0],
                        "duplicate",
                        REASON,
                        score=round(likeness, 4),
                        counterpart=ids[1],
                    )
                )
    return sorted(entries, key=lambda entry: entry.record)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Rows taken apart are many small objects and no cycles; looking for cycles takes a quarter of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _compare(
    pairs: list[tuple[tuple[str, ...], tuple[str, ...]]],
) -> list[float | None]:
    return [near(Row(one), Row(other)) for one, other in pairs]


def _ahead(
    shelf: Shelf, candidates: list[tuple[int, int]], joined: Components, run: Run
) -> dict[tuple[int, int], float | None]:
    """What becomes of the pairs that will be compared if all of them turn out to be duplicates, found by workers."""
    presumed, pairs = joined.copy(), []
    for one, other in candidates:
        if presumed.find(one) != presumed.find(other):
            presumed.join(one, other)
            pairs.append((one, other))
    if len(pairs) < AHEAD:
        return {}
    starts = range(0, len(pairs), AHEAD)
    parts = ([(shelf.parts(one), shelf.parts(other)) for one, other in pairs[at : at + AHEAD]] for at in starts)
    return dict(zip(pairs, chain.from_iterable(run(_compare, parts)), strict=True))


def _join(shelf: Shelf, counts: Counter[str], run: Run | None) -> tuple[Components, np.ndarray, np.ndarray]:
    """Join the rows that are near duplicates of one another, band by band.

    Returns:
        the components; the pairs that were found to be duplicates, sorted uint64 (p,), and their likeness (p,).
    """
    joined = Components(len(shelf))
    tries = np.zeros(len(shelf), np.uint8)
    refused = np.empty(0, np.uint64)  # pairs compared in vain, sorted
    found, likenesses = array("Q"), array("d")
    for band in range(BANDS) if len(shelf) > 1 else ():
        vain = []
        candidates = _candidates(shelf, band, joined, refused, counts)
        ahead = _ahead(shelf, candidates, joined, run) if run is not None else {}
        for one, other in candidates:
            if joined.find(one) == joined.find(other):
                continue
            if tries[one] >= TRIES or tries[other] >= TRIES:
                counts["pairs of rows not compared because one had been compared in vain too often"] += 1
                continue
            if (one, other) in ahead:
                likeness = ahead[one, other]
            else:
                likeness = near(shelf.row(one), shelf.row(other))
            if likeness is not None:
                joined.join(one, other)
                found.append(one << 32 | other)
                likenesses.append(likeness)
            else:
                tries[one] += 1
                tries[other] += 1
                vain.append(one << 32 | other)
        refused = np.union1d(refused, np.array(vain, np.uint64))
    pairs = np.frombuffer(found, np.uint64) if found else np.empty(0, np.uint64)
    order = np.argsort(pairs)
    return (
        joined,
        pairs[order],
        np.frombuffer(likenesses, np.float64)[order] if found else np.empty(0),
    )


def _candidates(
    shelf: Shelf,
    band: int,
    joined: Components,
    refused: np.ndarray,
    counts: Counter[str],
) -> list[tuple[int, int]]:
    """Pairs of a band that are not joined yet and are alike by their sketches, the likeliest first."""
    packed = np.sort(shelf.keys(band).astype(np.uint64) << _HALF | np.arange(len(shelf), dtype=np.uint64))
    rows, keys = (packed & _LOW).astype(np.int64), (packed >> _HALF).astype(np.uint32)
    del packed
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    sizes = np.diff(np.r_[starts, len(keys)])
    if (large := sizes > WINDOW + 1).any():
        counts["buckets in which rows were compared with their neighbours only"] += int(large.sum())
        inside = np.flatnonzero(np.repeat(large, sizes))
        others = [shelf.keys((band + step) % BANDS)[rows[inside]] for step in range(FOLLOWING, 0, -1)]
        numbers = shelf.numbers[rows[inside]] if band % 2 else np.zeros(len(inside), np.uint32)
        rows[inside] = rows[inside][np.lexsort((*others, numbers, keys[inside]))]
    pairs = []
    for step in range(1, WINDOW + 1):
        at = np.flatnonzero(keys[step:] == keys[:-step])
        if not len(at):
            break
        one, other = (
            np.minimum(rows[at], rows[at + step]),
            np.maximum(rows[at], rows[at + step]),
        )
        new = joined.roots(one) != joined.roots(other)
        if len(refused):
            pair = one.astype(np.uint64) << _HALF | other.astype(np.uint64)
            new &= refused[np.minimum(np.searchsorted(refused, pair), len(refused) - 1)] != pair
        one, other = one[new], other[new]
        likely = shelf.likely(one, other)
        pairs.append(np.stack([-likely, one, other])[:, likely > 0])
    if not pairs:
        return []
    likely, one, other = np.concatenate(pairs, 1)
    order = np.lexsort((other, one, likely))
    return list(
        zip(
            one[order].astype(np.int64).tolist(),
            other[order].astype(np.int64).tolist(),
            strict=True,
        )
    )
