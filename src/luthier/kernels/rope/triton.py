"""A program a token and a few heads: a head's two halves that turn, and what stays of it, are read and written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

HEADS = 8  # heads a program works on: they share the token's angles


@triton.jit
def _turn(
    source, target, cos, sin, turned, heads, size, half,
    BACK: tl.constexpr, COPY: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    row = (token * heads + head)[:, None] * size
    column = tl.arange(0, HALF)
    c = tl.load(cos + token * half + column, mask=column < half, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + token * half + column, mask=column < half, other=0.0).to(tl.float32)[None, :]
    if BACK:
        s = -s
    inside = (head < heads)[:, None] & (column < half)[None, :]
    first = row + column[None, :]
    x1 = tl.load(source + first, mask=inside, other=0.0)
    x2 = tl.load(source + first + half, mask=inside, other=0.0)
    w1, w2 = x1.to(tl.float32), x2.to(tl.float32)
    turns = (head < turned)[:, None]
    y1 = tl.where(turns, (w1 * c - w2 * s).to(x1.dtype), x1)
    y2 = tl.where(turns, (w2 * c + w1 * s).to(x2.dtype), x2)
    if not COPY:
        inside = inside & turns
    tl.store(target + first, y1, mask=inside)
    tl.store(target + first + half, y2, mask=inside)
    if COPY and REST > 0:
        rest = 2 * half + tl.arange(0, REST)
        inside = (head < heads)[:, None] & (rest < size)[None, :]
        place = row + rest[None, :]
        tl.store(target + place, tl.load(source + place, mask=inside, other=0.0), mask=inside)


@triton.jit
def _factors(q_norm, k_norm, head, column, inside, num_queries, PLUS_ONE: tl.constexpr):
    """What the columns of each head are scaled by: (HEADS, columns) in float32."""
    q = tl.load(q_norm + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    k = tl.load(k_norm + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    factor = tl.where((head < num_queries)[:, None], q, k)
    if PLUS_ONE:
        factor = 1.0 + factor
    return factor


@triton.jit
def _scaled(wide, scale, factor, dtype: tl.constexpr, PLUS_ONE: tl.constexpr):
    """x̂·w with the roundings of `naive.rms_norm`, in float32."""
    unit = wide * scale
    if PLUS_ONE:
        result = unit * factor
    else:
        result = unit.to(dtype).to(tl.float32) * factor
    return result.to(dtype).to(tl.float32)


@triton.jit
def _norm_turn(
    source, target, rstd, cos, sin, q_norm, k_norm, num_queries, turned, heads, size, half, eps,
    PLUS_ONE: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    row = (token * heads + head)[:, None] * size
    column = tl.arange(0, HALF)
    here = column < half
    c = tl.load(cos + token * half + column, mask=here, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + token * half + column, mask=here, other=0.0).to(tl.float32)[None, :]
    inside = (head < heads)[:, None] & here[None, :]
    first = row + column[None, :]
    x1 = tl.load(source + first, mask=inside, other=0.0)
    x2 = tl.load(source + first + half, mask=inside, other=0.0)
    w1, w2 = x1.to(tl.float32), x2.to(tl.float32)
    square = tl.sum(w1 * w1, 1) + tl.sum(w2 * w2, 1)
    if REST > 0:
        rest = 2 * half + tl.arange(0, REST)
        left = (head < heads)[:, None] & (rest < size)[None, :]
        place = row + rest[None, :]
        x3 = tl.load(source + place, mask=left, other=0.0)
        w3 = x3.to(tl.float32)
        square += tl.sum(w3 * w3, 1)
    scale = 1.0 / tl.sqrt(square / size + eps)
    tl.store(rstd + token * turned + head, scale, mask=head < turned)
    scale = scale[:, None]
    changes = (head < turned)[:, None]
    n1 = _scaled(w1, scale, _factors(q_norm, k_norm, head, column, here, num_queries, PLUS_ONE), x1.dtype, PLUS_ONE)
    n2 = _scaled(
        w2, scale, _factors(q_norm, k_norm, head, half + column, here, num_queries, PLUS_ONE), x2.dtype, PLUS_ONE
    )
    tl.store(target + first, tl.where(changes, (n1 * c - n2 * s).to(x1.dtype), x1), mask=inside)
    tl.store(target + first + half, tl.where(changes, (n2 * c + n1 * s).to(x2.dtype), x2), mask=inside)
    if REST > 0:
        factor = _factors(q_norm, k_norm, head, rest, rest < size, num_queries, PLUS_ONE)
        n3 = _scaled(w3, scale, factor, x3.dtype, PLUS_ONE).to(x3.dtype)
        tl.store(target + place, tl.where(changes, n3, x3), mask=left)


@triton.jit
def _norm_turn_backward(
    dout, source, rstd, dqkv, cos, sin, q_norm, k_norm, num_queries, turned, heads, size, half,
    PLUS_ONE: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    row = (token * heads + head)[:, None] * size
    column = tl.arange(0, HALF)
    here = column < half
    c = tl.load(cos + token * half + column, mask=here, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + token * half + column, mask=here, other=0.0).to(tl.float32)[None, :]
    inside = (head < heads)[:, None] & here[None, :]
    changes = (head < turned)[:, None]
    scale = tl.load(rstd + token * turned + head, mask=head < turned, other=0.0)[:, None]
    first = row + column[None, :]
    d1 = tl.load(dout + first, mask=inside, other=0.0)
    d2 = tl.load(dout + first + half, mask=inside, other=0.0)
    w1, w2 = d1.to(tl.float32), d2.to(tl.float32)
    g1 = (w1 * c + w2 * s) * _factors(q_norm, k_norm, head, column, here, num_queries, PLUS_ONE)
    g2 = (w2 * c - w1 * s) * _factors(q_norm, k_norm, head, half + column, here, num_queries, PLUS_ONE)
    u1 = tl.load(source + first, mask=inside, other=0.0).to(tl.float32) * scale
    u2 = tl.load(source + first + half, mask=inside, other=0.0).to(tl.float32) * scale
    dot = tl.sum(g1 * u1, 1) + tl.sum(g2 * u2, 1)
    if REST > 0:
        rest = 2 * half + tl.arange(0, REST)
        left = (head < heads)[:, None] & (rest < size)[None, :]
        place = row + rest[None, :]
        d3 = tl.load(dout + place, mask=left, other=0.0)
        g3 = d3.to(tl.float32) * _factors(q_norm, k_norm, head, rest, rest < size, num_queries, PLUS_ONE)
        u3 = tl.load(source + place, mask=left, other=0.0).to(tl.float32) * scale
        dot += tl.sum(g3 * u3, 1)
    mean = (dot / size)[:, None]
    tl.store(dqkv + first, tl.where(changes, (scale * (g1 - u1 * mean)).to(d1.dtype), d1), mask=inside)
    tl.store(dqkv + first + half, tl.where(changes, (scale * (g2 - u2 * mean)).to(d2.dtype), d2), mask=inside)
    if REST > 0:
        tl.store(dqkv + place, tl.where(changes, (scale * (g3 - u3 * mean)).to(d3.dtype), d3), mask=left)


def _blocks(size: int, half: int) -> dict[str, int | bool]:
    """Columns of a tile, REST 0 where the whole head turns; eight numbers a thread, which reads 16 bytes at once."""
    rest, columns = size - 2 * half, triton.next_power_of_2(max(half, 1))
    return {
        "HEADS": HEADS,
        "HALF": columns,
        "REST": triton.next_power_of_2(rest) if rest else 0,
        "num_warps": min(max(HEADS * columns // 256, 1), 8),
        "enable_fp_fusion": True,
    }


def turn(source: Tensor, target: Tensor, cos: Tensor, sin: Tensor, num_heads: int, size: int, *, back: bool) -> None:
    """Turn the first `num_heads` heads of contiguous source (T, heads·K) into target, which may be source itself.

    Args:
        cos, sin: (T, R/2), contiguous.
        size: K.
        back: by the negative angle.
    """
    (tokens, half), total = cos.shape, source.shape[1] // size
    copy = target.data_ptr() != source.data_ptr()
    heads = total if copy else num_heads
    if tokens and heads:
        _turn[(tokens, triton.cdiv(heads, HEADS))](
            source, target, cos.contiguous(), sin.contiguous(), num_heads, total, size, half,
            BACK=back, COPY=copy, **_blocks(size, half),
        )  # fmt: skip


def norm_turn(
    qkv: Tensor, cos: Tensor, sin: Tensor, q_norm: Tensor, k_norm: Tensor, heads: tuple[int, int], eps: float,
    plus_one: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `op._norm_turn`, for contiguous qkv in float32, bf16 or float16."""
    (tokens, half), turned, total = cos.shape, sum(heads), heads[0] + 2 * heads[1]
    size = qkv.shape[1] // total
    out, rstd = torch.empty_like(qkv), torch.empty(tokens, turned, 1, dtype=torch.float32, device=qkv.device)
    if tokens:
        _norm_turn[(tokens, triton.cdiv(total, HEADS))](
            qkv, out, rstd, cos.contiguous(), sin.contiguous(), q_norm, k_norm, heads[0], turned, total, size, half,
            eps, PLUS_ONE=plus_one, **_blocks(size, half),
        )  # fmt: skip
    return out, rstd


def norm_turn_backward(
    dout: Tensor, qkv: Tensor, rstd: Tensor, cos: Tensor, sin: Tensor, q_norm: Tensor, k_norm: Tensor,
    heads: tuple[int, int], plus_one: bool,
) -> Tensor:  # fmt: skip
    """As `op._norm_turn_backward`, for contiguous dout and qkv."""
    (tokens, half), turned, total = cos.shape, sum(heads), heads[0] + 2 * heads[1]
    size, dqkv = qkv.shape[1] // total, torch.empty_like(dout)
    if tokens:
        _norm_turn_backward[(tokens, triton.cdiv(total, HEADS))](
            dout, qkv, rstd, dqkv, cos.contiguous(), sin.contiguous(), q_norm, k_norm, heads[0], turned, total, size,
            half, PLUS_ONE=plus_one, **_blocks(size, half),
        )  # fmt: skip
    return dqkv
