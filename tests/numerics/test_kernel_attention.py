"""Attention: capped scores, awkward cuts of the stream, what is handed to the kernels of CUDA, and the cache."""

import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_kernels import compare
from helpers_numerics import assert_same, assert_within_budget, randn
from luthier.kernels.attention import attention, op
from luthier.kernels.attention.cached import attention_to_cache
from luthier.kernels.attention.naive import attention as naive
from luthier.kernels.segments import Segments

SIZE = 8
RATIOS = [(4, 4), (6, 2), (5, 1), (1, 1)]


@st.composite
def streams(draw: st.DrawFn) -> Segments:
    """Short and one-token segments, some of which continue an earlier one."""
    lengths = draw(st.lists(st.sampled_from([1, 1, 2, 3, 7, 16, 17, 31]), min_size=1, max_size=6))
    parents: list[int | None] = []
    for index in range(len(lengths)):
        roots = [None, *(i for i in range(index) if parents[i] is None)]
        parents.append(draw(st.sampled_from(roots)))
    return Segments.of(lengths, parents=parents)


@settings(max_examples=25, deadline=None)
@given(
    segments=streams(), heads=st.sampled_from(RATIOS), window=st.sampled_from([None, 1, 3, 20]),
    softcap=st.sampled_from([None, 2.0, 50.0]),
)  # fmt: skip
def test_the_op_is_the_naive_form(
    segments: Segments, heads: tuple[int, int], window: int | None, softcap: float | None
) -> None:
    h, g = heads
    compare(
        lambda x: attention(x, segments, h, g, window, softcap=softcap),
        lambda x: naive(x, segments, h, g, window, softcap=softcap),
        [randn(segments.starts[-1], (h + 2 * g) * SIZE)],
    )


@pytest.mark.parametrize(("lengths", "parents"), [([300, 2], None), ([20, 600, 3], [None, 0, 0])])
@pytest.mark.parametrize("window", [None, 290])
def test_capped_scores_of_long_segments(
    lengths: list[int], parents: list[int | None] | None, window: int | None
) -> None:
    segments = Segments.of(lengths, parents=parents)
    compare(
        lambda x: attention(x, segments, 2, 1, window, softcap=3.0),
        lambda x: naive(x, segments, 2, 1, window, softcap=3.0),
        [randn(sum(lengths), 4 * SIZE)],
    )


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradcheck(softcap: float | None) -> None:
    segments, x = Segments.of([1, 4, 2], parents=[None, None, 1]), randn(7, 4 * 4, grad=True)
    assert torch.autograd.gradcheck(lambda x: attention(x, segments, 2, 1, softcap=softcap), (x,))


def test_strided_rows_are_taken_and_the_same_bits_come_twice() -> None:
    segments, wide = Segments.of([5, 1, 9]), randn(15, 2 * 4 * SIZE, dtype=torch.bfloat16)
    x = wide[:, ::2]
    made = [attention(x, segments, 2, 1, softcap=5.0), attention(x, segments, 2, 1, softcap=5.0)]
    assert torch.equal(*made) and torch.equal(made[0], attention(x.contiguous(), segments, 2, 1, softcap=5.0))


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_every_number_is_written(softcap: float | None) -> None:
    segments, x = Segments.of([3, 1, 20, 300], parents=[None, 0, None, None]), randn(330, 4 * SIZE, grad=True)
    torch.use_deterministic_algorithms(True)  # fills what is not written with NaN
    try:
        out = attention(x, segments, 2, 1, softcap=softcap)
        out.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert not out[324:].any() and not x.grad[324:].any()  # rows of no segment


