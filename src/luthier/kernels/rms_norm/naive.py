"""y = x / sqrt(mean(x²) + eps) · w, with the statistics in float32 (float64 for float64 input)."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, plus_one: bool = False) -> Tensor:
    """The same order of roundings as `transformers`.

    Llama and most others normalise in float32, round to x's dtype, then multiply by w. Gemma (`plus_one`) multiplies by
    1 + w in float32 and rounds once.

    Args:
        x: (..., D).
        weight: (D,).
        eps: added to the mean square.
        plus_one: the factor is 1 + w.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)  # (..., D)
    if plus_one:
        return (normed * (1 + weight.to(wide.dtype))).to(x.dtype)
    return weight * normed.to(x.dtype)


def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, plus_one: bool = False
) -> tuple[Tensor, Tensor]:
    """(x + delta, its `rms_norm`), all (..., D)."""
    x = x + delta
    return x, rms_norm(x, weight, eps, plus_one=plus_one)
