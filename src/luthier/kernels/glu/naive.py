"""h = act(gate) · up on packed [gate | up]."""

import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up: (T, 2F) → (T, F)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def geglu(gate_up: Tensor, *, approximate: bool) -> Tensor:
    """gelu(gate) · up: (T, 2F) → (T, F); `approximate` as in `op.geglu`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh" if approximate else "none") * up