def flash_by_the_book(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
    window_size: tuple[int, int], softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """What the documentation of torch's and flash-attn's variable-length kernels says they compute."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    parts, (left, right) = [], window_size
    assert max_q == cu_q.diff().max() and max_k == cu_k.diff().max() and right == 0
    for i in range(len(cu_q) - 1):
        mine, seen = slice(int(cu_q[i]), int(cu_q[i + 1])), slice(int(cu_k[i]), int(cu_k[i + 1]))
        scores = torch.einsum("qhk,shk->hqs", q[mine], k[seen]) * q.shape[-1] ** -0.5
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        length, keys = scores.shape[1:]
        place = torch.arange(length).unsqueeze(1) + keys - length  # the last query is at the last key
        key = torch.arange(keys)
        hidden = (key > place) | ((key < place - left) if left >= 0 else torch.tensor(False))
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        parts.append(torch.einsum("hqs,shk->qhk", weights, v[seen]))
    return torch.cat(parts)


def grouped(q: Tensor, *args: object, enable_gqa: bool, **kwargs: object) -> Tensor:
    """A kernel that expands key heads itself, when told to."""
    assert enable_gqa
    return flash_by_the_book(q, *args, **kwargs)


def equal_heads(q: Tensor, k: Tensor, *args: object, **kwargs: object) -> Tensor:
    """A kernel of before that could be told."""
    assert k.shape[1] == q.shape[1]
    return flash_by_the_book(q, k, *args, **kwargs)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("kernel", [grouped, equal_heads])
@pytest.mark.parametrize("window", [None, 1, 6])
@pytest.mark.parametrize(("lengths", "parents"), [([1], None), ([5, 1, 9], None), ([7, 4, 12, 1], [None, 0, 0, None])])
def test_what_the_cuda_kernels_are_handed(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, kernel: object, window: int | None, lengths: list[int],
    parents: list[int | None] | None,
) -> None:  # fmt: skip
    """Those kernels never run here. That they are called as documented is shown on stand-ins."""

    def installed(q: Tensor, *args: object, causal: bool, **kwargs: object) -> Tensor:
        assert causal
        return flash_by_the_book(q, *args, **kwargs)

    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = installed
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    segments = Segments.of(lengths, parents=parents)
    leaf, other = (randn(sum(lengths), 8 * SIZE).requires_grad_() for _ in range(2))
    out = op._varlen(leaf, segments, 4, 2, window, softcap)
    truth = naive(other, segments, 4, 2, window, softcap=softcap)
    assert_same(out, truth, tolerance=1e-12)
    dy = randn(*out.shape, seed=4)
    out.backward(dy)
    truth.backward(dy)
    assert_same(leaf.grad, other.grad, tolerance=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [16, 20, 256])
def test_capped_scores_on_a_gpu(dtype: torch.dtype, size: int) -> None:
    """Whichever way is taken: flash-attn where it is installed, products where not, or where heads are of odd size."""
    lengths, parents = [3, 1, 70, 300, 9], [None, None, None, None, 2]
    segments, here = Segments.of(lengths, "cuda", parents=parents), Segments.of(lengths, parents=parents)
    x, dy, made = randn(sum(lengths), 4 * size), randn(sum(lengths), 2 * size, seed=2), []
    for f, cut, place, kind in (
        (naive, here, "cpu", torch.float64), (naive, segments, "cuda", dtype), (attention, segments, "cuda", dtype)
    ):  # fmt: skip
        leaf = x.to(place, kind).requires_grad_()
        out = f(leaf, cut, 2, 1, 40, softcap=5.0)
        out.backward(dy.to(place, kind))
        made.append((out.detach().cpu(), leaf.grad.cpu()))
    for true, plain, ours in zip(*made, strict=True):
        assert_within_budget(ours, plain, true, margin=1e-2 if dtype.itemsize == 2 else 1e-5)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 2, 50])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_attention_to_a_cache_is_the_last_row_of_attention(
    dtype: torch.dtype, window: int | None, softcap: float | None
) -> None:
    """Of two conversations that end at the same column; the shorter one has a mask in front."""
    rows = [randn(9, 10 * SIZE, seed=1), randn(5, 10 * SIZE, seed=2)]
    whole = [naive(x, Segments.of([len(x)]), 6, 2, window, softcap=softcap)[-1] for x in rows]
    rows[1] = torch.cat([torch.full((4, 10 * SIZE), 7.0, dtype=torch.float64), rows[1]])
    q, k, v = torch.stack(rows).to(dtype).unflatten(2, (10, SIZE)).split([6, 2, 2], dim=2)  # (N, L, heads, K)
    mask = torch.zeros(2, 1, 1, 9, dtype=dtype)
    mask[1, ..., :4] = float("-inf")
    made = attention_to_cache(q[:, -1], k.transpose(1, 2), v.transpose(1, 2), mask, window, softcap=softcap)
    assert made.dtype == dtype
    assert_same(made, torch.stack(whole), tolerance=1e-12 if dtype == torch.float64 else 2e-2)
