"""One call for every device: varlen flash attention on CUDA, batched products a segment elsewhere."""

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.attention.products import product_attention
from luthier.kernels.segments import Segments


def _varlen(qkv: Tensor, segments: Segments, num_heads: int, num_kv_heads: int, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    size = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    q, k, v = qkv.unflatten(1, (-1, size)).split([num_heads, num_kv_heads, num_kv_heads], dim=1)  # (T, heads, K)
    k, v = (t.repeat_interleave(num_heads // num_kv_heads, dim=1) for t in (k, v))
    cu_keys, longest_keys = segments.cu_seqlens, segments.longest
    if any(parent is not None for parent in segments.parents):
        rows, cu_keys, longest_keys = _keys(segments, qkv.device)
        k, v = k.index_select(0, rows), v.index_select(0, rows)
    left = -1 if window is None else window - 1  # the kernel counts from the end of the keys, which is where q ends
    out = varlen_attn(
        q.contiguous(), k.contiguous(), v.contiguous(),
        segments.cu_seqlens, cu_keys, segments.longest, longest_keys, window_size=(left, 0),
    )  # fmt: skip
    return out.flatten(1)


def _keys(segments: Segments, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Rows of the keys that each segment sees, laid end to end; where each segment's begin; the most one has."""
    if "varlen keys" not in segments.plans:
        rows = [segments.rows(index) for index in range(len(segments.spans))]
        lengths = torch.tensor([0, *map(len, rows)])
        cu_keys = lengths.cumsum(0).to(device, torch.int32)
        segments.plans["varlen keys"] = torch.cat(rows).to(device), cu_keys, int(lengths.max())
    return segments.plans["varlen keys"]


def attention(qkv: Tensor, segments: Segments, num_heads: int, num_kv_heads: int, window: int | None = None) -> Tensor:
    """Causal attention of each token to the tokens before it in its own segment and its parent.

    Args:
        qkv: (T, (H + 2G)·K), packed and already turned by RoPE; H a multiple of G.
        segments: where the stream is cut.
        num_heads, num_kv_heads: H and G.
        window: a token sees itself and the window − 1 tokens before it; None sees all.

    Returns:
        (T, H·K).
    """
    if qkv.device.type == "cuda" and qkv.dtype in (torch.bfloat16, torch.float16):
        return _varlen(qkv, segments, num_heads, num_kv_heads, window)
    return product_attention(qkv, segments, num_heads, num_kv_heads, window)


def attention_cached(q: Tensor, keys: Tensor, values: Tensor, window: int | None = None) -> Tensor:
    """Attention of the newest token to a cache, for generation.

    Args:
        q: (H, K), the newest token's queries.
        keys, values: (G, L, K), the cache with the newest token at the end.
        window: as in `attention`.

    Returns:
        (H·K,).
    """
    if window is not None:
        keys, values = keys[:, -window:], values[:, -window:]
    grouped = q.view(len(keys), -1, q.shape[-1])  # (G, H/G, K)
    return F.scaled_dot_product_attention(grouped, keys, values).flatten()
