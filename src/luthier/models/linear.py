"""A frozen linear of the decoder, with or without its adapter."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from luthier.kernels.dora_linear import dora_linear, row_squares
from luthier.kernels.frozen_linear import FrozenWeight, frozen_linear
from luthier.kernels.lora_linear import dropped_lora_linear, lora_linear
from luthier.kernels.nf4 import opened
from luthier.models.lora import Pair
from luthier.models.recompute import recomputed


@dataclass
class Linear:
    """A frozen linear: weight W (N, M), bias (N,) or None."""

    weight: FrozenWeight
    bias: Tensor | None = None

    @cached_property
    def squares(self) -> Tensor:
        """‖w‖² of each of W's rows, (N,) float32; worked out once, for DoRA."""
        return row_squares(self.weight)

    def __call__(self, x: Tensor, pair: Pair | None, scale: float, *, value: bool = True, hold: bool = False) -> Tensor:
        """(T, M) → (T, N), with the adapter pair when there is one.

        `value` and `hold` are as in `lora_linear`, but DoRA needs its value for the gradient and always gives it.
        """
        if pair is not None and not pair.magnitudes and pair.drop is None:
            return lora_linear(x, self.weight, self.bias, pair.a, pair.bs, scale, pair.starts, value=value, hold=hold)
        weight = opened(self.weight, x) if hold else self.weight
        if pair is None:
            return frozen_linear(x, weight, self.bias, value=value)
        parts = (x, weight, self.bias, pair.a, pair.bs)
        if pair.magnitudes:
            return dora_linear(*parts, pair.magnitudes, self.squares, scale, pair.starts, pair.drop)
        return dropped_lora_linear(*parts, scale, pair.starts, pair.drop, value=value)

    def gated(
        self,
        gate: Callable[[Tensor], Tensor],
        gate_up: Tensor,
        pair: Pair | None,
        scale: float,
        *,
        value: bool = True,
    ) -> Tensor:
        """The linear of gate(gate_up): (T, 2M) → (T, M) → (T, N).

        The adapter's gradient needs h = gate(gate_up), M numbers a token beside the 2M of gate_up that the gate keeps
        anyway. On CUDA h is not kept but made again from gate_up in the backward, elementwise and the same bits, which
        costs a pass over memory for a fifth of a layer's activations. So it is without `value`, in a layer that runs
        twice, where h was not made before and costs nothing. On a CPU, where elementwise passes are dear and memory is
        not, h is kept.
        """
        kept = value and not gate_up.is_cuda
        if pair is None or pair.magnitudes or kept:
            return self(gate(gate_up), pair, scale, value=value)
        leaves = (pair.a, *pair.bs)
        width = None if value else self.weight.shape[0]
        return recomputed(
            lambda gate_up, value: self(gate(gate_up), pair, scale, value=value), gate_up, leaves, unmade=width
        )
