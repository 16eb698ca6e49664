"""y = x / sqrt(mean(x²) + eps) · w, with the statistics in float32 (float64 for float64 input)."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same order of roundings as `transformers`: normalise in float32, round to x's dtype, then multiply by w.

    Args:
        x: (T, D).
        weight: (D,).
        eps: added to the mean square.
    """
    wide = x.double() if x.dtype == torch.float64 else x.float()
    rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)  # (T, 1)
    return weight * (wide * rstd).to(x.dtype)
