"""RMSNorm with a backward of its own: the weight is frozen, so only dx is made, and only x and 1/rms are kept.

With r = 1/sqrt(mean(x²) + eps), w the factor, x̂ = x·r and g = dy·w:

    dx = r·(g − x̂·mean(g·x̂)) = r·(g − x·r²·mean(g·x))

Where x is a residual stream, x = stream + delta, the sum is made in the same pass, and the gradient that reaches x by
way of the stream is added to dx in the same pass: stream and delta both get the total.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from luthier.kernels.function import Function
from luthier.kernels.rms_norm import native
from luthier.kernels.rowwise import library_for


def _in_c(x: Tensor, weight: Tensor, *others: Tensor | None) -> ctypes.CDLL | None:
    """The library where it takes rows x, their weight, and what is there of others of x's shape."""
    alike = [x, *(other for other in others if other is not None)]
    fits = x.dim() == 2 and weight.shape == x.shape[1:] and all(other.shape == x.shape for other in alike)
    return library_for(weight, *alike) if fits else None


def _forward(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, plus_one: bool) -> tuple[Tensor, ...]:
    """The sum (T, D) (x itself without delta), the normed sum (T, D), and 1/rms (T, 1) in float32."""
    if x.is_cuda and x.dtype != torch.float64:
        from luthier.kernels.rms_norm.triton import forward as launch

        return launch(x.contiguous(), None if delta is None else delta.contiguous(), weight, eps, plus_one)
    x, delta = x.contiguous(), None if delta is None else delta.contiguous()
    if library := _in_c(x, weight, delta):
        return native.forward(library, x, delta, weight, eps, plus_one)
    if delta is not None:
        x = x + delta
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    rstd = torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)  # (T, 1)
    normed = torch.mul(wide, rstd, out=None if wide is x else wide)
    if plus_one:
        return x, normed.mul_(1 + weight.to(wide.dtype)).to(x.dtype), rstd
    return x, normed.to(x.dtype).mul_(weight), rstd


def _backward(dy: Tensor, dx: Tensor | None, x: Tensor, weight: Tensor, rstd: Tensor, plus_one: bool) -> Tensor:
    """The gradient of x (T, D); dx is what reaches x by other ways than the norm."""
    if x.is_cuda and x.dtype != torch.float64:
        from luthier.kernels.rms_norm.triton import backward as launch

        return launch(dy.contiguous(), None if dx is None else dx.contiguous(), x, weight, rstd, plus_one)
    dy, dx = dy.contiguous(), None if dx is None else dx.contiguous()
    if library := _in_c(x, weight, dy, dx):
        return native.backward(library, dy, dx, x, weight, rstd, plus_one)
    wide, factor = x.to(rstd.dtype), weight.to(rstd.dtype)
    g = dy * (1 + factor if plus_one else factor)  # (T, D), in rstd's dtype
    mean = torch.linalg.vecdot(g, wide).div_(x.shape[-1]).unsqueeze(-1)  # (T, 1)
    g.addcmul_(wide, mean.mul_(rstd).mul_(rstd), value=-1).mul_(rstd)
    return g.to(x.dtype) if dx is None else torch.add(g, dx, out=torch.empty_like(x))


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Tensor:
        x, normed, rstd = _forward(x, None, weight, eps, plus_one)
        ctx.save_for_backward(x, weight, rstd)
        ctx.plus_one = plus_one
        return normed

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(dy, None, *ctx.saved_tensors, ctx.plus_one), None, None, None


class _AddRMSNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, weight: Tensor, eps: float, plus_one: bool
    ) -> tuple[Tensor, Tensor]:
        x, normed, rstd = _forward(x, delta, weight, eps, plus_one)
        ctx.save_for_backward(x, weight, rstd)
        ctx.plus_one = plus_one
        ctx.set_materialize_grads(False)
        return x, normed

    @staticmethod
    def backward(ctx: Any, dx: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is not None:
            dx = _backward(dy, dx, *ctx.saved_tensors, ctx.plus_one)
        return dx, dx, None, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, plus_one: bool = False) -> Tensor:
    """Normalise each row of x to root mean square 1 and scale by the frozen weight.

    Args:
        x: (T, D).
        weight: (D,), gets no gradient.
        eps: added to the mean square.
        plus_one: scale by 1 + weight, in float32 and rounded once, as Gemma does; else round before scaling, as Llama.
    """
    return _RMSNorm.call(x, weight, eps, plus_one)


def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, plus_one: bool = False
) -> tuple[Tensor, Tensor]:
    """A block's result added to the residual stream, and the next block's normed input.

    Args:
        x, delta: (T, D), one dtype.
        weight, eps, plus_one: as in `rms_norm`.

    Returns:
        x + delta (T, D), and its `rms_norm` (T, D).
    """
    return _AddRMSNorm.call(x, delta, weight, eps, plus_one)
