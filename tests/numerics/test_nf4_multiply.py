"""Products of a few rows with an NF4 weight: the kernel interpreted, and a CPU's pieces, against the naive form."""

import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_numerics import assert_within_budget, randn
from luthier.kernels.nf4 import NF4, NF4Weight, dequantise, quantise
from luthier.kernels.nf4.naive import multiply as naive
from luthier.kernels.nf4.native import Missing
from luthier.kernels.nf4.stack import can_stack, stack
from luthier.kernels.nf4.weight import THIN

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
FLOORS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def parts_of(rows: list[int], columns: int, *, double: bool = True, seed: int = 0) -> list[NF4]:
    parts = [quantise(randn(n, columns, seed=seed + i) * 0.05 * (i + 1)) for i, n in enumerate(rows)]
    if double:
        return parts
    return [
        replace(part, scales=randn(len(part.scales), seed=9, dtype=torch.float32).abs(), nested=None) for part in parts
    ]


def multiply(x: Tensor, parts: list[NF4], bias: Tensor | None) -> Tensor:
    """The kernel, into poisoned memory, with canaries behind it and poison around what it reads."""
    from luthier.kernels.nf4.triton import multiply as kernel

    stacked, _ = stack(parts)
    around = torch.full((len(x) + 2, x.shape[1]), float("nan"), dtype=x.dtype)
    around[1:-1] = x
    if bias is not None:
        bias = torch.cat([bias, bias.new_full((64,), float("nan"))])[: len(bias)]
    number = len(x) * len(stacked.begins)
    canaries = torch.full((number + 64,), float("nan"), dtype=x.dtype)
    made = canaries[:number].view(len(x), -1)
    kernel(around[1:-1], stacked, bias, made)
    assert canaries[number:].isnan().all(), "it writes behind the output"
    return made


def check(x: Tensor, parts: list[NF4], bias: Tensor | None, ours: Tensor) -> None:
    truth = naive(x.double(), parts, None if bias is None else bias.double())
    assert ours.dtype == x.dtype and ours.shape == truth.shape
    plain = naive(x, parts, bias)
    assert_within_budget(ours, plain, truth, margin=FLOORS[x.dtype], what=f"{x.dtype} {tuple(x.shape)}")


@interpreted
@pytest.mark.parametrize("dtype", list(FLOORS))
@pytest.mark.parametrize("tokens", [1, 2, 7, 16])
@pytest.mark.parametrize("rows", [[1], [17, 3], [16]])
def test_the_kernel(rows: list[int], tokens: int, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and tokens > 1:
        pytest.skip("the interpreter's tl.dot takes the bits of bf16 for integers; float16 goes the same way")
    for columns, double, biased in ((64, True, False), (320, True, True), (192, False, True)):
        parts = parts_of(rows, columns, double=double)
        x = randn(tokens, columns, seed=tokens, dtype=dtype)
        bias = randn(sum(rows), seed=3, dtype=dtype) if biased else None
        made = multiply(x, parts, bias)
        check(x, parts, bias, made)
        assert torch.equal(made, multiply(x, parts, bias)), "it does not repeat"


@interpreted
@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    blocks=st.integers(1, 12),
    tokens=st.integers(1, THIN),
    double=st.booleans(),
)
def test_the_kernel_over_shapes(rows: list[int], blocks: int, tokens: int, double: bool) -> None:
    parts = parts_of(rows, 64 * blocks, double=double, seed=blocks)
    x = randn(tokens, 64 * blocks, seed=tokens, dtype=torch.float32)
    check(x, parts, None, multiply(x, parts, None))


@interpreted
def test_scales_of_scales_change_within_a_row() -> None:
    """A nested scale is for 16,384 numbers, so a row of 20,000 has two, and they begin anew with every part."""
    parts = parts_of([3, 2], 64 * 300)
    parts = [replace(part, nested=part.nested * torch.arange(1, len(part.nested) + 1)) for part in parts]
    for tokens in (1, 3):
        x = randn(tokens, 64 * 300, dtype=torch.float32)
        check(x, parts, None, multiply(x, parts, None))


