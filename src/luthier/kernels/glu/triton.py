"""A program a stretch of one row. The forward reads gate and up and writes h; the backward reads dh, gate and up, and
writes both gradients over gate and up."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _sigmoid(x):
    """1/(1 + exp(−x)) without an exponential that overflows."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def _act(x, ACTIVATION: tl.constexpr):
    """act(x) and act'(x) in float32."""
    if ACTIVATION == "silu":
        s = _sigmoid(x)
        slope = s * (1.0 + x * (1.0 - s))
    elif ACTIVATION == "gelu_tanh":
        square = x * x
        s = _sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * square))  # 2·√(2/π)
        slope = s + x * s * (1.0 - s) * (1.5957691216057308 * (1.0 + 0.134145 * square))
    else:
        s = 0.5 * (1.0 + tl.erf(0.7071067811865476 * x))
        slope = s + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)  # 1/√(2π)
    return x * s, slope


@triton.jit
def _forward(gate_up, h, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    first = gate_up + row * 2 * size + column
    gate = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(first + size, mask=inside, other=0.0).to(tl.float32)
    act, _ = _act(gate, ACTIVATION)
    act = act.to(h.dtype.element_ty).to(tl.float32)  # rounded as torch rounds it
    tl.store(h + row * size + column, (act * up).to(h.dtype.element_ty), mask=inside)


@triton.jit
def _backward(dh, gate_up, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    first = gate_up + row * 2 * size + column
    gate = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(first + size, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(dh + row * size + column, mask=inside, other=0.0).to(tl.float32)
    act, slope = _act(gate, ACTIVATION)
    tl.store(first, (d * up * slope).to(gate_up.dtype.element_ty), mask=inside)
    tl.store(first + size, (d * act).to(gate_up.dtype.element_ty), mask=inside)


def forward(gate_up: Tensor, activation: str) -> Tensor:
    """As `op._forward`, for contiguous gate_up in float32, bf16 or float16."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    h = torch.empty(rows, size, dtype=gate_up.dtype, device=gate_up.device)
    if rows:
        block = min(BLOCK, triton.next_power_of_2(size))
        _forward[(rows, triton.cdiv(size, block))](
            gate_up, h, size, ACTIVATION=activation, BLOCK=block, enable_fp_fusion=True
        )
    return h


def backward(dh: Tensor, gate_up: Tensor, activation: str) -> None:
    """As `op._backward`, for contiguous dh (T, F) and gate_up (T, 2F)."""
    rows, size = dh.shape
    if rows:
        block = min(BLOCK, triton.next_power_of_2(size))
        _backward[(rows, triton.cdiv(size, block))](
            dh, gate_up, size, ACTIVATION=activation, BLOCK=block, enable_fp_fusion=True
        )
