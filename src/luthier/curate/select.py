"""The best and most different examples, as many as are wanted: quality × diversity, with quotas for categories.

greedy: examples in order of their score, each taken unless it is too similar to one already taken (W. Liu et al., "What
    Makes Good Data for Alignment?", 2024: Deita, with a limit of 0.9 on the cosine).
k-center: always the example that is farthest from all taken so far, starting from the best one (T. F. Gonzalez,
    "Clustering to minimize the maximum intercluster distance", 1985; O. Sener and S. Savarese, "Active Learning for
    Convolutional Neural Networks: A Core-Set Approach", 2018). Scores only decide ties: it covers what there is, odd
    examples first, and belongs after a cleaning.

Whatever is not taken is dropped with its score and, where one is near, the id of the example taken in its stead.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.curate.example import Entry

Method = Literal["greedy", "k-center"]
NOT_SELECTED: Final = "not selected"
MAX_COSINE: Final = 0.9
_BLOCK = 512  # candidates compared at a time
_PLACES = 5  # decimals of a cosine that count: the rest depends on how a machine adds


@dataclass(frozen=True, slots=True)
class Candidate:
    """What there is to know of an example: its id, its category ("" without), and how good it is: higher is better, and
    minus infinity says that it could not be scored, so that it comes last.
    """

    id: str
    category: str
    score: float


@dataclass(frozen=True, slots=True)
class Selection:
    """Ids taken, in the order they were taken; an entry for every other candidate; what could not be had."""

    taken: list[str]
    entries: list[Entry]
    notes: list[str]


def select(
    candidates: Sequence[Candidate],
    vectors: NDArray[np.float32],
    *,
    target: int,
    method: Method = "greedy",
    max_cosine: float = MAX_COSINE,
    quotas: Mapping[str, float] | None = None,
) -> Selection:
    """Choose `target` of the candidates. The same for any order of them; ties go to the smaller id.

    Args:
        candidates: n of them.
        vectors: (n, d) float32, an embedding of each; their lengths do not matter.
        max_cosine: greedy takes none with this cosine or a greater one to one taken before.
        quotas: share of the target for each category, in any unit; None leaves categories aside. What a category cannot
            fill goes to the best of the others.

    Raises:
        DataError: a number out of range, a category without a quota, a vector that is not finite.
    """
    assert vectors.ndim == 2 and len(vectors) == len(candidates), (vectors.shape, len(candidates))
    if target < 1:
        raise DataError(f"a target of {target} examples", fix="give 1 or more")
    if not 0 < max_cosine <= 1:
        raise DataError(f"a cosine limit of {max_cosine:g}", fix="give a number above 0 and up to 1; 0.9 is usual")
    order = sorted(range(len(candidates)), key=lambda i: (-candidates[i].score, candidates[i].id))
    ranked = [candidates[i] for i in order]
    unit = unit_vectors(vectors[order])
    if target >= len(ranked):
        note = f"{target:,} wanted, and there are {len(ranked):,}: all are taken"
        return Selection([item.id for item in ranked], [], [note] if target > len(ranked) else [])
    seats = _seats(_per_category(ranked), quotas, target)
    choose = _greedy if method == "greedy" else _k_center
    taken, nearest, cosine = choose(ranked, unit, seats, target, max_cosine)
    notes = []
    if unscored := sum(not math.isfinite(item.score) for item in ranked):
        notes.append(f"{unscored:,} of {len(ranked):,} examples have no score and come last")
    if len(taken) < target:
        notes.append(
            f"{len(taken):,} of {target:,}: all others have a cosine of {max_cosine:g} or more to an example taken"
        )
    got = _per_category([ranked[i] for i in taken])
    notes += [
        f"{category!r}: {got.get(category, 0):,} instead of {seat:,}, there are no more that differ enough"
        for category, seat in seats.items()
        if quotas is not None and got.get(category, 0) < seat
    ]
    inside = set(taken)
    entries = [
        _drop(item, ranked[nearest[i]], float(cosine[i]), max_cosine if method == "greedy" else None)
        for i, item in enumerate(ranked)
        if i not in inside
    ]
    return Selection([ranked[i].id for i in taken], sorted(entries, key=lambda entry: entry.record), notes)


def _per_category(items: Sequence[Candidate]) -> dict[str, int]:
    """Candidates of each category, names in order."""
    return dict(sorted(Counter(item.category for item in items).items()))


def _drop(item: Candidate, near: Candidate, cosine: float, limit: float | None) -> Entry:
    """Why a candidate was not taken: too similar to one that was, or others came first."""
    similar = limit is not None and cosine >= limit
    why = "too similar to one that was taken" if similar else "others came first"
    return Entry(
        item.id,
        "drop",
        NOT_SELECTED,
        score=item.score if math.isfinite(item.score) else None,
        counterpart=near.id,
        detail=f"{why}; cosine {cosine:.3f} to the nearest one taken",
    )


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, d) with every row of length 1. A row of zeros, of a text without known words, stays: it is like no other.

    Raises:
        DataError: a number is not finite.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if broken := int((~np.isfinite(lengths)).sum()):
        raise DataError(f"{broken:,} embeddings are not finite", fix="check the folder of embeddings")
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _seats(counts: Mapping[str, int], quotas: Mapping[str, float] | None, target: int) -> dict[str, int]:
    """Places of each category: by largest remainder, none with more places than examples; "" stands for all without
    quotas. Places that a category cannot fill are divided among the others in the same way.
    """
    if quotas is None:
        return {}
    if missing := sorted(counts.keys() - quotas.keys()):
        raise DataError(
            f"no quota for {', '.join(map(repr, missing))}", fix="give every category a share, 0 to leave it out"
        )
    if unknown := sorted(name for name in quotas.keys() - counts.keys() if quotas[name]):
        raise DataError(
            f"a quota for {', '.join(map(repr, unknown))}, of which there are no examples",
            fix=f"categories are {', '.join(map(repr, counts))}",
        )
    if min(quotas.values()) < 0 or sum(quotas.values()) <= 0:
        raise DataError("quotas are negative, or all 0", fix="give shares of 0 or more")
    seats = dict.fromkeys(counts, 0)
    while (free := target - sum(seats.values())) > 0:
        open_ = {name: quotas[name] for name in counts if quotas[name] > 0 and seats[name] < counts[name]}
        if not open_:
            break
        exact = {name: free * weight / sum(open_.values()) for name, weight in open_.items()}
        extra = {name: int(share) for name, share in exact.items()}
        spare = free - sum(extra.values())
        for name in sorted(exact, key=lambda name: (extra[name] - exact[name], name))[:spare]:
            extra[name] += 1
        for name, number in extra.items():
            seats[name] = min(counts[name], seats[name] + number)
    return seats


Chosen = tuple[list[int], NDArray[np.int64], NDArray[np.float32]]  # taken; each one's nearest taken, and the cosine


def _greedy(
    ranked: Sequence[Candidate], unit: NDArray[np.float32], seats: dict[str, int], target: int, limit: float
) -> Chosen:
    """In order of the score; a second round fills what a category left free, from the best of the others."""
    taken: list[int] = []
    room = dict(seats)
    for round_ in range(2 if seats else 1):
        waiting = np.setdiff1d(np.arange(len(ranked)), taken)
        if round_ == 1:  # what is left out by a quota of 0 stays out
            waiting = np.array([i for i in waiting if seats[ranked[i].category] > 0], dtype=np.int64)
        for start in range(0, len(waiting), _BLOCK):
            if len(taken) >= target:
                break
            block = waiting[start : start + _BLOCK]
            against = _nearest(unit[block], unit, taken)[1]
            among = np.round(unit[block] @ unit[block].T, _PLACES)
            fresh: list[int] = []  # places in the block
            for place, i in enumerate(block):
                category = ranked[i].category
                if len(taken) >= target or (round_ == 0 and seats and room[category] == 0):
                    continue
                if against[place] >= limit or (fresh and among[place, fresh].max() >= limit):
                    continue
                taken.append(int(i))
                fresh.append(place)
                if seats:
                    room[category] -= 1
    nearest, cosine = _nearest(unit, unit, taken)
    return taken, nearest, cosine


def _nearest(
    rows: NDArray[np.float32], unit: NDArray[np.float32], taken: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each of (m, d) `rows` the nearest of `taken` (of equally near ones the first taken) and its cosine, -2 for
    none. (m,), (m,)
    """
    nearest = np.zeros(len(rows), np.int64)
    cosine = np.full(len(rows), -2.0, np.float32)
    chosen = np.asarray(taken, np.int64)
    if not len(chosen):
        return nearest, cosine
    for start in range(0, len(rows), _BLOCK):
        similar = np.round(rows[start : start + _BLOCK] @ unit[chosen].T, _PLACES)  # (block, taken)
        best = similar.argmax(axis=1)
        nearest[start : start + _BLOCK] = chosen[best]
        cosine[start : start + _BLOCK] = similar[np.arange(len(best)), best]
    return nearest, cosine


def _k_center(
    ranked: Sequence[Candidate], unit: NDArray[np.float32], seats: dict[str, int], target: int, limit: float
) -> Chosen:
    """The farthest one next, from categories with room; `ranked` is in order of the score, so argmin takes the better
    of equally far ones.
    """
    names = np.array([item.category for item in ranked])
    room = dict(seats)
    allowed = np.ones(len(ranked), bool)
    for name, seat in room.items():
        if seat == 0:
            allowed[names == name] = False
    nearest = np.zeros(len(ranked), np.int64)
    cosine = np.full(len(ranked), -2.0, np.float32)
    taken: list[int] = []
    while len(taken) < target and allowed.any():
        i = int(np.where(allowed, cosine, np.inf).argmin())
        taken.append(i)
        allowed[i] = False
        if seats:
            room[ranked[i].category] -= 1
            if room[ranked[i].category] == 0:
                allowed[names == ranked[i].category] = False
        similar = np.round(unit @ unit[i], _PLACES)
        closer = similar > cosine
        cosine[closer], nearest[closer] = similar[closer], i
    return taken, nearest, cosine
