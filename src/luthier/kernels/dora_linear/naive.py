"""yᵢ = mᵢ / ‖Wᵢ + s·BᵢAᵢ‖ ⊙ (x (Wᵢ + s·BᵢAᵢ)ᵀ) + biasᵢ in the columns of the i-th pair, norms without a gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight


def dora_linear(
    x: Tensor,
    weight: FrozenWeight,
    bias: Tensor | None,
    a: Tensor,
    bs: Sequence[Tensor],
    magnitudes: Sequence[Tensor],
    scale: float,
    starts: Sequence[int],
) -> Tensor:
    """Shapes as in `op.dora_linear`; W + s·BA is made whole."""
    rows = weight.dense().clone().to(a.dtype)
    rank = a.shape[0] // len(bs)
    for i, (b, magnitude, start) in enumerate(zip(bs, magnitudes, starts, strict=True)):
        adapted = rows[start : start + len(b)] + scale * b @ a[i * rank : (i + 1) * rank]
        adapted = adapted * (magnitude / adapted.detach().norm(dim=1)).unsqueeze(1)
        rows = torch.cat([rows[:start], adapted, rows[start + len(b) :]])
    y = x @ rows.to(x.dtype).T
    return y if bias is None else y + bias
