"""y = x Wᵀ + bias, plus s · (x Aᵢᵀ) Bᵢᵀ in the columns of the i-th pair."""

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.frozen_linear.naive import frozen_linear


def lora_linear(
    x: Tensor,
    weight: FrozenWeight,
    bias: Tensor | None,
    a: Tensor,
    bs: Sequence[Tensor],
    scale: float,
    starts: Sequence[int],
) -> Tensor:
    """Shapes as in `op.lora_linear`."""
    y, rank = frozen_linear(x, weight, bias), a.shape[0] // len(bs)
    for i, (b, start) in enumerate(zip(bs, starts, strict=True)):
        added = scale * (x @ a[i * rank : (i + 1) * rank].to(x.dtype).T @ b.to(x.dtype).T)
        before, behind = x.new_zeros(len(x), start), x.new_zeros(len(x), y.shape[1] - start - len(b))
        y = y + torch.cat([before, added, behind], 1)
    return y
