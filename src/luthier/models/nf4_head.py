"""The output head as NF4, unpacked a slab of the vocabulary at a time.

A head is the largest weight of a model by far: unpacked whole it would take what storing it in 4 bits had saved.
"""

import torch
from torch import Tensor

from luthier.kernels.nf4 import NF4, NF4Weight, dequantise, quantise

SLAB_ROWS = 16_384  # 128 MB of bf16 where D is 4096


class NF4Head:
    """A frozen W (V, D) of NF4 slabs, as a `FrozenWeight`.

    Args:
        weight: (V, D), on any device; it can be freed afterwards.
        dtype: what products run in.
        device: where the slabs are kept.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        # In generation a few rows are multiplied by the 4 bits as they are.
        self._weight = NF4Weight([quantise(rows.to(device)) for rows in weight.split(SLAB_ROWS)], dtype)
        self.slabs = self._weight.parts
        self.dtype, self.shape = dtype, weight.shape

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `FrozenWeight.forward`."""
        if self._weight.is_thin(x):
            return self._weight.forward(x, bias)
        out = x.new_empty(len(x), self.shape[0])  # (T, V)
        for slab, logits in zip(self.slabs, self._columns(out), strict=True):
            torch.mm(x, self._dense(slab).T, out=logits)
        return out if bias is None else out.add_(bias)

    @property
    def in_c(self) -> bool:
        """As `NF4Weight.in_c`."""
        return self._weight.in_c

    def backward(self, dy: Tensor) -> Tensor:
        """As `FrozenWeight.backward`; the sum over slabs is rounded once."""
        total = torch.zeros(
            len(dy), self.shape[1], dtype=torch.promote_types(dy.dtype, torch.float32), device=dy.device
        )
        for slab, part in zip(self.slabs, self._columns(dy), strict=True):
            total += part @ self._dense(slab)
        return total.to(dy.dtype)

    def dense(self) -> Tensor:
        """As `FrozenWeight.dense`, unpacked anew."""
        return torch.cat([self._dense(slab) for slab in self.slabs])

    def _columns(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split([slab.shape[0] for slab in self.slabs], dim=1)

    def _dense(self, slab: NF4) -> Tensor:
        return dequantise(slab, torch.empty(slab.shape, dtype=self.dtype, device=slab.codes.device))


def slab_numbers(vocab_size: int, hidden_size: int) -> int:
    """Weights that are unpacked at a time."""
    return min(vocab_size, SLAB_ROWS) * hidden_size
