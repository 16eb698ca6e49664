"""RoPE on the packed q, k of one linear's output, alone and in place, or behind the norm that some families give each
head of q and k.

A turn is undone by the turn by the negative angle, so the backward of RoPE alone needs nothing but the angles. The norm
needs its input: with it the result is a new tensor and the linear's output is kept. Derivative of the norm: `rms_norm`.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from luthier.kernels.function import Function
from luthier.kernels.rope import native
from luthier.kernels.rowwise import library_for


def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """heads (T, heads, K), a view of the packed rows, is overwritten."""
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(1).to(heads.dtype), sin.unsqueeze(1).to(heads.dtype)  # (T, 1, R/2)
    x1, x2 = heads[..., :half], heads[..., half : 2 * half]
    turned = (x1 * cos).addcmul_(x2, sin, value=-1)
    x2.mul_(cos).addcmul_(x1, sin)
    x1.copy_(turned)


def _fused(qkv: Tensor) -> bool:
    """Whether the Triton kernels do it."""
    return qkv.is_cuda and qkv.dtype != torch.float64


def _angles_fit(qkv: Tensor, cos: Tensor, sin: Tensor, size: int) -> bool:
    """Whether C takes these angles for rows of heads of `size` numbers."""
    return (
        qkv.dim() == cos.dim() == 2
        and size > 0
        and qkv.shape[1] % size == 0
        and len(cos) == len(qkv)
        and 2 * cos.shape[1] <= size
        and cos.shape == sin.shape
        and cos.dtype == sin.dtype == torch.float32
        and cos.device == sin.device == qkv.device
    )


def _in_c(qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, size: int) -> ctypes.CDLL | None:
    """The library where it takes rows qkv and their angles."""
    fits = _angles_fit(qkv, cos, sin, size) and num_heads * size <= qkv.shape[1]
    return library_for(qkv) if fits else None


def _norms_in_c(
    qkv: Tensor, cos: Tensor, sin: Tensor, q_norm: Tensor, k_norm: Tensor, heads: tuple[int, int], *others: Tensor
) -> ctypes.CDLL | None:
    """The library where it takes rows qkv, their angles, norms of their heads, and others of qkv's shape."""
    size = q_norm.numel()
    fits = (
        size <= native.MOST
        and q_norm.shape == k_norm.shape == (size,)
        and _angles_fit(qkv, cos, sin, size)
        and qkv.shape[1] == (heads[0] + 2 * heads[1]) * size
        and all(other.shape == qkv.shape for other in others)
    )
    return library_for(qkv, q_norm, k_norm, *others) if fits else None


class _Rope(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, size: int) -> Tensor:
        if _fused(qkv):
            from luthier.kernels.rope.triton import turn as launch

            launch(qkv, qkv, cos, sin, num_heads, size, back=False)
        elif library := _in_c(qkv, cos, sin, num_heads, size):
            native.turn(library, qkv, qkv, cos.contiguous(), sin.contiguous(), num_heads, size, back=False)
        else:
            _turn(qkv[:, : num_heads * size].unflatten(1, (num_heads, size)), cos, sin)
        ctx.save_for_backward(cos, sin)
        ctx.num_heads, ctx.size = num_heads, size
        ctx.mark_dirty(qkv)
        return qkv

    @staticmethod
    def backward(ctx: Any, dqkv: Tensor) -> tuple[Tensor | None, ...]:
        (cos, sin), num_heads, size = ctx.saved_tensors, ctx.num_heads, ctx.size
        if _fused(dqkv):  # not in place: autograd may hand the same gradient to others
            from luthier.kernels.rope.triton import turn as launch

            dqkv = dqkv.contiguous()
            out = torch.empty_like(dqkv)
            launch(dqkv, out, cos, sin, num_heads, size, back=True)
        elif library := _in_c(dqkv := dqkv.contiguous(), cos, sin, num_heads, size):
            out = torch.empty_like(dqkv)
            native.turn(library, dqkv, out, cos.contiguous(), sin.contiguous(), num_heads, size, back=True)
        else:
            out = dqkv.clone(memory_format=torch.contiguous_format)
            _turn(out[:, : num_heads * size].unflatten(1, (num_heads, size)), cos, -sin)
        return out, None, None, None, None


def rope(qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, size: int | None = None) -> Tensor:
    """Turn the first `num_heads` heads (queries, then keys) of packed rows in place; the values behind them stay.

    Args:
        qkv: (T, (H + 2G)·K), contiguous, overwritten and returned.
        cos, sin: (T, R/2) of each token's angles, float32.
        num_heads: H + G.
        size: K; by default R. Where it is more, the last K − R numbers of a head stay as they are.
    """
    assert qkv.is_contiguous(), "it is overwritten"
    return _Rope.call(qkv, cos, sin, num_heads, size or 2 * cos.shape[-1])


