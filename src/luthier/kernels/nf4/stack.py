"""Several quantised parts laid end to end, so that one launch multiplies by all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.nf4.op import NESTED_BLOCK, NF4


@dataclass(frozen=True)
class Stack:
    """N rows of M numbers, M a multiple of the block.

    All numbers are counted through, and each part begins at a multiple of the numbers that a nested scale is for. So a
    number's code, scale, nested scale and offset all follow from its place: n // 2, n // block, n // block // 256.

    codes, scales, nested: as in `NF4`, with gaps behind the parts; nested is None without double quantisation.
    offsets: (nested,) float32, of each nested block the mean that was taken off; None without double quantisation.
    begins: (N,) int64, the number that each row begins with.
    columns: M.
    """

    codes: Tensor
    scales: Tensor
    nested: Tensor | None
    offsets: Tensor | None
    begins: Tensor
    columns: int
    block: int


def can_stack(parts: Sequence[NF4]) -> bool:
    """Whether every row is whole blocks, of one power of two of at least 32, and the parts are stored alike."""
    first = parts[0]
    alike = all((part.block, part.nested is None) == (first.block, first.nested is None) for part in parts)
    power = first.block >= 32 and first.block & (first.block - 1) == 0
    return alike and power and all(part.shape[1] % part.block == 0 for part in parts)


def stack(parts: Sequence[NF4]) -> tuple[Stack, list[NF4]]:
    """Lay parts that `can_stack` end to end; also returns the parts as views of what was made, to take their place."""
    first, columns = parts[0], parts[0].shape[1]
    double = first.nested is not None
    align = first.block * (NESTED_BLOCK if double else 1)

    def laid(tensors: Sequence[Tensor], numbers: int) -> Tensor:
        """End to end, each filled up as if it had a multiple of `align` numbers, `numbers` an element."""
        return torch.cat([F.pad(tensor, (0, -len(tensor) % (align // numbers))) for tensor in tensors])

    codes = laid([part.codes for part in parts], 2)
    scales = laid([part.scales for part in parts], first.block)
    nested = torch.cat([part.nested for part in parts]) if double else None
    offsets = torch.cat([part.offset.expand(len(part.nested)) for part in parts]) if double else None
    begins, views, number = [], [], 0
    for part in parts:
        begins.append(number + torch.arange(part.shape[0]) * columns)
        code, scale, above = number // 2, number // first.block, number // align
        views.append(
            replace(
                part,
                codes=codes[code : code + len(part.codes)],
                scales=scales[scale : scale + len(part.scales)],
                nested=nested[above : above + len(part.nested)] if double else None,
            )
        )
        number += -(-part.shape.numel() // align) * align
    begins = torch.cat(begins).to(codes.device)
    return Stack(codes, scales, nested, offsets, begins, columns, first.block), views
