"""Spherical k-means: vectors to k clusters by cosine, the same result every time."""

import numpy as np
from numpy.typing import NDArray

from luthier.curate.select import unit_vectors

ROUNDS = 50
_PLACES = 5  # decimals of a cosine that count: the rest depends on how a machine adds
_ROWS = 8192


def k_means(vectors: NDArray[np.float32], k: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Cluster of each vector, 0 … k − 1; every cluster has at least one.

    Lloyd's rounds on unit vectors (I. S. Dhillon and D. S. Modha, "Concept decompositions for large sparse text data
    using clustering", 2001), started by k-means++ (D. Arthur and S. Vassilvitskii, 2007). A cluster that runs empty is
    given the vector farthest from its centre.

    Args:
        vectors: (n, d), in an order that does not depend on chance: the result depends on it.
        k: 1 ≤ k ≤ n.
    """
    n = len(vectors)
    assert 1 <= k <= n, (k, n)
    unit = unit_vectors(vectors)  # (n, d)
    centres = unit[_start(unit, k, np.random.default_rng(seed))]  # (k, d)
    member = np.full(n, -1, np.int64)
    for _ in range(ROUNDS):
        nearest, cosine = _assign(unit, centres)
        for empty in np.setdiff1d(np.arange(k), nearest):
            alone = np.bincount(nearest, minlength=k)[nearest] == 1  # taking these would empty another
            far = int(np.where(alone, np.inf, cosine).argmin())
            nearest[far], cosine[far] = empty, 1.0
        if (nearest == member).all():
            break
        member = nearest
        by_cluster = np.argsort(member, kind="stable")
        starts = np.searchsorted(member[by_cluster], np.arange(k))
        sums = np.add.reduceat(unit[by_cluster].astype(np.float64), starts)  # (k, d)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-30), centres).astype(np.float32)
    return member


def _start(unit: NDArray[np.float32], k: int, draw: np.random.Generator) -> list[int]:
    """k-means++: each further start is drawn in proportion to its squared distance to the nearest one so far."""
    chosen = [int(draw.integers(len(unit)))]
    away = np.full(len(unit), np.inf)
    while len(chosen) < k:
        cosine = np.round((unit @ unit[chosen[-1]]).astype(np.float64), _PLACES)
        away = np.minimum(away, np.maximum(0.0, 1 - cosine))  # of unit vectors, half the squared distance
        away[chosen] = 0.0
        if away.sum() > 0:
            sums = np.cumsum(away)
            place = int(np.searchsorted(sums, draw.random() * sums[-1], side="right"))
            chosen.append(min(place, len(unit) - 1))
        else:  # all that is left equals a start
            chosen.append(int(np.setdiff1d(np.arange(len(unit)), chosen)[0]))
    return chosen


def _assign(unit: NDArray[np.float32], centres: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Nearest centre of each vector, the first of equally near ones, and its cosine. (n,), (n,)"""
    nearest, cosine = np.empty(len(unit), np.int64), np.empty(len(unit), np.float32)
    for start in range(0, len(unit), _ROWS):
        similar = np.round(unit[start : start + _ROWS] @ centres.T, _PLACES)
        best = similar.argmax(axis=1)
        nearest[start : start + _ROWS] = best
        cosine[start : start + _ROWS] = similar[np.arange(len(best)), best]
    return nearest, cosine
