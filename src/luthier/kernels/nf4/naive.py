"""w[i] = value(code[i]) · scale[i // block],   scale[j] = dynamic(code'[j]) · nested[j // 256] + offset."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from luthier.kernels.nf4.tables import dynamic_values, nf4_values

if TYPE_CHECKING:
    from luthier.kernels.nf4.op import NF4


def dequantise(stored: "NF4", dtype: torch.dtype) -> Tensor:
    """As `op.dequantise`, with every intermediate held at once."""
    device, numbers = stored.codes.device, stored.shape.numel()
    codes = torch.stack([stored.codes >> 4, stored.codes & 15], 1).flatten()[:numbers].long()
    scales = stored.scales
    if stored.nested is not None:
        nested = stored.nested.repeat_interleave(256)[: len(scales)]
        scales = dynamic_values(device)[scales.long()] * nested + stored.offset
    scales = scales.repeat_interleave(stored.block)[:numbers]
    return (nf4_values(device)[codes] * scales).to(dtype).view(stored.shape)


def multiply(x: Tensor, parts: Sequence["NF4"], bias: Tensor | None) -> Tensor:
    """x Wᵀ + bias for x (T, M) and W the (N, M) of all parts on top of each other, in x's dtype."""
    y = x @ torch.cat([dequantise(part, x.dtype) for part in parts]).T
    return y if bias is None else y + bias
