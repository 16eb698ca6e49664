"""y = x Wᵀ + bias + s · (x Aᵢᵀ) Bᵢᵀ, the i-th pair adding to the i-th slice of the output."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, bs: Sequence[Tensor], scale: float
) -> Tensor:
    """Shapes as in `op.lora_linear`."""
    rank = a.shape[0] // len(bs)
    added = [x @ a[i * rank : (i + 1) * rank].to(x.dtype).T @ b.to(x.dtype).T for i, b in enumerate(bs)]
    return F.linear(x, weight, bias) + scale * torch.cat(added, dim=-1)
