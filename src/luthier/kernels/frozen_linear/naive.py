"""y = x Wᵀ + bias."""

import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.frozen_linear.op import FrozenWeight


def frozen_linear(x: Tensor, weight: FrozenWeight, bias: Tensor | None) -> Tensor:
    """Shapes as in `op.frozen_linear`."""
    return F.linear(x, weight.dense(), bias)
