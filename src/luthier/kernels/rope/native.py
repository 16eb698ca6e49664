"""Calls `native.c`, for float32 and bf16 on a CPU."""

import ctypes

import torch
from torch import Tensor

from luthier.kernels.rowwise import threads_for

MOST = 1024  # numbers of a head that is normed, as in native.c


def turn(
    library: ctypes.CDLL, source: Tensor, target: Tensor, cos: Tensor, sin: Tensor, num_heads: int, size: int, *,
    back: bool,
) -> None:  # fmt: skip
    """Turn the first `num_heads` heads of contiguous source (T, heads·K) into target, which may be source itself.

    Args:
        cos, sin: (T, R/2) float32, contiguous.
        size: K.
        back: by the negative angle.
    """
    (tokens, half), total = cos.shape, source.shape[1] // size
    library.luthier_rope_turn(
        source.data_ptr(), target.data_ptr(), cos.data_ptr(), sin.data_ptr(), tokens, num_heads, total, size, half,
        back, source.dtype == torch.bfloat16, threads_for(source.numel()),
    )  # fmt: skip


def norm_turn(
    library: ctypes.CDLL, qkv: Tensor, cos: Tensor, sin: Tensor, q_norm: Tensor, k_norm: Tensor, heads: tuple[int, int],
    eps: float, plus_one: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `op._norm_turn`, for contiguous tensors, the angles in float32 and the others of one dtype."""
    out, rstd = torch.empty_like(qkv), torch.empty(len(qkv), sum(heads), 1, dtype=torch.float32)
    _normed(library, None, qkv, out, rstd, cos, sin, q_norm, k_norm, heads, eps, plus_one)
    return out, rstd


def norm_turn_backward(
    library: ctypes.CDLL, dout: Tensor, qkv: Tensor, rstd: Tensor, cos: Tensor, sin: Tensor, q_norm: Tensor,
    k_norm: Tensor, heads: tuple[int, int], plus_one: bool,
) -> Tensor:  # fmt: skip
    """As `op._norm_turn_backward`, for tensors as above."""
    dqkv = torch.empty_like(qkv)
    _normed(library, dout, qkv, dqkv, rstd, cos, sin, q_norm, k_norm, heads, 0.0, plus_one)
    return dqkv


def _normed(
    library: ctypes.CDLL, dout: Tensor | None, qkv: Tensor, out: Tensor, rstd: Tensor, cos: Tensor, sin: Tensor,
    q_norm: Tensor, k_norm: Tensor, heads: tuple[int, int], eps: float, plus_one: bool,
) -> None:  # fmt: skip
    (tokens, half), total = cos.shape, heads[0] + 2 * heads[1]
    library.luthier_rope_norm_turn(
        None if dout is None else dout.data_ptr(), qkv.data_ptr(), out.data_ptr(), rstd.data_ptr(), cos.data_ptr(),
        sin.data_ptr(), q_norm.data_ptr(), k_norm.data_ptr(), tokens, heads[0], sum(heads), total,
        qkv.shape[1] // total, half, eps, plus_one, qkv.dtype == torch.bfloat16, threads_for(qkv.numel()),
    )  # fmt: skip