@interpreted
def test_other_blocks_and_every_code() -> None:
    for block in (32, 128):
        codes = torch.arange(256, dtype=torch.uint8).repeat(4)  # 4 rows of 512
        scales = randn(2048 // block, dtype=torch.float32).abs()
        part = NF4(codes, scales, None, torch.zeros(()), torch.Size((4, 512)), block)
        for tokens in (1, 2):
            x = randn(tokens, 512, seed=block, dtype=torch.float32)
            check(x, [part], None, multiply(x, [part], None))


def test_a_stack_holds_the_bytes_of_its_parts() -> None:
    parts = parts_of([37, 5, 700], 192)
    stacked, views = stack(parts)
    for part, view in zip(parts, views, strict=True):
        for name in ("codes", "scales", "nested"):
            assert torch.equal(getattr(part, name), getattr(view, name))
            held, whole = getattr(view, name).untyped_storage(), getattr(stacked, name).untyped_storage()
            assert held.data_ptr() == whole.data_ptr(), "the parts are views, not copies"
        plain = torch.empty(part.shape)
        assert torch.equal(dequantise(view, plain.clone()), dequantise(part, plain))
    assert len(stacked.begins) == 742 and stacked.begins.diff().min() >= 192
    weight = NF4Weight(views, torch.float32)
    x = randn(2, 192, dtype=torch.float32)
    assert torch.equal(weight.forward(x, None), NF4Weight(parts, torch.float32).forward(x, None))


def test_what_cannot_be_stacked() -> None:
    good = parts_of([4, 4], 128)
    assert can_stack(good)
    assert not can_stack(parts_of([4], 100)), "a block would lie in two rows"
    assert not can_stack([good[0], *parts_of([4], 128, double=False)])
    assert not can_stack([replace(good[0], block=128), good[1]])
    assert not can_stack([replace(part, block=16) for part in good])


@pytest.mark.parametrize("dtype", list(FLOORS))
@pytest.mark.parametrize("tokens", [1, 5, THIN, THIN + 1])
def test_pieces_on_a_cpu(tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.kernels.nf4.weight.CHUNK", 192 * 10)
    monkeypatch.setattr("luthier.kernels.nf4.native.loaded", lambda: Missing("no compiler"))
    parts = parts_of([25, 8, 10, 1], 192)
    weight, x, bias = NF4Weight(parts, dtype), randn(tokens, 192, dtype=dtype), randn(44, dtype=dtype)
    calls = []
    monkeypatch.setattr(weight, "dense", lambda: calls.append(1) or NF4Weight.dense(weight))
    for added in (None, bias):
        made = weight.forward(x, added)
        check(x, parts, added, made)
    assert len(calls) == (2 if tokens > THIN else 0)


@pytest.mark.parametrize("columns", [70, 65])
def test_rows_that_do_not_begin_with_a_block_are_unpacked_as_a_whole(columns: int) -> None:
    parts, x = parts_of([5, 4], columns), randn(2, columns, dtype=torch.float32)
    weight = NF4Weight(parts, torch.float32)
    assert torch.equal(weight.forward(x, None), torch.nn.functional.linear(x, weight.dense()))


def test_no_rows() -> None:
    assert NF4Weight(parts_of([5], 64), torch.float32).forward(torch.empty(0, 64), None).shape == (0, 5)


def test_a_block_of_zeros_multiplies_to_zero() -> None:
    parts = [quantise(torch.zeros(3, 128))]
    x = randn(1, 128, dtype=torch.float32)
    assert NF4Weight(parts, torch.float32).forward(x, None).abs().max() <= 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(FLOORS))
@pytest.mark.parametrize("tokens", [1, 2, 16])
def test_the_kernel_on_a_gpu(tokens: int, dtype: torch.dtype) -> None:
    parts = [
        replace(part, **{name: getattr(part, name).cuda() for name in ("codes", "scales", "nested", "offset")})
        for part in parts_of([1000, 37], 4096)
    ]
    weight = NF4Weight(parts, dtype)
    assert weight._stack is not None
    x, bias = randn(tokens, 4096, dtype=dtype).cuda(), randn(1037, dtype=dtype).cuda()
    made = weight.forward(x, bias)
    assert torch.equal(made, weight.forward(x, bias))
    truth = naive(x.double(), weight.parts, bias.double())
    assert_within_budget(made, naive(x, weight.parts, bias), truth, margin=FLOORS[dtype], what=str(dtype))
