"""RoPE in place on the packed q, k of one linear's output; the backward turns by the negative angle."""

from typing import Any

import torch
from torch import Tensor


def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """heads (T, heads, K), a view of the packed rows, is overwritten."""
    x1, x2 = heads.chunk(2, dim=-1)
    turned = (x1 * cos).addcmul_(x2, sin, value=-1)
    x2.mul_(cos).addcmul_(x1, sin)
    x1.copy_(turned)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int) -> Tensor:
        cos, sin = cos.unsqueeze(1).to(qkv.dtype), sin.unsqueeze(1).to(qkv.dtype)  # (T, 1, K/2)
        width = 2 * cos.shape[-1]
        _turn(qkv[:, : num_heads * width].unflatten(1, (num_heads, width)), cos, sin)
        ctx.save_for_backward(cos, sin)
        ctx.num_heads, ctx.width = num_heads, width
        ctx.mark_dirty(qkv)
        return qkv

    @staticmethod
    def backward(ctx: Any, dqkv: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        dqkv = dqkv.clone()  # autograd may hand the same gradient to others
        _turn(dqkv[:, : ctx.num_heads * ctx.width].unflatten(1, (ctx.num_heads, ctx.width)), cos, -sin)
        return dqkv, None, None, None


def rope(qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int) -> Tensor:
    """Turn the first `num_heads` heads (queries, then keys) of packed rows in place; the values behind them stay.

    Args:
        qkv: (T, (H + 2G)·K), overwritten and returned.
        cos, sin: (T, K/2) of each token's angles, float32.
        num_heads: H + G.
    """
    return _Rope.apply(qkv, cos, sin, num_heads)
