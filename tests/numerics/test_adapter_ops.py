"""The ops behind the adapter's options against plain autograd: float64 derivatives, error budgets, memory, edges."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers_numerics import assert_same, assert_within_budget, randn
from luthier.kernels.dora_linear import dora_linear, row_squares
from luthier.kernels.dora_linear.naive import dora_linear as dora_linear_naive
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.lora_linear import Dropout, dropped_lora_linear
from luthier.kernels.lora_linear.dropout import masked
from luthier.kernels.selected_logprobs import adapted_logprobs, selected_logprobs
from luthier.kernels.selected_logprobs.op import CPU_ROWS

MARGIN = {torch.float32: 1e-6, torch.bfloat16: 1e-2}  # two roundings of the largest value
Op = Callable[..., Tensor]


def compare(op: Op, naive: Op, x: Tensor, masters: list[Tensor]) -> None:
    """Output and gradients; x is cast to each dtype, the adapter's masters stay in float32 where x is narrower."""

    def run(f: Op, dtype: torch.dtype) -> list[Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        taken = [x.detach().to(dtype).requires_grad_(), *(m.detach().to(wide).requires_grad_() for m in masters)]
        y = f(*taken)
        y.backward(randn(*y.shape, seed=99).to(y.dtype))
        return [y.detach(), *[t.grad for t in taken]]

    truth = run(naive, torch.float64)
    for i, (ours, true) in enumerate(zip(run(op, torch.float64), truth, strict=True)):
        assert_same(ours, true, tolerance=1e-10, what=f"tensor {i}")
    for dtype, margin in MARGIN.items():
        for i, (ours, plain, true) in enumerate(zip(run(op, dtype), run(naive, dtype), truth, strict=True)):
            assert ours.dtype == plain.dtype and ours.shape == plain.shape
            if true.numel() == 0:
                continue
            assert_within_budget(ours, plain, true, margin=margin, what=f"{dtype} tensor {i}")


# rows, slices' widths, which of them are adapted, rank, bias
SHAPES = [
    (13, [8], [0], 4, False),
    (1, [12, 4, 4], [0, 1, 2], 2, True),
    (7, [5, 3, 7], [0, 2], 3, True),
    (0, [5, 5], [1], 1, False),
    (33, [33], [0], 16, True),
]


@pytest.mark.parametrize(("rows", "outs", "chosen", "rank", "biased"), SHAPES)
@pytest.mark.parametrize("kind", ["dropout", "dora", "dora with dropout"])
def test_adapters_of_linears(kind: str, rows: int, outs: list[int], chosen: list[int], rank: int, biased: bool) -> None:
    m, n, scale = 24, sum(outs), 0.5
    starts = [sum(outs[:i]) for i in chosen]
    weight, bias = randn(n, m, seed=1), randn(n, seed=2) if biased else None
    a, bs = randn(len(chosen) * rank, m, seed=3), [randn(outs[i], rank, seed=4 + i) for i in chosen]
    dora = kind != "dropout"
    magnitudes = [3 + randn(outs[i], seed=20 + i) for i in chosen] if dora else []
    drop = Dropout(0.25, tuple(range(7, 7 + len(chosen)))) if kind != "dora" else None
    number = len(chosen)

    def held(x: Tensor) -> tuple[DenseWeight, Tensor | None]:
        return DenseWeight(weight.to(x.dtype)), None if bias is None else bias.to(x.dtype)

    def ours(x: Tensor, a: Tensor, *rest: Tensor) -> Tensor:
        bs, magnitudes = list(rest[:number]), list(rest[number:])
        w, bias = held(x)
        if not dora:
            return dropped_lora_linear(x, w, bias, a, bs, scale, starts, drop)
        return dora_linear(x, w, bias, a, bs, magnitudes, row_squares(w), scale, starts, drop)

    def naive(x: Tensor, a: Tensor, *rest: Tensor) -> Tensor:
        bs, magnitudes = rest[:number], rest[number:]
        w, bias = held(x)
        if drop is None:
            return dora_linear_naive(x, w, bias, a, bs, magnitudes, scale, starts)
        y = w.forward(x, bias)
        for i, (b, start) in enumerate(zip(bs, starts, strict=True)):
            mask = masked(torch.ones_like(x), drop.share, drop.seeds[i]) / (1 - drop.share)
            xi, ai, wi = x * mask, a[i * rank : (i + 1) * rank], w.dense()[start : start + len(b)]
            added = scale * (xi @ ai.to(x.dtype).T @ b.to(x.dtype).T)
            if dora:
                norm = (wi.to(a.dtype) + scale * b @ ai).detach().norm(dim=1)
                g = magnitudes[i] / norm
                added = ((g - 1) * (xi @ wi.T) + g * added).to(x.dtype)
            before, behind = x.new_zeros(len(x), start), x.new_zeros(len(x), n - start - len(b))
            y = y + torch.cat([before, added, behind], 1)
        return y

    compare(ours, naive, randn(rows, m), [a, *bs, *magnitudes])


def test_dora_norms_of_merged_weights_are_their_rows() -> None:
    weight = randn(5000, 3, seed=1)  # more rows than are squared at a time
    assert_same(row_squares(DenseWeight(weight)).sqrt(), weight.norm(dim=1), tolerance=1e-12)
    narrow = weight.bfloat16()
    assert row_squares(DenseWeight(narrow)).dtype == torch.float32
    assert_same(row_squares(DenseWeight(narrow)).sqrt(), narrow.double().norm(dim=1), tolerance=1e-6)


@pytest.mark.parametrize(("rows", "vocab"), [(1, 7), (19, 123), (CPU_ROWS + 44, 50), (2 * CPU_ROWS, 5), (0, 9)])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("drop", [None, Dropout(0.25, (5,))])
def test_logprobs_of_an_adapted_head(rows: int, vocab: int, softcap: float | None, drop: Dropout | None) -> None:
    head, targets, scale = randn(vocab, 12, seed=1), torch.arange(rows) * 5 % vocab, 0.5

    def ours(hidden: Tensor, a: Tensor, b: Tensor) -> Tensor:
        held = DenseWeight(head.to(hidden.dtype))
        return adapted_logprobs(hidden, held, targets, a, b, scale, softcap=softcap, drop=drop)

    def naive(hidden: Tensor, a: Tensor, b: Tensor) -> Tensor:
        mask = 1.0
        if drop is not None:
            mask = masked(torch.ones_like(hidden), drop.share, drop.seeds[0]) / (1 - drop.share)
        low = (hidden * mask) @ a.to(hidden.dtype).T @ b.to(hidden.dtype).T
        logits = hidden @ head.to(hidden.dtype).T + scale * low
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if softcap is not None:
            wide = softcap * torch.tanh(wide / softcap)
        return wide.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)

    compare(ours, naive, randn(rows, 12), [randn(4, 12, seed=2), randn(vocab, 4, seed=3)])


