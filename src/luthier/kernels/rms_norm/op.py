"""RMSNorm with a backward of its own: the weight is frozen, so only dx is made, and only x and 1/rms are kept.

With r = 1/sqrt(mean(x²) + eps), x̂ = x·r and g = dy·w:   dx = r·(g − x̂·mean(g·x̂)).
"""

from typing import Any

import torch
from torch import Tensor


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)  # (T, 1)
        ctx.save_for_backward(x, weight, rstd)
        return (wide * rstd).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        x, weight, rstd = ctx.saved_tensors
        normed = x * rstd  # (T, D), in rstd's dtype
        g = dy * weight.to(rstd.dtype)
        mean = torch.linalg.vecdot(g, normed).div_(x.shape[-1]).unsqueeze(-1)  # (T, 1)
        return g.sub_(normed.mul_(mean)).mul_(rstd).to(x.dtype), None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise each row of x to root mean square 1 and scale by the frozen weight.

    Args:
        x: (T, D).
        weight: (D,), gets no gradient.
        eps: added to the mean square.
    """
    return _RMSNorm.apply(x, weight, eps)
