"""SwiGLU on packed [gate | up]; only the packed input is kept, its gradient is written as one packed tensor.

With s = silu(gate):   dup = dh·s,   dgate = dh·up·silu'(gate).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        dgate_up = torch.empty_like(gate_up)
        dgate, dup = dgate_up.chunk(2, dim=-1)
        torch.mul(F.silu(gate), dh, out=dup)
        torch.ops.aten.silu_backward.grad_input(dh * up, gate, grad_input=dgate)
        return dgate_up


def swiglu(gate_up: Tensor) -> Tensor:
    """(T, 2F) packed [gate | up] → (T, F)."""
    return _SwiGLU.apply(gate_up)