def _norm_turn(
    qkv: Tensor, cos: Tensor, sin: Tensor, q_norm: Tensor, k_norm: Tensor, heads: tuple[int, int], eps: float,
    plus_one: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The result, and 1/rms of each head (T, H + G, 1) in float32 (float64 for float64)."""
    count, wide = sum(heads), torch.promote_types(qkv.dtype, torch.float32)
    packed = qkv.unflatten(1, (heads[0] + 2 * heads[1], -1))  # (T, H + 2G, K)
    x = packed[:, :count].to(wide, copy=True)
    rstd = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)
    x.mul_(rstd)
    out = torch.empty_like(packed)
    for part, normed, weight in zip(
        out.split([*heads, heads[1]], 1), x.split(heads, 1), (q_norm, k_norm), strict=False
    ):
        if plus_one:
            torch.mul(normed, 1 + weight.to(wide), out=part)
        else:
            part.copy_(normed).mul_(weight)
    out[:, count:] = packed[:, count:]
    _turn(out[:, :count], cos, sin)
    return out.flatten(1), rstd


def _norm_turn_backward(
    dout: Tensor, qkv: Tensor, rstd: Tensor, cos: Tensor, sin: Tensor, q_norm: Tensor, k_norm: Tensor,
    heads: tuple[int, int], plus_one: bool,
) -> Tensor:  # fmt: skip
    """The gradient of qkv (T, (H + 2G)·K)."""
    count, wide = sum(heads), rstd.dtype
    dqkv = dout.clone(memory_format=torch.contiguous_format).unflatten(1, (heads[0] + 2 * heads[1], -1))
    turned = dqkv[:, :count]
    _turn(turned, cos, -sin)
    unit = qkv.unflatten(1, dqkv.shape[1:])[:, :count] * rstd  # (T, H + G, K)
    g = torch.empty_like(unit)
    for part, dy, weight in zip(g.split(heads, 1), turned.split(heads, 1), (q_norm, k_norm), strict=True):
        torch.mul(dy, weight.to(wide) + 1 if plus_one else weight.to(wide), out=part)
    mean = torch.linalg.vecdot(g, unit).div_(unit.shape[-1]).unsqueeze(-1)
    torch.mul(g.addcmul_(unit, mean, value=-1), rstd, out=turned)
    return dqkv.flatten(1)


class _NormRope(Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, q_norm: Tensor, k_norm: Tensor, heads: tuple[int, int],
        eps: float, plus_one: bool,
    ) -> Tensor:  # fmt: skip
        if _fused(qkv):
            from luthier.kernels.rope.triton import norm_turn as launch

            qkv = qkv.contiguous()
            out, rstd = launch(qkv, cos, sin, q_norm, k_norm, heads, eps, plus_one)
        elif library := _norms_in_c(qkv := qkv.contiguous(), cos, sin, q_norm, k_norm, heads):
            cos, sin = cos.contiguous(), sin.contiguous()
            out, rstd = native.norm_turn(library, qkv, cos, sin, q_norm, k_norm, heads, eps, plus_one)
        else:
            out, rstd = _norm_turn(qkv, cos, sin, q_norm, k_norm, heads, eps, plus_one)
        ctx.save_for_backward(qkv, rstd, cos, sin, q_norm, k_norm)
        ctx.heads, ctx.plus_one = heads, plus_one
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        qkv, rstd, *given = ctx.saved_tensors
        if _fused(dout):
            from luthier.kernels.rope.triton import norm_turn_backward as launch

            dqkv = launch(dout.contiguous(), qkv, rstd, *given, ctx.heads, ctx.plus_one)
        elif library := _norms_in_c(qkv, *given, ctx.heads, dout := dout.contiguous()):
            dqkv = native.norm_turn_backward(library, dout, qkv, rstd, *given, ctx.heads, ctx.plus_one)
        else:
            dqkv = _norm_turn_backward(dout, qkv, rstd, *given, ctx.heads, ctx.plus_one)
        return dqkv, *[None] * 7


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
    """Norm each head of q and k by itself (`rms_norm` over K), then turn it; v as it was.

    Args:
        qkv: (T, (H + 2G)·K), kept for the backward.
        cos, sin: (T, R/2) of each token's angles, float32; where R is less than K only the first R numbers of a head
            turn, and of width 0 none.
        num_heads, num_kv_heads: H and G.
        q_norm, k_norm: (K,), get no gradient.
        eps, plus_one: as in `rms_norm`.

    Returns:
        (T, (H + 2G)·K), a new tensor.
    """
    return _NormRope.call(qkv, cos, sin, q_norm, k_norm, (num_heads, num_kv_heads), eps, plus_one)
