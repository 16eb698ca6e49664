"""NF4 in C, in both of its forms, against the naive form and against torch's bits."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_numerics import assert_within_budget, randn
from luthier.kernels.nf4 import NF4, NF4Weight, dequantise, native, quantise
from luthier.kernels.nf4.naive import multiply as naive
from luthier.kernels.nf4.op import by_chunks
from luthier.kernels.nf4.weight import THIN

FLOORS = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
FORMS = {"AVX-512": (16, ()), "AVX2": (8, ("-mno-avx512f",))}
DTYPES = st.sampled_from(list(FLOORS))
POISON = float("nan")


@pytest.fixture(scope="module", params=list(FORMS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> native.Native:
    """The library in one of its forms."""
    lanes, options = FORMS[request.param]
    built = native.build(tmp_path_factory.mktemp("native"), shutil.which("cc"), (*native.OPTIONS, *options))
    if isinstance(built, native.Missing) or built.lanes != lanes:
        pytest.skip(f"no {request.param} here: {built}")
    return built


def parts_of(rows: list[int], columns: int, *, double: bool = True, block: int = 64, seed: int = 0) -> list[NF4]:
    """Quantised parts; with other blocks or without double quantisation, scales of their own."""
    parts = [quantise(randn(n, columns, seed=seed + i) * 0.05 * (i + 1)) for i, n in enumerate(rows)]
    if block != 64:
        count = [-(-part.shape.numel() // block) for part in parts]
        parts = [replace(part, scales=part.scales[:n], block=block) for part, n in zip(parts, count, strict=True)]
        parts = [replace(p, nested=p.nested[: -(-n // 256)]) for p, n in zip(parts, count, strict=True)]
    if double:
        return parts
    return [replace(p, scales=randn(len(p.scales), seed=9, dtype=torch.float32).abs(), nested=None) for p in parts]


def multiply(made: native.Native, x: Tensor, parts: list[NF4], bias: Tensor | None) -> Tensor:
    """Into poisoned memory with canaries behind it, from memory with poison around it."""
    around = torch.full((len(x) + 2, x.shape[1]), POISON, dtype=x.dtype)
    around[1:-1] = x
    outs = sum(part.shape[0] for part in parts)
    canaries = torch.full((len(x) * outs + 64,), POISON, dtype=x.dtype)
    out = canaries[:-64].view(len(x), outs)
    assert all(native.suits(part, x.dtype) for part in parts)
    native.multiply(made, around[1:-1], native.described(parts), bias, out)
    assert canaries[-64:].isnan().all(), "it writes behind the output"
    return out


def check(x: Tensor, parts: list[NF4], bias: Tensor | None, ours: Tensor) -> None:
    truth = naive(x.double(), parts, None if bias is None else bias.double())
    assert_within_budget(ours, naive(x, parts, bias), truth, margin=FLOORS[x.dtype], what=f"{x.dtype} {tuple(x.shape)}")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    blocks=st.integers(1, 12),
    block=st.sampled_from([64, 128, 512]),
    tokens=st.integers(1, THIN),
    double=st.booleans(),
    biased=st.booleans(),
    dtype=DTYPES,
)
def test_products_over_shapes(
    made: native.Native, rows: list[int], blocks: int, block: int, tokens: int, double: bool, biased: bool,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    columns = block * blocks if block < 512 else block * (1 + blocks % 3)
    parts = parts_of(rows, columns, double=double, block=block, seed=blocks)
    x = randn(tokens, columns, seed=tokens, dtype=dtype)
    bias = randn(sum(rows), seed=3, dtype=dtype) if biased else None
    check(x, parts, bias, multiply(made, x, parts, bias))


@pytest.mark.parametrize("tokens", range(1, 2 * THIN + 2, 3))
@pytest.mark.parametrize("dtype", list(FLOORS))
def test_a_row_does_not_depend_on_its_batch(made: native.Native, dtype: torch.dtype, tokens: int) -> None:
    parts, x = parts_of([9, 6], 192), randn(tokens, 192, dtype=dtype)
    together = multiply(made, x, parts, None)
    alone = torch.cat([multiply(made, row[None], parts, None) for row in x])
    assert torch.equal(together, alone)
    check(x, parts, None, together)


def test_scales_of_scales_change_within_a_row(made: native.Native) -> None:
    """A nested scale is for 16,384 numbers, so a row of 19,200 has two, and they begin anew with every part."""
    parts = parts_of([3, 2], 64 * 300)
    parts = [replace(part, nested=part.nested * torch.arange(1, len(part.nested) + 1)) for part in parts]
    for tokens in (1, 3):
        x = randn(tokens, 64 * 300, dtype=torch.float32)
        check(x, parts, None, multiply(made, x, parts, None))


def test_weights_are_rounded_as_torch_rounds_them(made: native.Native) -> None:
    """A one among zeros picks a column of W, which shows its bits."""
    parts = parts_of([37], 128)
    for dtype in FLOORS:
        dense, x = by_chunks(parts[0], torch.empty(37, 128, dtype=dtype)), torch.zeros(THIN, 128, dtype=dtype)
        for column in range(0, 128, 7):
            x.zero_()[3, column] = 1
            assert torch.equal(multiply(made, x, parts, None)[3], dense[:, column])


def test_of_two_equally_near_the_even_one(made: native.Native) -> None:
    """A value of 1 shows its scale: 1 + k/256 lies between two numbers of bf16 for odd k."""
    scales = 1 + torch.arange(32, dtype=torch.float32) / 256
    part = NF4(torch.full((1024,), 255, dtype=torch.uint8), scales, None, torch.zeros(()), torch.Size((32, 64)))
    truth, x = scales.bfloat16(), torch.zeros(1, 64, dtype=torch.bfloat16)
    x[0, 5] = 1
    assert torch.equal(multiply(made, x, [part], None)[0], truth)
    out = torch.full((32, 64), POISON, dtype=torch.bfloat16)
    assert native.unpack(made, part, out) and torch.equal(out, truth[:, None].expand(32, 64))


@settings(max_examples=80, deadline=None)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 500)), st.tuples(st.integers(1, 40), st.sampled_from([1, 7, 64, 65, 128, 192]))
    ),
    double=st.booleans(),
    dtype=DTYPES,
    block=st.sampled_from([64, 256]),
    gap=st.integers(0, 3),
)
def test_unpacked_bits_are_those_of_torch(
    made: native.Native, shape: tuple[int, ...], double: bool, dtype: torch.dtype, block: int, gap: int
) -> None:
    (stored,) = parts_of([shape[0]], shape[1] if len(shape) == 2 else 1, double=double, block=block)
    stored = replace(stored, shape=torch.Size(shape))
    truth = by_chunks(stored, torch.empty(shape, dtype=dtype))
    rows, columns = (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])
    canaries = torch.full((rows * (columns + gap) + 64,), POISON, dtype=dtype)
    grid = canaries[:-64].view(rows, columns + gap)
    out = grid[:, :columns] if len(shape) == 2 else canaries[:columns]
    done = native.unpack(made, stored, out)
    assert done == (out.is_contiguous() or columns % 64 == 0)
    assert torch.equal(out, truth) if done else out.isnan().all()
    assert canaries[-64:].isnan().all() and grid[:, columns:].isnan().all(), "it writes beside the output"


def test_long_and_odd_tensors(made: native.Native) -> None:
    for numbers in (native.LINE, 3 * native.LINE - 1, 5 * native.LINE + 65):
        stored = quantise(randn(numbers, seed=numbers))
        out = torch.full((numbers,), POISON, dtype=torch.bfloat16)
        assert native.unpack(made, stored, out)
        assert torch.equal(out, by_chunks(stored, torch.empty_like(out)))


def test_ranges_of_rows_are_the_bits_of_the_whole(made: native.Native) -> None:
    parts = parts_of([25, 8, 10, 1], 192)
    for dtype in FLOORS:
        x, split = randn(5, 192, dtype=dtype), torch.full((5, 44), POISON, dtype=dtype)
        told, edges = native.described(parts), [0, 3, 26, 27, 44]
        for first, last in pairwise(edges):
            given = (told, x.data_ptr(), None, split.data_ptr(), 5, 192, 44, first, last, dtype == torch.bfloat16)
            assert made.library.luthier_nf4_multiply(*given) == 0
            assert split[:, last:].isnan().all(), "it writes behind its range"
        assert torch.equal(split, multiply(made, x, parts, None))


def test_what_goes_to_torch() -> None:
    (good,) = parts_of([4], 128)
    assert native.suits(good, torch.float32) and native.suits(good, torch.bfloat16)
    assert not native.suits(good, torch.float16) and not native.suits(good, torch.float64)
    assert not native.suits(replace(good, block=32), torch.float32)
    assert not native.suits(replace(good, block=192), torch.float32)
    for name in ("codes", "scales", "nested"):
        short = replace(good, **{name: getattr(good, name)[:-1]})
        assert not native.suits(short, torch.float32), f"it would read behind {name}"
    assert not native.suits(replace(good, nested=good.nested.double()), torch.float32)
    assert not native.suits(replace(good, nested=None), torch.float32), "scales would be read as float32"
    assert not native.suits(replace(good, codes=good.codes.repeat_interleave(2)[::2]), torch.float32)
    assert not native.suits(replace(good, shape=torch.Size((0, 128))), torch.float32)


@pytest.mark.parametrize("dtype", list(FLOORS))
def test_a_weight_multiplies_in_c_where_it_can(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(native.loaded(), native.Missing):
        pytest.skip(f"{native.loaded()}")
    calls, real = [], native.multiply
    monkeypatch.setattr(native, "multiply", lambda *given: calls.append(1) or real(*given))
    parts = parts_of([300, 90], 192)
    weight, x, bias = NF4Weight(parts, dtype), randn(3, 192, dtype=dtype), randn(390, dtype=dtype)
    for added in (None, bias):
        check(x, parts, added, weight.forward(x, added))
        check(x, parts, added, weight._by_pieces(x, added))
    assert len(calls) == 2
    weight.forward(randn(THIN + 1, 192, dtype=dtype), None)
    NF4Weight(parts_of([300, 90], 200), dtype).forward(randn(3, 200, dtype=dtype), None)
    assert len(calls) == 2, "many rows, and rows that are not whole blocks, are torch's"
    assert weight.in_c and not NF4Weight(parts_of([300, 90], 200), dtype).in_c
    with pytest.raises(RuntimeError):
        weight.forward(x, randn(389, dtype=dtype))


def test_without_a_library_torch_does_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = native.build(tmp_path, None)
    monkeypatch.setattr(native, "loaded", lambda: missing)
    parts = parts_of([300, 90], 192)
    weight, x = NF4Weight(parts, torch.float32), randn(3, 192, dtype=torch.float32)
    assert not weight.in_c
    assert torch.equal(weight.forward(x, None), weight._by_pieces(x, None))
    out = torch.empty(300, 192)
    assert torch.equal(dequantise(parts[0], out), by_chunks(parts[0], torch.empty(300, 192)))
