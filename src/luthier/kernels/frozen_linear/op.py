"""What a frozen weight W (N, M) is asked for in training: x Wᵀ in the forward, dy W in the backward, nothing else.

A product on a CPU first lays W out in the blocks its inner loop reads. torch does that anew in every call, and for
few rows it takes longer than the product. A frozen W is laid out once instead, by oneDNN, which torch carries on x86.
On two Zen 4 cores the products of SmolLM2-135M in bf16 take 0.8 of the time at 722 rows and 0.3 to 0.5 of it at the
one row of generation. In bf16 the results are the same bits.
"""

import platform
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.function import Function


class FrozenWeight(Protocol):
    """A weight W (N, M) that no gradient is made for."""

    shape: torch.Size

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias: (T, M) → (T, N)."""
        ...

    def backward(self, dy: Tensor) -> Tensor:
        """dy W: (T, N) → (T, M)."""
        ...

    def dense(self) -> Tensor:
        """W itself, (N, M); a copy where it is stored otherwise."""
        ...


class DenseWeight:
    """W as torch lays it out, on any device."""

    def __init__(self, weight: Tensor) -> None:
        self._weight, self.shape = weight, weight.shape

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `FrozenWeight.forward`."""
        return F.linear(x, self._weight, bias)

    def backward(self, dy: Tensor) -> Tensor:
        """As `FrozenWeight.backward`."""
        return dy @ self._weight

    def dense(self) -> Tensor:
        """As `FrozenWeight.dense`, not a copy."""
        return self._weight


class PackedWeight:
    """W in oneDNN's layout for x Wᵀ; at the first backward a second copy joins it, in the layout for dy W.

    Args:
        weight: (N, M), bf16 or float32, on the CPU; it can be freed afterwards.
        keep_backward: False saves the second copy; then every backward unpacks W, and works as `DenseWeight` does.
    """

    def __init__(self, weight: Tensor, *, keep_backward: bool = True) -> None:
        self._pack = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._keep_backward, self.shape = keep_backward, weight.shape
        self._backward_pack: Tensor | None = None

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `FrozenWeight.forward`."""
        return _product(x, self._pack, bias)

    def backward(self, dy: Tensor) -> Tensor:
        """As `FrozenWeight.backward`."""
        if not self._keep_backward:
            return dy @ self.dense()
        if self._backward_pack is None:
            self._backward_pack = torch.ops.mkldnn._reorder_linear_weight(self.dense().T.contiguous(), None)
        return _product(dy, self._backward_pack, None)

    def dense(self) -> Tensor:
        """As `FrozenWeight.dense`, unpacked anew, bit for bit what was packed."""
        return self._pack.to_dense()


def _product(x: Tensor, pack: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, pack, bias, "none", [], "")


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this machine has `PackedWeight` for weights of `dtype` on `device`."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


class _FrozenLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: FrozenWeight, bias: Tensor | None, value: bool) -> Tensor:
        ctx.weight = weight
        return weight.forward(x, bias) if value else x.new_zeros(()).expand(len(x), weight.shape[0])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.weight.backward(dy), None, None, None


def frozen_linear(x: Tensor, weight: FrozenWeight, bias: Tensor | None, *, value: bool = True) -> Tensor:
    """x Wᵀ + bias, with a gradient for x only.

    Args:
        x: (T, M) in the weight's dtype.
        weight: W (N, M).
        bias: (N,) or None, frozen.
        value: False gives zeros instead of the output, with its gradient all the same.

    Returns:
        (T, N) in x's dtype.
    """
    return _FrozenLinear.call(x, weight, bias, value)
