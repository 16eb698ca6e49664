"""Chunked over rows, the gradient made in the forward pass while the chunk's probabilities are at hand.

    logp[t] = z[t, y] − logsumexp(z[t]),  z = h Wᵀ          ∂logp[t]/∂h[t] = −(softmax(z[t]) − onehot(y)) W

The derivative of one row needs nothing of the other rows nor of the loss on top: whatever the objective (SFT, DPO,
KTO, a KL monitor), its gradient at row t is a scalar times that vector. So the forward keeps the (T, D) vectors, the
backward scales them, and two products a chunk are all there is; a backward that recomputes would need three. The head
is frozen: no gradient for it is made. Making the gradient in the forward is the idea of Liger's fused linear
cross-entropy (arXiv:2410.10989); keeping it per row makes it independent of the objective. The 1 of the one-hot is
taken off in float32, before the product: W[y] − softmax(z) W afterwards would cancel away for tokens that the model is
sure of.
"""

from typing import Any

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight

CHUNK_ROWS = 256
# The float32 work (exp, sum) runs on slices that stay in the cache of a CPU core; on GPUs the whole chunk is one slice.
CPU_SLICE_ROWS = 16


def _chunk(hidden: Tensor, head: FrozenWeight, targets: Tensor, out: Tensor, gradient: Tensor | None) -> None:
    logits = head.forward(hidden, None)  # (rows, V)
    rows = CPU_SLICE_ROWS if logits.device.type == "cpu" else len(logits)
    for part, target, logp in zip(logits.split(rows), targets.split(rows), out.split(rows), strict=True):
        wide = part.to(out.dtype)  # a copy, unless the dtypes agree and the logits themselves may be overwritten
        chosen = wide.gather(1, target.unsqueeze(1))  # (rows, 1)
        top = wide.amax(-1, keepdim=True)
        total = wide.sub_(top).exp_().sum(-1, keepdim=True)
        logp.copy_((chosen - top - total.log()).squeeze(1))
        if gradient is not None:
            torch.div(wide.scatter_add_(1, target.unsqueeze(1), -total), total, out=part)  # softmax − onehot
    if gradient is not None:
        gradient.copy_(head.backward(logits))


class _SelectedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: FrozenWeight, targets: Tensor) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logps = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            _chunk(hidden[rows], head, targets[rows], logps[rows], None if gradient is None else gradient[rows])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return logps

    @staticmethod
    def backward(ctx: Any, dlogps: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * -dlogps.unsqueeze(1).to(gradient.dtype), None, None


def selected_logprobs(hidden: Tensor, head: FrozenWeight, targets: Tensor) -> Tensor:
    """log p(targets[t] | hidden[t]) for each row.

    Args:
        hidden: (T, D), only the rows whose log-probability is wanted.
        head: W (V, D) in hidden's dtype.
        targets: (T,) int64.

    Returns:
        (T,) float32 (float64 for float64 input), natural logarithm.
    """
    return _SelectedLogprobs.apply(hidden, head, targets)
