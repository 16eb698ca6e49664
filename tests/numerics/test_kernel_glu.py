"""SwiGLU and GeGLU: derivatives, the backward that writes over its input, the Triton kernel."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_kernels import DTYPES, PLACES, Buffers, compare, kernel, prove_kernel
from helpers_numerics import randn
from luthier.kernels.glu import geglu, swiglu
from luthier.kernels.glu.naive import geglu as geglu_naive
from luthier.kernels.glu.naive import swiglu as swiglu_naive

OPS = {
    "silu": (swiglu, swiglu_naive),
    "gelu_tanh": (partial(geglu, approximate=True), partial(geglu_naive, approximate=True)),
    "gelu": (partial(geglu, approximate=False), partial(geglu_naive, approximate=False)),
}
names = st.sampled_from(list(OPS))


@settings(max_examples=25, deadline=None)
@given(rows=st.sampled_from([1, 2, 17]), size=st.sampled_from([1, 3, 8, 61, 123]), name=names)
def test_the_op_is_the_naive_form(rows: int, size: int, name: str) -> None:
    compare(*OPS[name], [randn(rows, 2 * size) * 3])


@pytest.mark.parametrize("name", list(OPS))
def test_gradcheck(name: str) -> None:
    """By central differences, one backward a graph: a second one is refused."""
    op, _ = OPS[name]
    x, dy, step = randn(2, 6) * 2, randn(2, 3, seed=1), 1e-6
    leaf = x.clone().requires_grad_()
    op(leaf * 1).backward(dy)
    for index in range(x.numel()):
        offset = torch.zeros(x.numel(), dtype=x.dtype)
        offset[index] = step
        offset = offset.view_as(x)
        slope = ((op(x + offset) - op(x - offset)) * dy).sum() / (2 * step)
        assert leaf.grad.flatten()[index].item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", list(OPS))
def test_the_gradient_takes_the_place_of_the_input(name: str) -> None:
    op, _ = OPS[name]
    leaf = randn(3, 8, grad=True)
    packed = leaf * 1
    before = packed.detach().clone()
    h = op(packed)
    assert torch.equal(packed, before)
    packed.register_hook(lambda grad: made.append(grad.data_ptr()))
    made: list[int] = []
    h.sum().backward(retain_graph=True)
    assert made == [packed.data_ptr()]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@pytest.mark.parametrize("name", list(OPS))
def test_strided_inputs_and_no_rows(name: str) -> None:
    op, naive = OPS[name]
    wide = randn(3, 16)
    for x in (wide[:, :8], wide[:, ::2], wide[::2]):
        x, before, dy = x.requires_grad_(), x.detach().clone(), randn(len(x), x.shape[1] // 2, seed=4)
        y = op(x)
        assert torch.equal(y, naive(before))
        (grad,) = torch.autograd.grad(y, x, dy)
        other = before.clone().requires_grad_()
        (expected,) = torch.autograd.grad(naive(other), other, dy)
        torch.testing.assert_close(grad, expected)
        wide = randn(3, 16)
    assert op(randn(0, 8)).shape == (0, 4)


@pytest.mark.parametrize("name", list(OPS))
def test_values_far_out(name: str) -> None:
    """Nothing overflows, and what is 0 there is 0."""
    x = torch.tensor([[-1e4, 1e4, -60.0, 60.0, 1, 1, 1, 1]], requires_grad=True)
    h = OPS[name][0](x * 1)
    h.sum().backward()
    assert h.isfinite().all() and x.grad.isfinite().all()
    assert h[0, 0].abs() < 1e-6 and h[0, 1] == 1e4


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 2), size=st.sampled_from([1, 3, 16, 123, 1031]), spread=st.sampled_from([1.0, 30.0]),
    name=names, dtype=st.sampled_from(DTYPES),
)  # fmt: skip
def test_the_kernel(place: str, rows: int, size: int, spread: float, name: str, dtype: torch.dtype) -> None:
    triton = kernel("glu")

    def launch(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        packed = buffers.copy(inputs[0])
        h = triton.forward(packed, name)
        triton.backward(dys[0], packed, name)
        return [h, packed]

    inputs, dys = [randn(rows, 2 * size) * spread], [randn(rows, size, seed=9)]
    prove_kernel(triton, launch, OPS[name][1], inputs, dys, place=place, dtype=dtype, what=name)
