"""Calls `native.c`, for float32 and bf16 on a CPU."""

import ctypes

import torch
from torch import Tensor

from luthier.kernels.rowwise import threads_for


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
