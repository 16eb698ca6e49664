"""Which columns belong to which adapter of a merged linear."""

from collections.abc import Iterator, Sequence

from torch import Tensor


def slices_of(bs: Sequence[Tensor], starts: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Of each pair with B (Nᵢ, R): its columns in y, its columns in u = x Aᵀ (which are its rows in A)."""
    for i, (b, start) in enumerate(zip(bs, starts, strict=True)):
        width, rank = b.shape
        yield slice(start, start + width), slice(i * rank, (i + 1) * rank)
