"""Groups of duplicates: made only of pairs that were compared, around the one member that is kept.

A chain of likenesses is not a likeness: where A is like B and B like C, A and C may be strangers, and a group that is
closed over such chains can swallow a dataset. So connected members are only a first guess, and in the end every member
is compared with the one that stays for it (a star).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from luthier.curate.example import Example

FLAGGED = 1 << 40  # in the rank of an example that is marked for review
ROUNDS = 64  # stars made of one connected component; what is left after them stays in the dataset


def rank(examples: Sequence[Example]) -> np.ndarray:
    """What makes an example one to keep rather than another, the smaller the better, int64 (n,).

    One that has its side before one that has none yet (it was in the dataset first), one that is not marked for review
    before one that is, and then the longer answer before the shorter.
    """
    values = [
        (not example.side) << 41 | bool(example.flags) * FLAGGED | FLAGGED - 1 - min(len(example.answer), FLAGGED - 1)
        for example in examples
    ]
    return np.array(values, np.int64)


def preference_order(ranking: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Position of each example in the order in which one is kept rather than another: by `rank`, then by id.

    Args:
        ranking: int64 (n,).
        ids: bytes (n,).

    Returns:
        int64 (n,): 0 is the best of all.
    """
    order = np.lexsort((ids, ranking))
    position = np.empty(len(ids), np.int64)
    position[order] = np.arange(len(ids))
    return position


def repeated(values: np.ndarray) -> np.ndarray:
    """Which of the values (n,) are there more than once, bool (n,)."""
    ordered = np.sort(values)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(again):
        return np.zeros(len(values), bool)
    return again[np.minimum(np.searchsorted(again, values), len(again) - 1)] == values


class Components:
    """Union-find over rows 0 … n-1. The root of a component is its smallest row, so it depends on no order."""

    def __init__(self, rows: int) -> None:
        self.parent = np.arange(rows, dtype=np.uint32 if rows < 2**32 else np.uint64)

    def copy(self) -> "Components":
        """The components as they are now, to go on with apart."""
        made = Components(0)
        made.parent = self.parent.copy()
        return made

    def find(self, row: int) -> int:
        """The root of a row's component."""
        parent = self.parent
        while (above := parent[row]) != row:
            parent[row] = parent[above]  # halving the path keeps it short
            row = int(parent[row])
        return int(row)

    def join(self, one: int, other: int) -> None:
        """Make one component of two rows'."""
        low, high = sorted((self.find(one), self.find(other)))
        self.parent[high] = low

    def roots(self, rows: np.ndarray) -> np.ndarray:
        """The root of every row of an array."""
        while True:
            above = self.parent[rows]
            if np.array_equal(above, rows):
                return above
            rows = above

    def groups(self) -> Iterator[np.ndarray]:
        """Components of two rows and more, by their smallest row; rows rising."""
        roots = self.roots(np.arange(len(self.parent), dtype=self.parent.dtype))
        inside = np.flatnonzero(np.bincount(roots, minlength=len(roots))[roots] > 1)
        inside = inside[np.argsort(roots[inside], kind="stable")]
        cuts = np.flatnonzero(np.diff(roots[inside])) + 1
        yield from (part for part in np.split(inside, cuts) if len(part))


def stars(
    members: Sequence[int], position: np.ndarray, compare: Callable[[int, int], float | None]
) -> tuple[list[tuple[int, int, float]], int]:
    """Split a connected component into stars: the best member, and those that are like it.

    Those that are not like it are tried again among themselves, for at most `ROUNDS` stars.

    Args:
        members: rows.
        position: see `preference_order`, of all rows.
        compare: the likeness of two rows, or None where they are no duplicates.

    Returns:
        (member, the one kept for it, likeness) of every duplicate; the number of members that no star was tried for.
    """
    found = []
    left = sorted(members, key=lambda row: position[row])
    for _ in range(ROUNDS):
        if len(left) < 2:
            return found, 0
        kept, others = left[0], []
        for row in left[1:]:
            likeness = compare(kept, row)
            if likeness is None:
                others.append(row)
            else:
                found.append((row, kept, likeness))
        left = others
    return found, len(left)
