"""Attention of single tokens to kept keys and values, against the naive attention of whole conversations."""

import pytest
import torch

from helpers_numerics import assert_same, assert_within_budget, randn
from luthier.kernels.attention.cached import attention_to_cache
from luthier.kernels.attention.naive import attention as naive
from luthier.kernels.segments import Segments
from luthier.models.cache import Cache

HEADS, KV_HEADS, SIZE = 6, 2, 8


def conversations(lengths: list[int]) -> tuple[torch.Tensor, ...]:
    """Packed rows of each, and their queries, keys, values and mask laid out as in a cache; what is hidden is huge."""
    rows = [randn(length, (HEADS + 2 * KV_HEADS) * SIZE, seed=length) for length in lengths]
    columns = max(lengths)
    keys, values = (torch.full((len(lengths), KV_HEADS, columns, SIZE), 1e6, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(len(lengths), 1, 1, columns, dtype=torch.float64)
    queries = []
    for i, row in enumerate(rows):
        q, k, v = row.unflatten(1, (-1, SIZE)).split([HEADS, KV_HEADS, KV_HEADS], dim=1)
        queries.append(q[-1])
        keys[i, :, columns - len(row) :], values[i, :, columns - len(row) :] = k.transpose(0, 1), v.transpose(0, 1)
        mask[i, ..., : columns - len(row)] = float("-inf")
    return torch.cat(rows), torch.stack(queries), keys, values, mask


def last_rows(rows: torch.Tensor, lengths: list[int], window: int | None) -> torch.Tensor:
    segments = Segments.of(lengths)
    return naive(rows, segments, HEADS, KV_HEADS, window)[[end - 1 for _, end in segments.spans]]


@pytest.mark.parametrize("window", [None, 1, 3, 9, 50])
@pytest.mark.parametrize("lengths", [[9], [5, 5], [1, 9, 4], [17, 1]])
def test_it_is_the_last_row_of_attention(lengths: list[int], window: int | None) -> None:
    rows, q, keys, values, mask = conversations(lengths)
    mask_or_none = mask if len(set(lengths)) > 1 else None
    made = attention_to_cache(q, keys, values, mask_or_none, window)
    assert_same(made, last_rows(rows, lengths, window), tolerance=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_within_budget_in_other_dtypes(dtype: torch.dtype) -> None:
    lengths = [40, 7, 23]
    rows, q, keys, values, mask = conversations(lengths)
    rows = rows.to(dtype)
    made = attention_to_cache(*(part.to(dtype) for part in (q, keys, values, mask)))
    truth, plain = last_rows(rows.double(), lengths, None), last_rows(rows, lengths, None)
    assert_within_budget(made, plain, truth, margin=1e-6 if dtype == torch.float32 else 4e-3, what=str(dtype))


def test_a_broken_conversation_stays_by_itself() -> None:
    """What fills up a short prompt is its own: no weight of 0 meets another's NaN."""
    segments = Segments.of([5, 3])
    cache = Cache(segments, [0, 1], 10, torch.empty(0))
    keys = randn(8, KV_HEADS, SIZE, dtype=torch.float32)
    keys[:5] = float("nan")
    cache.fill(0, keys, keys)
    cache.advance()
    assert cache.filled and cache.positions == [5, 3]
    newest = randn(2, KV_HEADS, SIZE, dtype=torch.float32)
    kept, values, mask = cache.add(0, newest, newest)
    made = attention_to_cache(randn(2, HEADS, SIZE, dtype=torch.float32), kept, values, mask)
    assert made[0].isnan().all() and made[1].isfinite().all()


def test_columns_that_nobody_needs_are_not_read() -> None:
    cache = Cache(Segments.of([9, 4, 4]), [0, 1, 2], 20, torch.empty(0))
    cache.fill(0, *(randn(17, KV_HEADS, SIZE, dtype=torch.float32) for _ in range(2)))
    cache.advance()
    cache.leave(0)
    newest = randn(2, KV_HEADS, SIZE, dtype=torch.float32)
    keys, _, mask = cache.add(0, newest, newest)
    assert keys.shape == (2, KV_HEADS, 5, SIZE) and mask is None, "both begin alike now"
    assert torch.equal(keys[:, :, -1], newest)
