"""softmax(cap(q kᵀ / √K) + mask) v, with cap(x) = c·tanh(x/c) where scores are capped, and the
whole (T, T) mask: causal, same segment or its parent, inside the window."""

import torch
from torch import Tensor

from luthier.kernels.segments import Segments


def attention(
    qkv: Tensor,
    segments: Segments,
    num_heads: int,
    num_kv_heads: int,
    window: int | None = None,
    *,
    softcap: float | None = None,
) -> Tensor:
    """Shapes as in `op.attention`; the softmax runs in float32 (float64 for float64 input)."""
    size = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    q, k, v = qkv.unflatten(1, (-1, size)).split([num_heads, num_kv_heads, num_kv_heads], dim=1)  # (T, heads, K)
    k, v = (t.repeat_interleave(num_heads // num_kv_heads, dim=1) for t in (k, v))  # (T, H, K)
    scores = torch.einsum("qhk,shk->hqs", q, k) * size**-0.5  # (H, T, T)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    index, position = torch.arange(len(qkv), device=qkv.device), segments.positions
    owner = torch.repeat_interleave(torch.arange(len(segments.spans)), segments.cu_seqlens.diff().long().cpu())  # (T,)
    parent = torch.tensor([-1 if parent is None else parent for parent in segments.parents])[owner]  # (T,)
    owner, parent = owner.to(qkv.device), parent.to(qkv.device)
    seen = (index[:, None] >= index) & ((owner[:, None] == owner) | (parent[:, None] == owner))
    if window is not None:
        seen &= position[:, None] - position < window
    wide = torch.promote_types(qkv.dtype, torch.float32)
    weights = scores.to(wide).masked_fill(~seen, float("-inf")).softmax(-1).to(qkv.dtype)
    return torch.einsum("hqs,shk->qhk", weights, v).flatten(1)
