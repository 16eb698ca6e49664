"""Calls `native.c`, for float32 and bf16 on a CPU."""

import ctypes

import torch
from torch import Tensor

from luthier.kernels.rowwise import threads_for


def forward(
    library: ctypes.CDLL, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, plus_one: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `op._forward`, for contiguous tensors of one dtype."""
    rows, size = x.shape
    normed, rstd = torch.empty_like(x), torch.empty(rows, 1, dtype=torch.float32)
    total = x if delta is None else torch.empty_like(x)
    library.luthier_rms_norm_forward(
        x.data_ptr(), None if delta is None else delta.data_ptr(), weight.data_ptr(), total.data_ptr(),
        normed.data_ptr(), rstd.data_ptr(), rows, size, eps, plus_one, x.dtype == torch.bfloat16,
        threads_for(x.numel()),
    )  # fmt: skip
    return total, normed, rstd


def backward(
    library: ctypes.CDLL, dy: Tensor, dx: Tensor | None, x: Tensor, weight: Tensor, rstd: Tensor, plus_one: bool
) -> Tensor:
    """As `op._backward`, for contiguous tensors of one dtype, rstd in float32."""
    (rows, size), out = x.shape, torch.empty_like(x)
    library.luthier_rms_norm_backward(
        dy.data_ptr(), None if dx is None else dx.data_ptr(), x.data_ptr(), weight.data_ptr(), rstd.data_ptr(),
        out.data_ptr(), rows, size, plus_one, x.dtype == torch.bfloat16, threads_for(x.numel()),
    )  # fmt: skip
    return out