def test_an_adapter_of_zeros_leaves_the_heads_bits() -> None:
    hidden, held, targets = (
        randn(40, 12, dtype=torch.float32),
        DenseWeight(randn(30, 12).float()),
        torch.arange(40) % 30,
    )
    a, b = randn(4, 12).float(), torch.zeros(30, 4)
    assert torch.equal(adapted_logprobs(hidden, held, targets, a, b, 2.0), selected_logprobs(hidden, held, targets))


class _Largest(TorchDispatchMode):
    """The most numbers that any tensor made inside has."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_logits_of_a_chunk_are_the_most_that_is_held() -> None:
    rows, vocab = 4 * CPU_ROWS, 700
    hidden, a, b = randn(rows, 8, grad=True), randn(2, 8, grad=True), randn(vocab, 2, grad=True)
    held = DenseWeight(randn(vocab, 8, seed=1))
    with _Largest() as largest:
        adapted_logprobs(hidden, held, torch.arange(rows) % vocab, a, b, 0.5).sum().backward()
    assert largest.numbers <= CPU_ROWS * vocab
    hidden.grad = None


def test_a_hidden_state_without_gradient_still_trains_the_head() -> None:
    hidden, held, targets = randn(9, 8), DenseWeight(randn(20, 8, seed=1)), torch.arange(9)
    a, b = randn(2, 8, seed=2, grad=True), randn(20, 2, seed=3, grad=True)
    adapted_logprobs(hidden, held, targets, a, b, 0.5).sum().backward()
    free = [t.detach().requires_grad_() for t in (hidden, a, b)]
    adapted_logprobs(free[0], held, targets, free[1], free[2], 0.5).sum().backward()
    assert torch.equal(a.grad, free[1].grad) and torch.equal(b.grad, free[2].grad)
