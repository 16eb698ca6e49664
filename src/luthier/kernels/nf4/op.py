"""Quantising a weight to NF4, and unpacking it.

Values are quantised in blocks of 64, each scaled by its largest magnitude; the scales themselves, less their mean, are
quantised to 8 bits in blocks of 256 ("double quantisation"). That is 4.127 bits a weight. The bytes are those of
bitsandbytes, so its checkpoints load as they are.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.nf4 import native
from luthier.kernels.nf4.tables import dynamic_values, nearest, nf4_pairs, nf4_values

BLOCK, NESTED_BLOCK = 64, 256
CHUNK = 2**19  # numbers unpacked at a time on a CPU: their float32 form stays in its cache
ZERO = 7  # the code of 0
TINY = 1e-38  # instead of the 0 that is the largest magnitude of a block of zeros


@dataclass(frozen=True)
class NF4:
    """One quantised tensor.

    codes: (⌈numbers/2⌉,) uint8, two numbers a byte, the first in the high half.
    scales: (blocks,) uint8 codes when `nested` is there, else float32.
    nested: (⌈blocks/256⌉,) float32, the scales' own scales; None without double quantisation.
    offset: the mean that was taken off the scales; () float32.
    shape: of the tensor.
    block: numbers a scale is for.
    """

    codes: Tensor
    scales: Tensor
    nested: Tensor | None
    offset: Tensor
    shape: torch.Size
    block: int = BLOCK

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(t.nbytes for t in (self.codes, self.scales, self.nested, self.offset) if t is not None)


def _blockwise(x: Tensor, values: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Codes (n,) uint8 and scales (⌈n/block⌉,) float32 of x (n,) float32."""
    rows = F.pad(x, (0, -len(x) % block)).view(-1, block)
    scales = rows.abs().amax(1)
    scaled = (rows / scales.clamp(min=TINY).unsqueeze(1)).clamp_(-1, 1)
    return nearest(scaled, values).flatten()[: len(x)], scales


def quantise(weight: Tensor) -> NF4:
    """NF4 of a tensor in float32, bf16 or float16, with blocks of 64 and 256, on its own device.

    Memory beside the result: a few times the tensor in float32.
    """
    device = weight.device
    codes, scales = _blockwise(weight.flatten().float(), nf4_values(device), BLOCK)
    codes = F.pad(codes, (0, len(codes) % 2), value=ZERO)
    offset = scales.mean()
    narrow, nested = _blockwise(scales - offset, dynamic_values(device), NESTED_BLOCK)
    return NF4(codes[::2] << 4 | codes[1::2], narrow, nested, offset, weight.shape)


def wide_scales(stored: NF4) -> Tensor:
    """(blocks,) float32."""
    if stored.nested is None:
        return stored.scales
    wide = dynamic_values(stored.scales.device).index_select(0, stored.scales.int())
    wide = F.pad(wide, (0, -len(wide) % NESTED_BLOCK)).view(-1, NESTED_BLOCK) * stored.nested.unsqueeze(1)
    return wide.flatten()[: len(stored.scales)].add_(stored.offset)


def dequantise(stored: NF4, out: Tensor) -> Tensor:
    """Unpack into `out`, a tensor of stored.shape in any floating dtype, which is returned.

    `out` is contiguous, or a matrix whose rows lie apart.
    """
    if out.is_cuda:
        from luthier.kernels.nf4.triton import dequantise as launch

        launch(stored, out)
        return out
    if native.suits(stored, out.dtype):
        made = native.loaded()
        if isinstance(made, native.Native) and native.unpack(made, stored, out):
            return out
    return by_chunks(stored, out)


def by_chunks(stored: NF4, out: Tensor) -> Tensor:
    """As `dequantise`, by torch on a CPU: the same bits."""
    if not out.is_contiguous():
        return out.copy_(by_chunks(stored, torch.empty(out.shape, dtype=out.dtype)))
    pairs, scales, flat = nf4_pairs(out.device), wide_scales(stored), out.view(-1)
    step = max(CHUNK // stored.block, 1) * stored.block
    for start in range(0, len(flat), step):
        part = flat[start : start + step]
        codes = stored.codes[start // 2 : start // 2 + (len(part) + 1) // 2]
        values = pairs.index_select(0, codes.int()).view(torch.float32)
        values = F.pad(values, (0, -len(values) % stored.block)).view(-1, stored.block)
        first = start // stored.block
        values.mul_(scales[first : first + len(values)].unsqueeze(1))
        part.copy_(values.view(-1)[: len(part)])
    return out
