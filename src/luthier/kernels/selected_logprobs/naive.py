"""logp[t] = z[t, target[t]] − logsumexp(z[t]),   z = h Wᵀ, or c·tanh(h Wᵀ / c) where logits are capped at c."""

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.frozen_linear.naive import frozen_linear


def selected_logprobs(hidden: Tensor, head: FrozenWeight, targets: Tensor, softcap: float | None = None) -> Tensor:
    """(T, D), (V, D), (T,) → (T,) in float32 (float64 for float64 input), with every logit held at once."""
    logits = frozen_linear(hidden, head, None)  # (T, V)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if softcap is not None:
        wide = softcap * torch.tanh(wide / softcap)
    return torch.log_softmax(wide, dim=-1).gather(1, targets.unsqueeze(1)).squeeze(1)
