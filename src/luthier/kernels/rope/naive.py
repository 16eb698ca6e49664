"""Each pair (x[i], x[i + K/2]) of a head is turned by the angle position · frequency[i]."""

import torch
from torch import Tensor


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[x1, x2] → [x1·cos − x2·sin, x2·cos + x1·sin].

    Args:
        x: (T, heads, K).
        cos, sin: (T, K/2) of each token's angles.
    """
    x1, x2 = x.chunk(2, dim=-1)  # 2 × (T, heads, K/2)
    cos, sin = cos.unsqueeze(1).to(x.dtype), sin.unsqueeze(1).to(x.dtype)  # (T, 1, K/2)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)
