"""A program a row: one pass over its logits for their largest and the sum of exponentials, a second that turns each
logit into its gradient where it lies. A row of 128 k logits is 256 KB, so the second pass mostly reads a GPU's L2."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
LEAST = tl.constexpr(-1e38)  # below every logit, and finite: −inf − −inf would be no number


@triton.jit
def _capped(s, cap):
    """cap·tanh(s/cap), through an exponential that cannot overflow, and without cancelling near 0."""
    u = s / cap
    small = tl.exp(-2.0 * tl.abs(u))
    square = u * u
    near = u * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    far = tl.where(u >= 0, 1.0, -1.0) * (1.0 - small) / (1.0 + small)
    return cap * tl.where(tl.abs(u) < 0.125, near, far)


@triton.jit
def _slope(s, cap):
    """The derivative of `_capped` by s, 1 − tanh²(s/cap), without the difference."""
    small = tl.exp(-2.0 * tl.abs(s / cap))
    return 4.0 * small / ((1.0 + small) * (1.0 + small))


@triton.jit
def _rows(
    logits, targets, logps, size, stride, cap,
    CAPPED: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first = logits + row * stride
    column = tl.arange(0, BLOCK)
    target = tl.load(targets + row)
    chosen = tl.load(first + target).to(tl.float32)  # before the reductions, whose barriers keep the
    # second pass of a quick warp from overwriting it
    if CAPPED:
        chosen = _capped(chosen, cap)
    top = tl.full((BLOCK,), LEAST, tl.float32)  # a maximum and a sum in each lane, put together once
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, size, BLOCK):
        inside = start + column < size
        z = tl.load(first + start + column, mask=inside, other=0.0).to(tl.float32)
        if CAPPED:
            z = _capped(z, cap)
        higher = tl.where(inside, tl.maximum(top, z), top)
        total = total * tl.exp(top - higher) + tl.where(inside, tl.exp(tl.where(inside, z - higher, 0.0)), 0.0)
        top = higher
    highest = tl.max(top)
    total = tl.sum(total * tl.exp(top - highest))
    tl.store(logps + row, chosen - highest - tl.log(total))
    if GRADIENT:
        for start in range(0, size, BLOCK):
            inside = start + column < size
            s = tl.load(first + start + column, mask=inside, other=0.0).to(tl.float32)
            z = s
            if CAPPED:
                z = _capped(s, cap)
            p = tl.exp(tl.where(inside, z - highest, 0.0)) / total
            p = tl.where(start + column == target, p - 1.0, p)
            if CAPPED:
                p = p * _slope(s, cap)
            tl.store(first + start + column, p.to(logits.dtype.element_ty), mask=inside)


def rows(logits: Tensor, targets: Tensor, out: Tensor, softcap: float | None, gradient: bool) -> None:
    """As `op._rows`, for logits (rows, V) in float32, bf16 or float16 and out (rows,) in float32, both contiguous."""
    number, size = logits.shape
    if number:
        block = min(BLOCK, triton.next_power_of_2(size))
        _rows[(number,)](
            logits, targets, out, size, logits.stride(0), softcap or 1.0,
            CAPPED=softcap is not None, GRADIENT=gradient, BLOCK=block, num_warps=8 if block >= 2048 else 4,
            enable_fp_fusion=True,
        )  # fmt: skip
