"""Each pair (x[i], x[i + R/2]) of a head's first R numbers is turned by the angle position · frequency[i]."""

import torch
from torch import Tensor

from luthier.kernels.rms_norm.naive import rms_norm


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[x1, x2, rest] → [x1·cos − x2·sin, x2·cos + x1·sin, rest].

    Args:
        x: (T, heads, K).
        cos, sin: (T, R/2) of each token's angles; R is K, or less where only the first part of a head turns.
    """
    half = cos.shape[-1]
    x1, x2, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)  # 2 × (T, heads, R/2), (T, heads, K − R)
    cos, sin = cos.unsqueeze(1).to(x.dtype), sin.unsqueeze(1).to(x.dtype)  # (T, 1, R/2)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest], dim=-1)


def norm_rope(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    num_heads: int,
    num_kv_heads: int,
    q_norm: Tensor,
    k_norm: Tensor,
    eps: float,
    *,
    plus_one: bool = False,
) -> Tensor:
    """As `op.norm_rope`: norm each head of q and k by itself, turn it, leave v."""
    heads = qkv.unflatten(1, (num_heads + 2 * num_kv_heads, -1))  # (T, H + 2G, K)
    q, k, v = heads.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    q, k = rms_norm(q, q_norm, eps, plus_one=plus_one), rms_norm(k, k_norm, eps, plus_one=plus_one)
    return torch.cat([rope(q, cos, sin), rope(k, cos, sin), v], 1).flatten(1)
