"""RMSNorm and the residual sum in front of it: derivatives, roundings, and the Triton kernel."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from helpers_kernels import DTYPES, PLACES, Buffers, Op, compare, kernel, prove_kernel
from helpers_numerics import randn
from luthier.kernels.rms_norm import add_rms_norm, rms_norm
from luthier.kernels.rms_norm.naive import add_rms_norm as add_naive
from luthier.kernels.rms_norm.naive import rms_norm as naive

EPS = 1e-5
SIZES = st.sampled_from([1, 2, 5, 16, 31, 64, 123])


def both(f: Callable[..., tuple[Tensor, Tensor]], weight: Tensor, plus_one: bool) -> Op:
    """An op of two results as one of a single tensor, for `compare`."""
    return lambda x, delta: torch.cat(f(x, delta, weight.to(x.dtype), EPS, plus_one=plus_one))


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 9), size=SIZES.filter(lambda size: size > 1), plus_one=st.booleans())
def test_the_op_is_the_naive_form(rows: int, size: int, plus_one: bool) -> None:
    weight, x, delta = randn(size, seed=1), randn(rows, size), randn(rows, size, seed=2)
    if rows:
        compare(
            lambda x: rms_norm(x, weight.to(x.dtype), EPS, plus_one=plus_one),
            lambda x: naive(x, weight.to(x.dtype), EPS, plus_one=plus_one),
            [x],
        )
        compare(both(add_rms_norm, weight, plus_one), both(add_naive, weight, plus_one), [x, delta])
    else:
        total, normed = add_rms_norm(x, delta, weight, EPS)
        assert rms_norm(x, weight, EPS).shape == total.shape == normed.shape == (0, size)


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("size", [1, 5])
def test_gradcheck(size: int, plus_one: bool) -> None:
    weight, x, delta = randn(size, seed=1), randn(3, size, grad=True), randn(3, size, seed=2, grad=True)
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, weight, EPS, plus_one=plus_one), (x,))
    assert torch.autograd.gradcheck(lambda x, d: add_rms_norm(x, d, weight, EPS, plus_one=plus_one), (x, delta))


@pytest.mark.parametrize("which", [0, 1])
def test_either_result_alone_has_a_gradient(which: int) -> None:
    """The sum without the norm (the last layer's), and the norm without the sum."""
    weight = randn(7, seed=1)
    grads = []
    for f in (add_rms_norm, add_naive):
        x, delta = randn(4, 7, grad=True), randn(4, 7, seed=2, grad=True)
        f(x, delta, weight, EPS)[which].backward(randn(4, 7, seed=3))
        grads.append((x.grad, delta.grad))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)


def test_the_gradients_of_stream_and_block_do_not_share_memory_that_is_written() -> None:
    x, delta, weight = randn(4, 7, grad=True), randn(4, 7, seed=2, grad=True), randn(7, seed=1)
    for _ in range(2):  # gradients add up in place
        total, normed = add_rms_norm(x, delta, weight, EPS)
        (total.sum() + normed.sum()).backward()
    once = x.grad.clone() / 2
    x.grad.zero_()
    torch.testing.assert_close(delta.grad / 2, once)


@pytest.mark.parametrize(("theirs", "plus_one"), [(LlamaRMSNorm, False), (Gemma3RMSNorm, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_roundings_are_those_of_transformers(theirs: type, plus_one: bool, dtype: torch.dtype) -> None:
    norm = theirs(64, eps=EPS).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(randn(64, seed=1))
    x = (randn(50, 64) * 3).to(dtype)
    made = rms_norm(x, norm.weight.detach(), EPS, plus_one=plus_one)
    if dtype == torch.bfloat16:  # in float32 the sum may be taken in another order
        assert (made != norm(x)).float().mean() < 0.01
    torch.testing.assert_close(made, norm(x), rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)
    torch.testing.assert_close(naive(x, norm.weight.detach(), EPS, plus_one=plus_one), norm(x), rtol=0, atol=0)


def test_the_input_is_left_alone_and_may_be_strided() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        wide, weight = randn(6, 20, dtype=dtype), randn(10, seed=1, dtype=dtype)
        for x in (wide[:, :10], wide[:, ::2], wide[::2, :10]):
            before = x.clone()
            assert torch.equal(rms_norm(x, weight, EPS), rms_norm(x.contiguous(), weight, EPS))
            assert torch.equal(x, before)


def launch(
    weight: Tensor, plus_one: bool, *, add: bool
) -> Callable[[Buffers, list[Tensor], list[Tensor]], list[Tensor]]:
    """The kernel's forward and backward, as `prove_kernel` calls them."""
    triton = kernel("rms_norm")

    def run(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        x, w = inputs[0], weight.to(inputs[0])
        if add:
            total, normed, rstd = triton.forward(x, inputs[1], w, EPS, plus_one)
            dx = triton.backward(dys[1], dys[0], total, w, rstd, plus_one)
            return [total, normed, dx, dx]
        _, normed, rstd = triton.forward(x, None, w, EPS, plus_one)
        return [normed, triton.backward(dys[0], None, x, w, rstd, plus_one)]

    return run


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 3), size=SIZES, plus_one=st.booleans(), add=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_the_kernel(place: str, rows: int, size: int, plus_one: bool, add: bool, dtype: torch.dtype) -> None:
    weight = randn(size, seed=1).to(dtype).double()

    def truth(x: Tensor, delta: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        w = weight.to(x)
        return naive(x, w, EPS, plus_one=plus_one) if delta is None else add_naive(x, delta, w, EPS, plus_one=plus_one)

    inputs = [randn(rows, size), randn(rows, size, seed=2)][: 1 + add]
    dys = [randn(rows, size, seed=3), randn(rows, size, seed=4)][: 1 + add]
    prove_kernel(kernel("rms_norm"), launch(weight, plus_one, add=add), truth, inputs, dys, place=place, dtype=dtype)
