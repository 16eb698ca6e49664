"""RoPE, in place on packed heads, and the norm of heads in front of it: derivatives, what stays, the Triton kernels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_kernels import DTYPES, PLACES, Buffers, Op, compare, kernel, prove_kernel
from helpers_numerics import randn
from luthier.kernels.rope import norm_rope, rope
from luthier.kernels.rope.naive import norm_rope as norm_rope_naive
from luthier.kernels.rope.naive import rope as rope_naive
from luthier.kernels.segments import Segments

EPS = 1e-5
# (H, G, K, R): query heads, key heads, head size, how much of it turns.
SHAPES = [(6, 2, 8, 8), (1, 1, 2, 2), (5, 1, 6, 6), (12, 3, 16, 16), (3, 3, 12, 8), (4, 2, 10, 2), (9, 3, 6, 0)]
shapes = st.sampled_from(SHAPES)


def angles(tokens: int, turned: int) -> tuple[Tensor, Tensor]:
    """(T, R/2) each, in float32 as the decoder makes them."""
    angle = randn(tokens, turned // 2, seed=3)
    return angle.cos().float(), angle.sin().float()


def packed_naive(x: Tensor, cos: Tensor, sin: Tensor, heads: int, size: int) -> Tensor:
    """The naive form on packed rows."""
    parts = x.unflatten(1, (x.shape[1] // size, size))
    return torch.cat([rope_naive(parts[:, :heads], cos, sin), parts[:, heads:]], 1).flatten(1)


@settings(max_examples=25, deadline=None)
@given(tokens=st.sampled_from([1, 2, 7, 31]), shape=shapes)
def test_rope_turns_only_the_first_heads(tokens: int, shape: tuple[int, int, int, int]) -> None:
    (h, g, k, _), (cos, sin) = shape, angles(tokens, shape[3])

    def ours(x: Tensor) -> Tensor:
        return rope(x * 1, cos.to(x), sin.to(x), h + g, k)  # in place, so on a copy

    compare(ours, lambda x: packed_naive(x, cos.to(x), sin.to(x), h + g, k), [randn(tokens, (h + 2 * g) * k)])


def test_rope_is_in_place_and_its_backward_is_not() -> None:
    cos, sin = angles(4, 8)
    leaf = randn(4, 3 * 8, dtype=torch.float32, grad=True)
    x = leaf * 1
    out = rope(x, cos, sin, 2)
    assert out is x  # autograd knows that it was turned
    dy = randn(4, 3 * 8, seed=9, dtype=torch.float32)
    before = dy.clone()
    out.backward(dy)
    assert torch.equal(dy, before)
    used = leaf * 1
    square = used * used  # keeps its input, which is then turned
    rope(used, cos, sin, 2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.sum().backward()
    with pytest.raises(AssertionError):
        rope(randn(4, 48, dtype=torch.float32)[:, ::2], cos, sin, 2)


def test_a_turn_back_undoes_a_turn() -> None:
    cos, sin = angles(5, 8)
    x = randn(5, 24, dtype=torch.float32)
    there = rope(x.clone(), cos, sin, 3)
    assert not torch.allclose(there, x)
    torch.testing.assert_close(rope(there.clone(), cos, -sin, 3), x, rtol=1e-5, atol=1e-6)


def test_no_tokens() -> None:
    cos, sin = angles(0, 8)
    assert rope(randn(0, 32), cos.double(), sin.double(), 3).shape == (0, 32)
    assert norm_rope(randn(0, 32), cos, sin, 2, 1, randn(8), randn(8), EPS).shape == (0, 32)


def with_norms(f: Op, shape: tuple[int, int, int, int], tokens: int, plus_one: bool) -> Op:
    """An op as a function of qkv alone."""
    (h, g, k, _), (cos, sin) = shape, angles(tokens, shape[3])
    q_norm, k_norm = randn(k, seed=4), randn(k, seed=5)
    return lambda x: f(x, cos.to(x), sin.to(x), h, g, q_norm.to(x), k_norm.to(x), EPS, plus_one=plus_one)


@settings(max_examples=25, deadline=None)
@given(tokens=st.sampled_from([1, 2, 7, 31]), shape=shapes, plus_one=st.booleans())
def test_normed_heads_are_the_naive_form(tokens: int, shape: tuple[int, int, int, int], plus_one: bool) -> None:
    h, g, k, _ = shape
    compare(
        with_norms(norm_rope, shape, tokens, plus_one), with_norms(norm_rope_naive, shape, tokens, plus_one),
        [randn(tokens, (h + 2 * g) * k)],
    )  # fmt: skip


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[4], SHAPES[6]])
@pytest.mark.parametrize("plus_one", [False, True])
def test_gradcheck(shape: tuple[int, int, int, int], plus_one: bool) -> None:
    (h, g, k, _), (cos, sin) = shape, angles(2, shape[3])
    x = randn(2, (h + 2 * g) * k, grad=True)
    assert torch.autograd.gradcheck(with_norms(norm_rope, shape, 2, plus_one), (x,))
    assert torch.autograd.gradcheck(lambda x: rope(x * 1, cos.double(), sin.double(), h + g, k), (x,))


def test_normed_heads_leave_their_input_and_take_strided_ones() -> None:
    f = with_norms(norm_rope, (2, 1, 8, 8), 3, False)
    wide = randn(3, 64, dtype=torch.float32)
    for x in (wide[:, :32], wide[:, ::2]):
        before = x.clone()
        assert torch.equal(f(x), f(x.contiguous())) and torch.equal(x, before)


def test_positions_restart_in_each_segment() -> None:
    """A segment alone and the same one behind another are turned alike."""
    x, frequency = randn(3, 16, dtype=torch.float32), randn(4, seed=2, dtype=torch.float32)

    def turned(segments: Segments, x: Tensor) -> Tensor:
        angle = segments.positions.unsqueeze(1) * frequency
        return rope(x.clone(), angle.cos(), angle.sin(), 1, 8)

    together = turned(Segments.of([1, 3]), torch.cat([randn(1, 16, dtype=torch.float32, seed=8), x]))
    assert torch.equal(together[1:], turned(Segments.of([3]), x))


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(0, 2), shape=shapes, dtype=st.sampled_from(DTYPES))
def test_the_kernel(place: str, tokens: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Forward in place, backward into a new tensor, each beside canaries."""
    (h, g, k, _), (cos, sin) = shape, (t.to(place) for t in angles(tokens, shape[3]))
    triton = kernel("rope")

    def launch(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        x = buffers.copy(inputs[0])
        triton.turn(x, x, cos, sin, h + g, k, back=False)
        dx = buffers.empty_like(dys[0])
        triton.turn(dys[0], dx, cos, sin, h + g, k, back=True)
        return [x, dx]

    def truth(x: Tensor) -> Tensor:
        return packed_naive(x, cos.to(x), sin.to(x), h + g, k)

    width = (h + 2 * g) * k
    prove_kernel(
        triton, launch, truth, [randn(tokens, width)], [randn(tokens, width, seed=9)], place=place, dtype=dtype
    )


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=9, deadline=None)
@given(tokens=st.integers(0, 2), shape=shapes, plus_one=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_the_kernel_with_norms(
    place: str, tokens: int, shape: tuple[int, int, int, int], plus_one: bool, dtype: torch.dtype
) -> None:
    (h, g, k, _), (cos, sin) = shape, (t.to(place) for t in angles(tokens, shape[3]))
    q_norm, k_norm = (randn(k, seed=seed).to(dtype).double().to(place) for seed in (4, 5))
    triton = kernel("rope")

    def launch(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        given = cos, sin, q_norm.to(x), k_norm.to(x)
        out, rstd = triton.norm_turn(x, *given, (h, g), EPS, plus_one)
        return [out, triton.norm_turn_backward(dys[0], x, rstd, *given, (h, g), plus_one)]

    def truth(x: Tensor) -> Tensor:
        return norm_rope_naive(x, cos.to(x), sin.to(x), h, g, q_norm.to(x), k_norm.to(x), EPS, plus_one=plus_one)

    width = (h + 2 * g) * k
    prove_kernel(
        triton, launch, truth, [randn(tokens, width)], [randn(tokens, width, seed=9)], place=place, dtype=dtype
    )
