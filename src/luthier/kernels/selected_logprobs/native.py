"""Calls `native.c`, for float32 and bf16 on a CPU."""

import ctypes

import torch
from torch import Tensor

from luthier.kernels.rowwise import threads_for


def rows(
    library: ctypes.CDLL, logits: Tensor, targets: Tensor, out: Tensor, softcap: float | None, gradient: bool
) -> None:
    """As `op._rows`, for logits (rows, V) whose rows are contiguous, targets int64 and out float32, both contiguous.

    Raises:
        IndexError: a target is not in the vocabulary.
    """
    number, size = logits.shape
    failed = library.luthier_logprobs_rows(
        logits.data_ptr(), targets.data_ptr(), out.data_ptr(), number, size, logits.stride(0), softcap or 0.0, gradient,
        logits.dtype == torch.bfloat16, threads_for(logits.numel()),
    )  # fmt: skip
    if failed:
        raise IndexError(f"a target is not one of {size} tokens")
