"""One launch unpacks, or multiplies: codes, their scales, and the scales' scales."""

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

from luthier.kernels.nf4.stack import Stack
from luthier.kernels.nf4.tables import dynamic_values, nf4_values

if TYPE_CHECKING:
    from luthier.kernels.nf4.op import NF4

BYTES = 1024  # bytes of codes a program unpacks


@triton.jit
def _dequantise(
    codes, scales, nested, offset, values, dynamic, out, number, columns, stride,
    BLOCK: tl.constexpr, NESTED: tl.constexpr, APART: tl.constexpr, BYTES: tl.constexpr,
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
    inside = place < number
    if APART:
        place = place // columns * stride + place % columns
    tl.store(out + place, both, mask=inside)


def dequantise(stored: "NF4", out: Tensor) -> None:
    """Unpack into `out` of stored.shape, contiguous or a matrix whose rows lie apart."""
    number, nested = stored.shape.numel(), stored.nested
    if number == 0:
        return
    device, apart = out.device, not out.is_contiguous()
    columns, stride = (out.shape[1], out.stride(0)) if apart else (0, 0)
    _dequantise[(triton.cdiv(number, 2 * BYTES),)](
        stored.codes, stored.scales, stored.scales if nested is None else nested, stored.offset,
        nf4_values(device), dynamic_values(device), out, number, columns, stride,
        BLOCK=stored.block, NESTED=nested is not None, APART=apart, BYTES=BYTES,
        enable_fp_fusion=False,  # a fused multiply-add would round the scales otherwise than bitsandbytes does
    )  # fmt: skip


@triton.jit
def _multiply(
    x, codes, scales, nested, offsets, begins, bias, values, dynamic, out, tokens, outs, columns,
    BLOCK: tl.constexpr, NESTED: tl.constexpr, BIAS: tl.constexpr,
    TOKENS: tl.constexpr, OUTS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """OUTS rows of W times x, over all columns, BLOCKS blocks of each row at a time.

    A byte holds two neighbours of a row. Their products are summed apart, x being read twice, every second number each
    time: so nothing is put back in order.
    """
    HALF: tl.constexpr = BLOCK // 2
    row = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    real = row < outs
    begin = tl.load(begins + row, mask=real, other=0)
    token = tl.arange(0, TOKENS)
    if TOKENS == 1:
        products = tl.zeros([OUTS, BLOCKS, HALF], tl.float32)
    else:
        sums = tl.zeros([TOKENS, OUTS], tl.float32)
    for first in range(0, columns // BLOCK, BLOCKS):
        place = first + tl.arange(0, BLOCKS)
        inside = place < columns // BLOCK
        byte = place[:, None] * HALF + tl.arange(0, HALF)[None, :]  # (BLOCKS, HALF), of a row
        wanted = real[:, None] & inside[None, :]  # (OUTS, BLOCKS)
        packed = tl.load(codes + begin[:, None, None] // 2 + byte[None, :, :], mask=wanted[:, :, None], other=0).to(
            tl.int32
        )
        block = begin[:, None] // BLOCK + place[None, :]  # (OUTS, BLOCKS)
        if NESTED:
            scale = tl.load(dynamic + tl.load(scales + block, mask=wanted, other=0).to(tl.int32))
            scale = scale * tl.load(nested + block // 256, mask=wanted, other=0.0)
            scale = scale + tl.load(offsets + block // 256, mask=wanted, other=0.0)
        else:
            scale = tl.load(scales + block, mask=wanted, other=0.0)
        high, low = tl.load(values + (packed >> 4)), tl.load(values + (packed & 15))
        if TOKENS == 1:
            even = tl.load(x + 2 * byte, mask=inside[:, None], other=0.0).to(tl.float32)
            odd = tl.load(x + 2 * byte + 1, mask=inside[:, None], other=0.0).to(tl.float32)
            products += (high * even[None, :, :] + low * odd[None, :, :]) * scale[:, :, None]
        else:
            flat = tl.reshape(byte, [BLOCKS * HALF])
            there = (token < tokens)[:, None] & (2 * flat < columns)[None, :]
            even = tl.load(x + token[:, None] * columns + 2 * flat[None, :], mask=there, other=0.0)
            odd = tl.load(x + token[:, None] * columns + 2 * flat[None, :] + 1, mask=there, other=0.0)
            high = tl.reshape((high * scale[:, :, None]).to(x.dtype.element_ty), [OUTS, BLOCKS * HALF])
            low = tl.reshape((low * scale[:, :, None]).to(x.dtype.element_ty), [OUTS, BLOCKS * HALF])
            sums = tl.dot(even, tl.trans(high), sums, input_precision="ieee")
            sums = tl.dot(odd, tl.trans(low), sums, input_precision="ieee")
    if TOKENS == 1:
        sums = tl.sum(tl.sum(products, 2), 1)[None, :]
    if BIAS:
        sums += tl.load(bias + row, mask=real, other=0.0).to(tl.float32)[None, :]
    target = out + token[:, None] * outs + row[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=(token < tokens)[:, None] & real[None, :])


def multiply(x: Tensor, stack: Stack, bias: Tensor | None, out: Tensor) -> None:
    """x Wᵀ + bias into `out` (T, N), for x (T, M) of 1 to 16 rows in float32, bf16 or float16; sums are in float32.

    One row multiplies by the weight in float32. More rows go through the matrix units, for which the weight is rounded
    to x's dtype, as it is when it is unpacked. Each sum is one program's, in a fixed order: results repeat to the bit.
    """
    tokens, outs = out.shape
    rows, blocks = (4, 512) if tokens == 1 else (16, 128)  # bytes of each row at a time, as blocks below
    blocks = max(1, blocks // (stack.block // 2))
    unused = stack.scales
    _multiply[(triton.cdiv(outs, rows),)](
        x.contiguous(), stack.codes, stack.scales,
        unused if stack.nested is None else stack.nested, unused if stack.offsets is None else stack.offsets,
        stack.begins, unused if bias is None else bias, nf4_values(x.device), dynamic_values(x.device), out,
        tokens, outs, stack.columns,
        BLOCK=stack.block, NESTED=stack.nested is not None, BIAS=bias is not None,
        TOKENS=1 if tokens == 1 else 16, OUTS=rows, BLOCKS=blocks,
    )  # fmt: skip
