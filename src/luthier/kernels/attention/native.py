"""Calls `native.c`, for float32 and bf16 on a CPU."""

import ctypes

import torch
from torch import Tensor

from luthier.kernels.rowwise import threads_for

MOST = 4096  # keys, as in native.c


def softmax(library: ctypes.CDLL, scores: Tensor, spans: Tensor, scale: float) -> None:
    """Contiguous scores (B, lines, M) become softmax(scale·scores) over what each line sees, and 0 elsewhere.

    Args:
        spans: (lines, 2) int64, contiguous: the first key that a line sees and the one behind the last.
        scale: above 0.
    """
    lines, keys = scores.shape[1:]
    library.luthier_softmax_rows(
        scores.data_ptr(), spans.data_ptr(), scores.shape[0] * lines, lines, keys, scale,
        scores.dtype == torch.bfloat16, threads_for(scores.numel()),
    )  # fmt: skip
