"""Ops while gradients are off: the same results, autograd left out, and nothing kept."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers_numerics import randn
from luthier.kernels import function
from luthier.kernels.frozen_linear import DenseWeight, frozen_linear
from luthier.kernels.function import Function
from luthier.kernels.glu import swiglu
from luthier.kernels.lora_linear import lora_linear
from luthier.kernels.rms_norm import add_rms_norm
from luthier.kernels.rope import rope
from luthier.kernels.selected_logprobs import selected_logprobs

WEIGHT, ANGLE = DenseWeight(randn(12, 12, seed=1)), randn(5, 2, seed=2)
A, B = randn(2, 12, seed=3, grad=True), randn(12, 2, seed=4, grad=True)
OPS = {
    "frozen_linear": lambda x: frozen_linear(x, WEIGHT, None),
    "lora_linear": lambda x: lora_linear(x, WEIGHT, None, A, [B], 0.5, [0]),
    "add_rms_norm": lambda x: add_rms_norm(x, x, randn(12, seed=5), 1e-5)[1],
    "rope": lambda x: rope(x * 1, ANGLE.cos(), ANGLE.sin(), 2),
    "swiglu": swiglu,
    "selected_logprobs": lambda x: selected_logprobs(x, WEIGHT, torch.arange(5)),
}


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_without_gradients_it_is_the_forward_alone(op: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = randn(5, 12, grad=True)
    with_gradient = op(x)
    monkeypatch.setattr(torch.autograd.Function, "apply", None)
    with torch.no_grad():
        alone = op(x)
    assert with_gradient.requires_grad and not alone.requires_grad
    assert torch.equal(with_gradient, alone)


def test_nothing_is_kept_without_gradients() -> None:
    class Doubled(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            ctx.x = x
            assert not ctx.needs_input_grad[0]
            return 2 * x

    x = torch.ones(3)
    held = weakref.ref(x)
    with torch.no_grad():
        assert Doubled.call(x).sum() == 6
    assert not vars(function._NOTHING)
    del x
    gc.collect()
    assert held() is None
