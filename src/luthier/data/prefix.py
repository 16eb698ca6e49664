"""Rows that begin alike: what they have in common is computed once and shared.

Templates put the same system prompt in front of every conversation, the answers of one conversation become rows with
the same history, and the two sides of a preference pair have the same prompt. A token's hidden state depends on the
tokens before it only, so a common beginning may stand in the stream once, as the parent of its continuations, with the
same result and the same gradient.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MIN_SHARED = 8  # tokens; below this the extra segment costs more than it saves

Share = tuple[list[int], int]  # indices of the rows that share, tokens they share (0 for a row by itself)


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens that (n,) `a` and (m,) `b` have in common at their beginning."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def shared_prefixes(ids: Sequence[np.ndarray]) -> list[Share]:
    """Divide rows into groups with a common beginning; every row is in one group, and keeps a token of its own.

    In sorted order the rows that begin alike are neighbours. Of all ways to cut the sorted rows into runs, the one that
    saves most tokens is found by going from the front: the best up to row j is the best up to some row i, and i … j as
    one group.
    """
    order = sorted(range(len(ids)), key=lambda index: ids[index].tolist())
    common = [min(common_length(ids[a], ids[b]), len(ids[a]) - 1, len(ids[b]) - 1) for a, b in pairwise(order)]
    common_before = np.array([0, *(length if length >= MIN_SHARED else 0 for length in common)])
    best = np.zeros(len(order) + 1, np.int64)  # tokens saved in the first n rows
    begins = np.zeros(len(order) + 1, np.int64)  # where the last group of these begins
    for n in range(1, len(order) + 1):
        shared = np.minimum.accumulate(common_before[1:n][::-1])[::-1]  # by rows i … n − 1 as one group, i < n − 1
        saved = best[:n].copy()
        saved[: n - 1] += shared * np.arange(n - 1, 0, -1)
        begins[n] = n - 1 - int(saved[::-1].argmax())  # of equals the shortest group
        best[n] = saved[begins[n]]
    shares: list[Share] = []
    n = len(order)
    while n:
        members = order[begins[n] : n]
        shared = common_before[begins[n] + 1 : n]
        shares.append((members, int(shared.min()) if len(members) > 1 else 0))
        n = int(begins[n])
    return shares[::-1]
