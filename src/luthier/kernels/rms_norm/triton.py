"""One program a row, held in registers: each number is read once and written once, forward and backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _forward(
    x, delta, weight, total, normed, rstd, size, eps,
    ADD: tl.constexpr, PLUS_ONE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    place = row * size + column
    value = tl.load(x + place, mask=inside, other=0.0)
    if ADD:
        value = (value.to(tl.float32) + tl.load(delta + place, mask=inside, other=0.0).to(tl.float32)).to(value.dtype)
        tl.store(total + place, value, mask=inside)  # the norm sees the rounded sum, as everyone else does
    wide = value.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide) / size + eps)
    tl.store(rstd + row, scale)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if PLUS_ONE:
        result = wide * scale * (1.0 + factor)
    else:
        result = (wide * scale).to(value.dtype).to(tl.float32) * factor
    tl.store(normed + place, result.to(value.dtype), mask=inside)


@triton.jit
def _backward(
    dy, dx, x, weight, rstd, out, size, ADD: tl.constexpr, PLUS_ONE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    place = row * size + column
    g = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if PLUS_ONE:
        factor = 1.0 + factor
    g = g * factor
    scale = tl.load(rstd + row)
    unit = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * scale
    result = scale * (g - unit * (tl.sum(g * unit) / size))
    if ADD:
        result += tl.load(dx + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


def _shape(size: int) -> dict[str, int | bool]:
    """Sixteen numbers a thread, so that a row of 4096 takes eight warps."""
    block = triton.next_power_of_2(size)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16), "enable_fp_fusion": True}


def forward(
    x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, plus_one: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `op._forward`, for contiguous x and delta (T, D) in float32, bf16 or float16."""
    rows, size = x.shape
    total = x if delta is None else torch.empty_like(x)
    normed, rstd = torch.empty_like(x), torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    if rows:
        _forward[(rows,)](
            x, x if delta is None else delta, weight, total, normed, rstd, size, eps,
            ADD=delta is not None, PLUS_ONE=plus_one, **_shape(size),
        )  # fmt: skip
    return total, normed, rstd


def backward(dy: Tensor, dx: Tensor | None, x: Tensor, weight: Tensor, rstd: Tensor, plus_one: bool) -> Tensor:
    """As `op._backward`, for contiguous dy, dx and x (T, D)."""
    rows, size = x.shape
    out = torch.empty_like(x)
    if rows:
        _backward[(rows,)](
            dy, dy if dx is None else dx, x, weight, rstd, out, size,
            ADD=dx is not None, PLUS_ONE=plus_one, **_shape(size),
        )  # fmt: skip
    return out
