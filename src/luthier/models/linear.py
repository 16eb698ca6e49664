"""A frozen linear of the decoder, with or without its adapter."""

from dataclasses import dataclass

from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight, frozen_linear
from luthier.kernels.lora_linear import lora_linear
from luthier.models.lora import Pair


@dataclass
class Linear:
    """A frozen linear: weight W (N, M), bias (N,) or None."""

    weight: FrozenWeight
    bias: Tensor | None = None

    def __call__(self, x: Tensor, pair: Pair | None, scale: float, *, value: bool = True) -> Tensor:
        """(T, M) → (T, N), with the adapter pair when there is one; `value` as in `lora_linear`."""
        if pair is None:
            return frozen_linear(x, self.weight, self.bias, value=value)
        return lora_linear(x, self.weight, self.bias, pair.a, pair.bs, scale, pair.starts, value=value)
