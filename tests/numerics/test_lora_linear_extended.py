"""Base and adapter in one product over NF4: exact, its scratch held or not, and picked where it should be."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_adapters import our_gradients, stirred
from helpers_models import make_twin
from helpers_numerics import assert_same, assert_within_budget, randn
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.lora_linear import lora_linear
from luthier.kernels.lora_linear.extended import extended_lora_linear, extends
from luthier.kernels.lora_linear.naive import lora_linear as naive
from luthier.kernels.nf4 import NF4Weight, dequantise, opened, quantise
from luthier.models.weights import load_decoder

MARGIN = {torch.float32: 1e-6, torch.bfloat16: 5e-3}
# input features, slices' widths, which are adapted, rank
SHAPES = [
    (64, [64, 32, 32], [0, 1, 2], 4),  # wide, merged
    (64, [96, 96], [1], 16),  # wide, the first slice has none
    (64, [65], [0], 1),
    (192, [64], [0], 5),  # tall
    (130, [7, 9], [0, 1], 3),  # tall, odd
    (64, [64], [0], 8),  # square
]


def weight_of(outs: list[int], m: int, dtype: torch.dtype) -> NF4Weight:
    return NF4Weight([quantise(randn(out, m, seed=i, dtype=torch.float32)) for i, out in enumerate(outs)], dtype)


def run(op: Any, x: Tensor, masters: list[Tensor], dy: Tensor, **how: Any) -> list[Tensor]:
    free = [t.detach().clone().requires_grad_() for t in (x, *masters)]
    y = op(*free, **how)
    y.backward(dy)
    return [y.detach(), *[t.grad for t in free]]


def check(m: int, outs: list[int], chosen: list[int], rank: int, rows: int, biased: bool) -> None:
    starts = [sum(outs[:i]) for i in chosen]
    x, dy = randn(rows, m), randn(rows, sum(outs), seed=9)
    bias = randn(sum(outs), seed=8)
    masters = [randn(len(chosen) * rank, m, seed=3), *(randn(outs[i], rank, seed=4 + i) for i in chosen)]

    def results(dtype: torch.dtype, op: Any, **how: Any) -> list[Tensor]:
        weight, wide = weight_of(outs, m, dtype), torch.promote_types(dtype, torch.float32)

        def call(x: Tensor, a: Tensor, *bs: Tensor, **how: Any) -> Tensor:
            return op(x, weight, bias.to(dtype) if biased else None, a, list(bs), 0.5, starts, **how)

        return run(call, x.to(dtype), [t.to(wide) for t in masters], dy.to(dtype), **how)

    # The truth of each dtype is float64 over the weight as that dtype has it.
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        dense = DenseWeight(weight_of(outs, m, dtype).dense().double())

        def exact(x: Tensor, a: Tensor, *bs: Tensor, dense: DenseWeight = dense, dtype: torch.dtype = dtype) -> Tensor:
            return naive(x, dense, bias.to(dtype).double() if biased else None, a, list(bs), 0.5, starts)

        truth = run(exact, x.to(dtype).double(), masters, dy.to(dtype).double())
        ours, held = (results(dtype, extended_lora_linear, hold=hold) for hold in (False, True))
        plain = results(dtype, lora_linear)
        for i, (our, hold, rough, true) in enumerate(zip(ours, held, plain, truth, strict=True)):
            assert torch.equal(our, hold) and our.dtype == rough.dtype
            if dtype == torch.float64:
                assert_same(our, true, tolerance=1e-10, what=f"tensor {i}")
            elif true.numel():
                assert_within_budget(our, rough, true, margin=MARGIN[dtype], what=f"{dtype} tensor {i}")
        unmade = results(dtype, extended_lora_linear, value=False)
        assert not unmade[0].any() and all(map(torch.equal, unmade[1:], ours[1:]))


@pytest.mark.parametrize(("m", "outs", "chosen", "rank"), SHAPES)
@pytest.mark.parametrize(("rows", "biased"), [(33, False), (1, True), (0, False)])
def test_one_product_is_the_sum_of_all(
    m: int, outs: list[int], chosen: list[int], rank: int, rows: int, biased: bool
) -> None:
    torch.use_deterministic_algorithms(True)  # fills what is not written with NaN
    try:
        check(m, outs, chosen, rank, rows, biased)
    finally:
        torch.use_deterministic_algorithms(False)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_over_shapes(data: st.DataObject) -> None:
    outs = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=3))
    chosen = sorted(data.draw(st.sets(st.integers(0, len(outs) - 1), min_size=1)))
    check(
        2 * data.draw(st.integers(1, 60)), outs, chosen, data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)),
        data.draw(st.booleans()),
    )  # fmt: skip


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize(("rows", "columns", "room"), [(5, 64, 16), (3, 50, 1), (1, 7, 3), (70, 130, 48)])
def test_unpacking_between_other_columns(rows: int, columns: int, room: int, kernel: bool) -> None:
    stored = quantise(randn(rows, columns, dtype=torch.float32))
    whole = torch.full((rows + 1, columns + room), 7.0)
    if kernel:
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("needs TRITON_INTERPRET=1, as in make test")
        from luthier.kernels.nf4.triton import dequantise as launch

        launch(stored, whole[:rows, :columns])
    else:
        assert dequantise(stored, whole[:rows, :columns]).data_ptr() == whole.data_ptr()
    assert torch.equal(whole[:rows, :columns], dequantise(stored, torch.empty(rows, columns)))
    assert (whole[:, columns:] == 7).all() and (whole[rows] == 7).all()


class _OnCuda:
    """As much of a tensor on a GPU as the choice looks at."""

    is_cuda = True

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows


def test_it_is_picked_on_cuda_for_nf4_alone() -> None:
    weight = weight_of([64], 64, torch.float32)
    assert extends(weight, _OnCuda(100))
    assert not extends(weight, randn(100, 64)) and not extends(DenseWeight(weight.dense()), _OnCuda(100))
    assert weight.is_thin(randn(3, 64)) and not weight.is_thin(randn(100, 64))
    assert opened(weight, randn(3, 64)) is weight and isinstance(opened(weight, randn(100, 64)), DenseWeight)
    dense = DenseWeight(weight.dense())
    assert opened(dense, randn(100, 64)) is dense


TOKENS = torch.randint(3, 160, (64,), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[NF4Weight]:
    """The weights in NF4 in the order in which they were unpacked."""
    order: list[NF4Weight] = []
    unpack = NF4Weight.unpack

    def counted(self: NF4Weight, out: Tensor) -> None:
        order.append(self)
        unpack(self, out)

    monkeypatch.setattr(NF4Weight, "unpack", counted)
    return order


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("targets", [None, ["k_proj", "up_proj"]], ids=["all", "some"])
def test_a_layer_that_runs_twice_unpacks_each_weight_twice(
    extended: bool,
    targets: list[str] | None,
    tmp_path: Path,
    unpacked: list[NF4Weight],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_twin(tmp_path, "llama", hidden_size=64, intermediate_size=128, num_attention_heads=4)
    decoder = load_decoder(tmp_path, dtype=torch.float32, nf4=True)
    adapter = stirred(decoder, **({} if targets is None else {"targets": targets}))
    targets_at = torch.arange(20, 64)
    expected = our_gradients(decoder, adapter, TOKENS, targets_at)
    if extended:
        monkeypatch.setattr(
            "luthier.kernels.lora_linear.op.extends", lambda w, x: isinstance(w, NF4Weight) and not w.is_thin(x)
        )
    kept = our_gradients(decoder, adapter, TOKENS, targets_at)
    unpacked.clear()
    decoder.recomputed = range(2)
    again = our_gradients(decoder, adapter, TOKENS, targets_at)
    for name in kept:
        assert torch.equal(again[name], kept[name])
        assert_same(kept[name], expected[name], tolerance=1e-5, what=name)
        assert extended or torch.equal(kept[name], expected[name])
    for layer in decoder.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            assert sum(weight is linear.weight for weight in unpacked) == 2
