"""Products with a weight in NF4.

A product of many rows, as in training, unpacks the weight first. A product of a few rows, as in generation, is bound by
reading the weight: a CUDA kernel reads the 4 bits once and unpacks them in registers, and so does C on a CPU. A CPU
without either unpacks and multiplies a piece at a time, which stays in its cache. None needs memory of the size of the
weight.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.nf4 import native
from luthier.kernels.nf4.op import CHUNK, NF4, dequantise, wide_scales
from luthier.kernels.nf4.stack import Stack, can_stack, stack

# Rows of a product up to which the weight is not unpacked as a whole. On one AVX2 core, in float32, unpacking in C and
# then multiplying takes as long as the product in C at 12 to 16 rows of weights that stay in the cache, and at about 24
# of larger ones; at 4 rows it takes twice as long.
THIN = 16


class NF4Weight:
    """A frozen W (N, M), one or several quantised parts on top of each other, as a `FrozenWeight`.

    Args:
        parts: of shapes (Nᵢ, M).
        dtype: what products run in.
    """

    def __init__(self, parts: Sequence[NF4], dtype: torch.dtype) -> None:
        self.parts, self.dtype = list(parts), dtype
        self.shape = torch.Size((sum(part.shape[0] for part in parts), parts[0].shape[1]))
        self._whole_rows = all(self.shape[1] % part.block == 0 for part in self.parts)  # a row begins with a block
        self._stack: Stack | None = None
        suits = self._whole_rows and all(native.suits(part, dtype) for part in self.parts)
        self._described = native.described(self.parts) if suits else None
        # The kernel sums in float32, so float64, which only proofs use, goes the plain way.
        if self.parts[0].codes.is_cuda and dtype != torch.float64 and can_stack(self.parts):
            self._stack, self.parts = stack(self.parts)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `FrozenWeight.forward`."""
        if not self.is_thin(x):
            return F.linear(x, self.dense(), bias)
        if self._stack is None:
            y = self._by_c(x, bias)
            return self._by_pieces(x, bias) if y is None else y
        from luthier.kernels.nf4.triton import multiply

        y = x.new_empty(len(x), self.shape[0])
        multiply(x, self._stack, bias, y)
        return y

    def is_thin(self, x: Tensor) -> bool:
        """Whether the product with x (T, M) does without unpacking W as a whole."""
        return 0 < len(x) <= THIN and (self._stack is not None or (self._whole_rows and not x.is_cuda))

    @property
    def in_c(self) -> bool:
        """Whether products of a few rows are made in C: where there is a library, and it reads this layout."""
        return self._described is not None and isinstance(native.loaded(), native.Native)

    def backward(self, dy: Tensor) -> Tensor:
        """As `FrozenWeight.backward`."""
        return dy @ self.dense()

    def dense(self) -> Tensor:
        """As `FrozenWeight.dense`, unpacked anew."""
        out = torch.empty(self.shape, dtype=self.dtype, device=self.parts[0].codes.device)
        self.unpack(out)
        return out

    def unpack(self, out: Tensor) -> None:
        """Write W into `out` (N, M), whose rows may lie apart."""
        rows = [part.shape[0] for part in self.parts]
        for part, slab in zip(self.parts, out.split(rows), strict=True):
            dequantise(part, slab)

    def _by_c(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """The product in C; None where there is no library, or x or the bias are not what the weight is."""
        alike = x.dtype == self.dtype and x.shape[1] == self.shape[1]
        alike = alike and (bias is None or (bias.dtype == x.dtype and bias.shape == self.shape[:1]))
        if self._described is None or not alike or not isinstance(made := native.loaded(), native.Native):
            return None
        y = x.new_empty(len(x), self.shape[0])
        native.multiply(made, x, self._described, bias, y)
        return y

    def _by_pieces(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The same products, a piece of W after the other; all are unpacked into the same place."""
        rows = max(1, CHUNK // self.shape[1])
        scratch = torch.empty(rows, self.shape[1], dtype=self.dtype)
        y, done = x.new_empty(len(x), self.shape[0]), 0
        for part in self.parts:
            for piece in _pieces(part, rows):
                place = slice(done, done + piece.shape[0])
                weight = dequantise(piece, scratch[: piece.shape[0]])
                y[:, place] = F.linear(x, weight, None if bias is None else bias[place])
                done = place.stop
        return y


def _pieces(stored: NF4, rows: int) -> Iterator[NF4]:
    """The tensor (N, M) in pieces of so many rows, each of whole blocks."""
    scales, columns = wide_scales(stored), stored.shape[1]
    for first in range(0, stored.shape[0], rows):
        number = min(rows, stored.shape[0] - first)
        begin, end = first * columns, (first + number) * columns
        yield NF4(
            stored.codes[begin // 2 : end // 2], scales[begin // stored.block : end // stored.block], None,
            stored.offset, torch.Size((number, columns)), stored.block,
        )  # fmt: skip
