"""Calls `native.c`, for float32 and bf16 on a CPU."""

import ctypes

import torch
from torch import Tensor

from luthier.kernels.rowwise import threads_for

ACTIVATIONS = ("silu", "gelu_tanh")  # gelu itself needs an error function, which is torch's


def forward(library: ctypes.CDLL, gate_up: Tensor, activation: str) -> Tensor:
    """As `op._forward`, for contiguous gate_up."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    h = torch.empty(rows, size, dtype=gate_up.dtype)
    library.luthier_glu_forward(
        gate_up.data_ptr(), h.data_ptr(), rows, size, activation == "gelu_tanh", h.dtype == torch.bfloat16,
        threads_for(h.numel()),
    )  # fmt: skip
    return h


def backward(library: ctypes.CDLL, dh: Tensor, gate_up: Tensor, activation: str) -> None:
    """As `op._backward`, for contiguous dh (T, F) and gate_up (T, 2F)."""
    rows, size = dh.shape
    library.luthier_glu_backward(
        dh.data_ptr(), gate_up.data_ptr(), rows, size, activation == "gelu_tanh", dh.dtype == torch.bfloat16,
        threads_for(dh.numel()),
    )  # fmt: skip
