"""The MLP's hidden activation made again instead of kept: the same bits, fewer bytes, no down projection run twice."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers_numerics import randn
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.glu import geglu, swiglu
from luthier.kernels.lora_linear import Dropout
from luthier.models.linear import Linear
from luthier.models.lora import Pair

ROWS, FFN, OUT, RANK = 40, 24, 16, 4
GATES: dict[str, Callable[[Tensor], Tensor]] = {"silu": swiglu, "gelu": partial(geglu, approximate=True)}


class Counted(DenseWeight):
    """A weight that counts its products."""

    forwards = backwards = 0

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        self.forwards += 1
        return super().forward(x, bias)

    def backward(self, dy: Tensor) -> Tensor:
        self.backwards += 1
        return super().backward(dy)


class OnCuda(torch.Tensor):
    """A tensor on the CPU that says it is on a GPU."""

    @property
    def is_cuda(self) -> bool:
        return True


def run(gated: bool, gate: Callable[[Tensor], Tensor], *, value: bool, drop: bool = False, cuda: bool = False) -> Any:
    """Result and gradients, bytes kept between forward and backward, and the weight."""
    weight = Counted(randn(OUT, FFN, seed=1, dtype=torch.float32))
    linear = Linear(weight, randn(OUT, seed=2, dtype=torch.float32))
    a, b = (randn(*shape, seed=3, dtype=torch.float32, grad=True) for shape in ((RANK, FFN), (OUT, RANK)))
    pair = Pair(a, [b], [0], ("mlp.down_proj",), [], Dropout(0.5, (3,)) if drop else None)
    source = randn(ROWS, 2 * FFN, dtype=torch.float32, grad=True)
    gate_up = source * 1  # overwritten by the gate's backward
    kept: dict[int, int] = {}

    def noted(tensor: Tensor) -> Tensor:
        if tensor.shape[0] == ROWS:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        taken, there = (gate_up.as_subclass(OnCuda), lambda x: gate(x.as_subclass(Tensor))) if cuda else (gate_up, gate)
        y = (
            linear.gated(there, taken, pair, 0.5, value=value)
            if gated
            else linear(gate(gate_up), pair, 0.5, value=value)
        )
    y.backward(randn(ROWS, OUT, seed=5, dtype=torch.float32))
    results = [y.detach().as_subclass(Tensor), source.grad, a.grad, b.grad]
    return results, sum(kept.values()), weight


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
@pytest.mark.parametrize("drop", [False, True])
def test_without_value_nothing_but_gate_up_is_kept_and_down_runs_only_backwards(
    gate: Callable[[Tensor], Tensor], drop: bool
) -> None:
    plain, plain_kept, _ = run(False, gate, value=False, drop=drop)
    ours, kept, weight = run(True, gate, value=False, drop=drop)
    assert all(map(torch.equal, ours, plain)) and not ours[0].any() and ours[1].any()
    assert (weight.forwards, weight.backwards) == (0, 1)
    assert kept == 4 * ROWS * 2 * FFN
    assert plain_kept == kept + 4 * ROWS * (FFN + RANK)


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_on_cuda_it_is_made_again_and_on_a_cpu_it_is_kept(gate: Callable[[Tensor], Tensor]) -> None:
    plain, plain_kept, _ = run(False, gate, value=True)
    here, here_kept, _ = run(True, gate, value=True)
    there, there_kept, weight = run(True, gate, value=True, cuda=True)
    assert all(map(torch.equal, here, plain)) and here_kept == plain_kept
    assert all(map(torch.equal, there, plain)) and there_kept == plain_kept - 4 * ROWS * (FFN + RANK)
    assert (weight.forwards, weight.backwards) == (1, 1)
