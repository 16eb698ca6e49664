"""y = x Wᵀ + bias + s · (x Aᵢᵀ) Bᵢᵀ, the i-th pair adding to the i-th slice of the output."""

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.frozen_linear.naive import frozen_linear


def lora_linear(
    x: Tensor, weight: FrozenWeight, bias: Tensor | None, a: Tensor, bs: Sequence[Tensor], scale: float
) -> Tensor:
    """Shapes as in `op.lora_linear`."""
    rank = a.shape[0] // len(bs)
    added = [x @ a[i * rank : (i + 1) * rank].to(x.dtype).T @ b.to(x.dtype).T for i, b in enumerate(bs)]
    return frozen_linear(x, weight, bias) + scale * torch.cat(added, dim=-1)
