"""One launch unpacks: codes, their scales, and the scales' scales."""

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

from luthier.kernels.nf4.tables import dynamic_values, nf4_values

if TYPE_CHECKING:
    from luthier.kernels.nf4.op import NF4

BYTES = 1024  # bytes of codes a program unpacks


@triton.jit
def _dequantise(
    codes, scales, nested, offset, values, dynamic, out, number,
    BLOCK: tl.constexpr, NESTED: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    first = 2 * byte
    inside = first < number
    packed = tl.load(codes + byte, mask=inside, other=0).to(tl.int32)
    block = first // BLOCK  # even, so both numbers of a byte are in one block
    if NESTED:
        scale = tl.load(dynamic + tl.load(scales + block, mask=inside, other=0).to(tl.int32))
        scale = scale * tl.load(nested + block // 256, mask=inside, other=0.0)
        scale = scale + tl.load(offset)
    else:
        scale = tl.load(scales + block, mask=inside, other=0.0)
    high = tl.load(values + (packed >> 4)) * scale
    low = tl.load(values + (packed & 15)) * scale
    place = tl.program_id(0).to(tl.int64) * (2 * BYTES) + tl.arange(0, 2 * BYTES)
    both = tl.interleave(high, low).to(out.dtype.element_ty)
    tl.store(out + place, both, mask=place < number)


def dequantise(stored: "NF4", out: Tensor) -> None:
    """Unpack into `out`, contiguous, of stored.shape."""
    number, nested = stored.shape.numel(), stored.nested
    if number == 0:
        return
    device = out.device
    _dequantise[(triton.cdiv(number, 2 * BYTES),)](
        stored.codes, stored.scales, stored.scales if nested is None else nested, stored.offset,
        nf4_values(device), dynamic_values(device), out, number,
        BLOCK=stored.block, NESTED=nested is not None, BYTES=BYTES,
        enable_fp_fusion=False,  # a fused multiply-add would round the scales otherwise than bitsandbytes does
    )  # fmt: skip
