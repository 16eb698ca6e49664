"""Chunked over rows, the gradient made in the forward pass while the chunk's probabilities are at hand.

    logp[t] = z[t, y] − logsumexp(z[t]),  z = h Wᵀ          ∂logp[t]/∂h[t] = −(softmax(z[t]) − onehot(y)) W

The derivative of one row needs nothing of the other rows nor of the loss on top: whatever the objective (SFT, DPO,
KTO, a KL monitor), its gradient at row t is a scalar times that vector. So the forward keeps the (T, D) vectors, the
backward scales them, and two products a chunk are all there is; a backward that recomputes would need three. The head
is frozen: no gradient for it is made. Making the gradient in the forward is the idea of Liger's fused linear
cross-entropy (arXiv:2410.10989); keeping it per row makes it independent of the objective. The 1 of the one-hot is
taken off in float32, before the product: W[y] − softmax(z) W afterwards would cancel away for tokens that the model is
sure of.

Where logits are capped (Gemma 2), z = c·tanh(s/c) with s = h Wᵀ, and softmax − onehot is multiplied by
dz/ds = 1 − tanh²(s/c) before the product.
"""

from typing import Any

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.function import Function
from luthier.kernels.rowwise import library_for
from luthier.kernels.selected_logprobs import native

CPU_ROWS = 256
# The float32 work (exp, sum) runs on slices that stay in the cache of a CPU core; on a GPU a chunk is one launch.
CPU_SLICE_ROWS = 16
# On a GPU a chunk reads the whole head twice. Below some 300 rows that takes longer than its products (798 TFLOP/s over
# 3 TB/s on an H100), so chunks are of 2048 rows; of fewer where their logits would take more than a thirty-second of
# the card's memory, but not so few that the head's reading is what limits.
GPU_ROWS, GPU_LEAST_ROWS, GPU_SHARE = 2048, 512, 32


def gpu_chunk_rows(row_bytes: int, card_bytes: int) -> int:
    """Rows of a chunk on a card with `card_bytes` of memory, where a row's logits take `row_bytes`.

    From the card's whole memory, not what is free of it: the same run must cut its rows the same way again.
    """
    rows = GPU_ROWS
    while rows > GPU_LEAST_ROWS and rows * row_bytes * GPU_SHARE > card_bytes:
        rows //= 2
    return rows


def chunk_rows(device: torch.device, row_bytes: int) -> int:
    """Rows whose logits, of `row_bytes` each, are made at a time on `device`."""
    if device.type != "cuda":
        return CPU_ROWS
    return gpu_chunk_rows(row_bytes, torch.cuda.get_device_properties(device).total_memory)


def _chunk_rows(hidden: Tensor, head: FrozenWeight) -> int:
    return chunk_rows(hidden.device, head.shape[0] * hidden.element_size())


def _rows(logits: Tensor, targets: Tensor, out: Tensor, softcap: float | None, gradient: bool) -> None:
    """Log-probabilities (rows,) into out; with `gradient`, logits (rows, V) become softmax − onehot, times dz/ds."""
    if logits.is_cuda and logits.dtype != torch.float64:
        from luthier.kernels.selected_logprobs.triton import rows as launch

        launch(logits, targets, out, softcap, gradient)
        return
    fits = targets.dtype == torch.int64 and targets.device == logits.device
    fits &= targets.shape == out.shape == logits.shape[:1]
    if fits and (library := library_for(logits)):
        native.rows(library, logits, targets.contiguous(), out, softcap, gradient)
        return
    for part, target, logp in zip(*(x.split(CPU_SLICE_ROWS) for x in (logits, targets, out)), strict=True):
        wide = part.to(out.dtype)  # a copy, unless the dtypes agree and the logits themselves may be overwritten
        slope = None
        if softcap is not None:
            wide = wide.div_(softcap).tanh_()
            slope = 1 - wide.square() if gradient else None
            wide.mul_(softcap)
        chosen = wide.gather(1, target.unsqueeze(1))  # (rows, 1)
        top = wide.amax(-1, keepdim=True)
        total = wide.sub_(top).exp_().sum(-1, keepdim=True)
        logp.copy_((chosen - top - total.log()).squeeze(1))
        if gradient:
            wide.scatter_add_(1, target.unsqueeze(1), -total)  # (softmax − onehot)·total
            torch.div(wide if slope is None else wide.mul_(slope), total, out=part)


class _SelectedLogprobs(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: FrozenWeight, targets: Tensor, softcap: float | None) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logps = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = _chunk_rows(hidden, head)
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            logits = head.forward(hidden[rows], None)  # (rows, V)
            _rows(logits, targets[rows], logps[rows], softcap, gradient is not None)
            if gradient is not None:
                gradient[rows] = head.backward(logits)
            del logits  # else the next chunk's are made beside them
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return logps

    @staticmethod
    def backward(ctx: Any, dlogps: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        # In float32: a mean over n rows scales all by 1/n, and rounded to bf16 that is up to 0.4 % off for all alike.
        return torch.mul(gradient, -dlogps.unsqueeze(1), out=torch.empty_like(gradient)), None, None, None


def selected_logprobs(hidden: Tensor, head: FrozenWeight, targets: Tensor, softcap: float | None = None) -> Tensor:
    """log p(targets[t] | hidden[t]) for each row.

    Args:
        hidden: (T, D), only the rows whose log-probability is wanted.
        head: W (V, D) in hidden's dtype.
        targets: (T,) int64.
        softcap: c, where a logit s counts as c·tanh(s/c).

    Returns:
        (T,) float32 (float64 for float64 input), natural logarithm.
    """
    return _SelectedLogprobs.call(hidden, head, targets, softcap)
