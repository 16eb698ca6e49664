"""Attention as batched matrix products, a segment and a block of queries at a time, with a backward of its own.

Without a fused kernel this is the fastest exact form: on a CPU, products in bf16 run four times as fast as the flash
loop of torch's `scaled_dot_product_attention`, and a stream of short segments costs the sum of their squares, not the
square of their sum. Blocks of queries see only the keys up to their end, which halves the work of long segments and
bounds the memory of the probabilities.

With P = softmax(s·q kᵀ + mask), o = P v:

    dv = Pᵀ do      dP = do vᵀ      dS = P ∘ (dP − rowsum(dP ∘ P))      dq = s·dS k      dk = s·dSᵀ q

P is made again in the backward: keeping it would cost more memory than everything else of the layer.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from luthier.kernels.segments import Segments

QUERY_BLOCK = 256


def _blocks(segments: Segments, window: int | None) -> Iterator[tuple[int, int, int]]:
    """(first key, first query, token after the last query) of each block."""
    for start, end in segments.spans:
        for first in range(start, end, QUERY_BLOCK):
            stop = min(first + QUERY_BLOCK, end)
            yield start if window is None else max(start, first - window + 1), first, stop


def _mask(first_key: int, first: int, stop: int, window: int | None, like: Tensor) -> Tensor:
    """(queries, keys): 0 where a query sees a key, −inf elsewhere."""
    query = torch.arange(first, stop, device=like.device).unsqueeze(1)
    key = torch.arange(first_key, stop, device=like.device)
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


class _Heads:
    """The packed rows seen as heads: queries (G, H/G·L, K), keys and values (G, L, K)."""

    def __init__(self, num_heads: int, num_kv_heads: int, size: int, window: int | None) -> None:
        self.num_heads, self.num_kv_heads, self.size, self.window = num_heads, num_kv_heads, size, window
        self.shared = num_heads // num_kv_heads  # queries that share a key
        self.scale = size**-0.5

    def queries(self, packed: Tensor) -> Tensor:
        """(L, H·K) → (G, H/G·L, K)."""
        split = packed.view(len(packed), self.num_kv_heads, self.shared, self.size)
        return split.permute(1, 2, 0, 3).reshape(self.num_kv_heads, -1, self.size)

    def rows(self, heads: Tensor, out: Tensor) -> None:
        """(G, H/G·L, K) → out (L, H·K)."""
        length = len(out)
        split = heads.view(self.num_kv_heads, self.shared, length, self.size)
        out.view(length, self.num_kv_heads, self.shared, self.size).copy_(split.permute(2, 0, 1, 3))

    def keys(self, packed: Tensor) -> Tensor:
        """(L, G·K) → (G, L, K), a view."""
        return packed.view(len(packed), self.num_kv_heads, self.size).transpose(0, 1)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The q, k and v columns of packed rows."""
        wide, narrow = self.num_heads * self.size, self.num_kv_heads * self.size
        return qkv[:, :wide], qkv[:, wide : wide + narrow], qkv[:, wide + narrow :]

    def probabilities(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        """(G, H/G·L, keys)."""
        tiled = mask.repeat(self.shared, 1)  # (H/G·L, keys)
        return torch.baddbmm(tiled, q, k.transpose(1, 2), alpha=self.scale).softmax(-1)


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, segments: Segments, heads: _Heads) -> Tensor:
        out = qkv.new_empty(len(qkv), heads.num_heads * heads.size)
        q_rows, k_rows, v_rows = heads.split(qkv)
        for first_key, first, stop in _blocks(segments, heads.window):
            mask = _mask(first_key, first, stop, heads.window, qkv)
            p = heads.probabilities(heads.queries(q_rows[first:stop]), heads.keys(k_rows[first_key:stop]), mask)
            heads.rows(p @ heads.keys(v_rows[first_key:stop]), out[first:stop])
        ctx.save_for_backward(qkv)
        ctx.segments, ctx.heads = segments, heads
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        (qkv,), heads = ctx.saved_tensors, ctx.heads
        dqkv = torch.zeros_like(qkv)
        q_rows, k_rows, v_rows = heads.split(qkv)
        dq_rows, dk_rows, dv_rows = heads.split(dqkv)
        for first_key, first, stop in _blocks(ctx.segments, heads.window):
            keys = slice(first_key, stop)
            q, k, v = heads.queries(q_rows[first:stop]), heads.keys(k_rows[keys]), heads.keys(v_rows[keys])
            p = heads.probabilities(q, k, _mask(first_key, first, stop, heads.window, qkv))
            do = heads.queries(dout[first:stop])
            heads.keys(dv_rows[keys]).add_(p.transpose(1, 2) @ do)
            ds = torch._softmax_backward_data(do @ v.transpose(1, 2), p, -1, p.dtype).mul_(heads.scale)
            heads.rows(ds @ k, dq_rows[first:stop])
            heads.keys(dk_rows[keys]).add_(ds.transpose(1, 2) @ q)
        return dqkv, None, None


def segment_attention(
    qkv: Tensor, segments: Segments, num_heads: int, num_kv_heads: int, window: int | None = None
) -> Tensor:
    """As `op.attention`, on any device and in any dtype."""
    size = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    return _SegmentAttention.apply(qkv, segments, _Heads(num_heads, num_kv_heads, size, window))
