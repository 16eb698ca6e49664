"""logp[t] = (h[t] · W[target[t]]) − logsumexp(h[t] Wᵀ)."""

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.frozen_linear.naive import frozen_linear


def selected_logprobs(hidden: Tensor, head: FrozenWeight, targets: Tensor) -> Tensor:
    """(T, D), (V, D), (T,) → (T,) in float32 (float64 for float64 input), with every logit held at once."""
    logits = frozen_linear(hidden, head, None)  # (T, V)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(wide, dim=-1).gather(1, targets.unsqueeze(1)).squeeze(1)
