"""Gated linear units on packed [gate | up]. Only that is kept for the backward, and its memory becomes its gradient's.

    dup = dh·act(gate)      dgate = dh·up·act'(gate)

The packed input is a layer's largest activation. Nothing but this op needs its values (the linear that made it does
not), so the backward overwrites it: another T·2F numbers are never held. autograd is told, and a second backward
through the same graph raises an error instead of using what was overwritten.

With σ the logistic function:

    silu(x) = x·σ(x)                        silu'(x) = σ·(1 + x·(1 − σ))
    gelu(x) = x·Φ(x)                        gelu'(x) = Φ + x·exp(−x²/2)/√(2π)
    gelu(x) ≈ x·σ(2u), u = √(2/π)·(x + 0.044715·x³)     gelu'(x) ≈ σ + x·σ·(1 − σ)·2u'      since (1 + tanh u)/2 = σ(2u)
"""

import ctypes
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.function import Function
from luthier.kernels.glu import native
from luthier.kernels.rowwise import library_for

Activation = Literal["silu", "gelu", "gelu_tanh"]


def _act(gate: Tensor, activation: Activation) -> Tensor:
    if activation == "silu":
        return F.silu(gate)
    return F.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none")


def _act_backward(dy: Tensor, gate: Tensor, activation: Activation, out: Tensor) -> None:
    """dy·act'(gate) into `out`, which may be gate."""
    if activation == "silu":
        torch.ops.aten.silu_backward.grad_input(dy, gate, grad_input=out)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        torch.ops.aten.gelu_backward.grad_input(dy, gate, approximate=approximate, grad_input=out)


def _in_c(gate_up: Tensor, h: tuple[int, ...], activation: Activation, *others: Tensor) -> ctypes.CDLL | None:
    """The library where it takes gate_up, and `h` is the shape of the result."""
    fits = activation in native.ACTIVATIONS and len(h) == 2 and gate_up.shape == (h[0], 2 * h[1])
    return library_for(gate_up, *others) if fits else None


def _forward(gate_up: Tensor, activation: Activation) -> Tensor:
    """(T, 2F) → (T, F)."""
    if gate_up.is_cuda and gate_up.dtype != torch.float64:
        from luthier.kernels.glu.triton import forward as launch

        return launch(gate_up, activation)
    if library := _in_c(gate_up, (len(gate_up), gate_up.shape[-1] // 2), activation):
        return native.forward(library, gate_up, activation)
    gate, up = gate_up.chunk(2, dim=-1)
    return _act(gate, activation).mul_(up)


def _backward(dh: Tensor, gate_up: Tensor, activation: Activation) -> None:
    """gate_up (T, 2F) becomes its gradient."""
    if gate_up.is_cuda and gate_up.dtype != torch.float64:
        from luthier.kernels.glu.triton import backward as launch

        launch(dh.contiguous(), gate_up, activation)
        torch.autograd.graph.increment_version(gate_up)
        return
    if library := _in_c(gate_up, dh.shape, activation, dh := dh.contiguous()):
        native.backward(library, dh, gate_up, activation)
        torch.autograd.graph.increment_version(gate_up)
        return
    gate, up = gate_up.chunk(2, dim=-1)
    dact = dh * up
    torch.mul(_act(gate, activation), dh, out=up)
    _act_backward(dact, gate, activation, out=gate)


class _GLU(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, activation: Activation) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        ctx.activation = activation
        return _forward(gate_up, activation)

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor, None]:
        (gate_up,) = ctx.saved_tensors
        _backward(dh, gate_up, ctx.activation)
        return gate_up.detach(), None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up: (T, 2F) packed [gate | up], overwritten by the backward → (T, F)."""
    return _GLU.call(gate_up, "silu")


def geglu(gate_up: Tensor, *, approximate: bool) -> Tensor:
    """gelu(gate) · up: (T, 2F) packed [gate | up], overwritten by the backward → (T, F).

    Args:
        gate_up: (T, 2F).
        approximate: gelu by tanh, as Gemma has it ("gelu_pytorch_tanh"); else by the error function.
    """
    return _GLU.call(gate_up, "gelu_tanh" if approximate else "gelu")
