"""kl[t] = Σ_v p[t, v] · (log p[t, v] − log q[t, v]),   p of the base, q of the tuned model, z = h Wᵀ or capped at c."""

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.frozen_linear.naive import frozen_linear


def base_kl(
    hidden: Tensor,
    base_hidden: Tensor,
    head: FrozenWeight,
    softcap: float | None = None,
    *,
    a: Tensor | None = None,
    b: Tensor | None = None,
    scale: float = 0.0,
) -> Tensor:
    """(T, D), (T, D), (V, D) → (T,) in float32 (float64 for float64 input), with every logit held at once."""
    logits = frozen_linear(hidden, head, None)  # (T, V)
    if a is not None and b is not None:
        logits = logits + scale * ((hidden @ a.to(hidden.dtype).T) @ b.to(hidden.dtype).T)
    tuned, base = (_log_softmax(z, softcap) for z in (logits, frozen_linear(base_hidden, head, None).detach()))
    return (base.exp() * (base - tuned)).sum(-1)


def _log_softmax(logits: Tensor, softcap: float | None) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if softcap is not None:
        wide = softcap * torch.tanh(wide / softcap)
    return torch.log_softmax(wide, dim=-1)
