"""The frozen linear, its adapters, and NF4: derivatives, awkward shapes, what is written, the same bits twice."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_kernels import PLACES, Buffers, Op, compare, kernel
from helpers_numerics import assert_same, randn
from luthier.kernels.frozen_linear import DenseWeight, frozen_linear
from luthier.kernels.frozen_linear.naive import frozen_linear as frozen_naive
from luthier.kernels.lora_linear import lora_linear
from luthier.kernels.lora_linear.naive import lora_linear as lora_naive
from luthier.kernels.nf4 import dequantise, quantise
from luthier.kernels.nf4.naive import dequantise as nf4_naive

RANKS = st.sampled_from([1, 2, 3, 16, 64])
Case = tuple[Tensor, Tensor | None, Tensor, list[Tensor], list[int]]
FEATURES = st.sampled_from([1, 2, 7, 16, 31])


@contextmanager
def poisoned() -> Iterator[None]:
    """What is allocated is full of NaN until it is written."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def lora_case(m: int, outs: list[int], adapted: list[bool], rank: int, biased: bool) -> Case:
    """W, the bias, A, the Bs and their columns."""
    starts = [sum(outs[:i]) for i, chosen in enumerate(adapted) if chosen]
    bs = [randn(out, rank, seed=4 + i) for i, (out, chosen) in enumerate(zip(outs, adapted, strict=True)) if chosen]
    a = randn(len(bs) * rank, m, seed=3)
    return randn(sum(outs), m, seed=1), randn(sum(outs), seed=2) if biased else None, a, bs, starts


def call(
    f: Op, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, bs: list[Tensor], starts: list[int]
) -> Tensor:
    """Either form, everything in x's dtype."""
    return f(x, DenseWeight(weight.to(x)), None if bias is None else bias.to(x), a, bs, 0.5, starts)


@settings(max_examples=25, deadline=None)
@given(tokens=st.sampled_from([1, 2, 13]), n=FEATURES, m=FEATURES, biased=st.booleans())
def test_a_frozen_linear_is_the_naive_form(tokens: int, n: int, m: int, biased: bool) -> None:
    weight, bias = randn(n, m, seed=1), randn(n, seed=2) if biased else None

    def with_(f: Op, weight: Tensor = weight, bias: Tensor | None = bias) -> Op:
        return lambda x: f(x, DenseWeight(weight.to(x)), None if bias is None else bias.to(x))

    terms = with_(frozen_naive, weight.abs(), None if bias is None else bias.abs())
    compare(with_(frozen_linear), with_(frozen_naive), [randn(tokens, m)], terms=terms)


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.sampled_from([1, 2, 13]), m=FEATURES, rank=RANKS, biased=st.booleans(),
    slices=st.lists(st.tuples(FEATURES, st.booleans()), min_size=1, max_size=3).filter(lambda s: any(c for _, c in s)),
)  # fmt: skip
def test_adapters_are_the_naive_form(
    tokens: int, m: int, rank: int, biased: bool, slices: list[tuple[int, bool]]
) -> None:
    outs, adapted = [out for out, _ in slices], [chosen for _, chosen in slices]
    weight, bias, a, bs, starts = lora_case(m, outs, adapted, rank, biased)
    wide, added = weight.abs(), None if bias is None else bias.abs()
    compare(
        lambda x, a, *bs: call(lora_linear, x, weight, bias, a, list(bs), starts),
        lambda x, a, *bs: call(lora_naive, x, weight, bias, a, list(bs), starts),
        [randn(tokens, m), a, *bs],
        terms=lambda x, a, *bs: call(lora_naive, x, wide, added, a, list(bs), starts),
    )


def test_gradcheck() -> None:
    weight, bias, a, bs, starts = lora_case(5, [3, 2, 4], [True, False, True], 2, True)
    leaves = [t.requires_grad_() for t in (randn(3, 5), a, *bs)]
    assert torch.autograd.gradcheck(lambda x, a, *bs: call(lora_linear, x, weight, bias, a, list(bs), starts), leaves)
    assert torch.autograd.gradcheck(lambda x: frozen_linear(x, DenseWeight(weight), bias), leaves[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_every_number_is_written_and_the_same_twice(tokens: int, dtype: torch.dtype) -> None:
    weight, bias, a, bs, starts = lora_case(7, [3, 2, 4], [True, False, True], 3, True)
    made = []
    for _ in range(2):
        wide = randn(tokens, 14, dtype=dtype)
        x = wide[:, ::2].requires_grad_()  # not contiguous
        leaves = [t.float().requires_grad_() for t in (a, *bs)]
        with poisoned():
            y = call(lora_linear, x, weight, bias, leaves[0], leaves[1:], starts)
            grads = torch.autograd.grad(y, [x, *leaves], randn(tokens, 18, seed=5, dtype=dtype)[:, ::2])
        made.append([y, *grads])
    for once, again in zip(*made, strict=True):
        assert once.isfinite().all() and torch.equal(once, again)


def test_a_gradient_without_the_value_is_the_same() -> None:
    weight, bias, a, bs, starts = lora_case(7, [3, 2], [True, True], 2, True)
    grads = []
    for value in (True, False):
        leaves = [t.clone().requires_grad_() for t in (randn(4, 7), a, *bs)]
        x, first, *rest = leaves
        y = lora_linear(x, DenseWeight(weight), bias, first, rest, 0.5, starts, value=value)
        grads.append(torch.autograd.grad(y, leaves, randn(4, 5, seed=6)))
    for with_value, without in zip(*grads, strict=True):
        assert torch.equal(with_value, without)


@settings(max_examples=25, deadline=None)
@given(rows=st.sampled_from([1, 3, 64]), columns=st.sampled_from([1, 2, 63, 64, 65, 130]))
def test_nf4_writes_all_of_its_output_and_nothing_else(rows: int, columns: int) -> None:
    stored, buffers = quantise(randn(rows, columns, dtype=torch.float32)), Buffers()
    made = [dequantise(stored, buffers.empty(rows, columns, dtype=torch.float32)) for _ in range(2)]
    buffers.check()
    assert torch.equal(*made) and torch.equal(made[0], nf4_naive(stored, torch.float32))


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.sampled_from([1, 3, 64]), columns=st.sampled_from([1, 2, 63, 64, 65, 130]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)  # fmt: skip
def test_the_kernel_of_nf4(place: str, rows: int, columns: int, dtype: torch.dtype) -> None:
    """The bits of the naive form, but where the interpreter cuts bf16 off; beside canaries, and the same twice."""
    stored, buffers, made = quantise(randn(rows, columns, dtype=torch.float32).to(place)), Buffers(), []
    for _ in range(2):
        made.append(buffers.empty(rows, columns, dtype=dtype, device=place))
        kernel("nf4").dequantise(stored, made[-1])
    buffers.check()
    expected = nf4_naive(stored, dtype)
    assert torch.equal(*made)
    if place == "cpu" and dtype == torch.bfloat16:
        assert_same(made[0], expected, tolerance=2**-7)
    else:
        assert torch.equal(made[0], expected)
