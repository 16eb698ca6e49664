"""One product for base and adapter over a weight in NF4, which has to be unpacked into a scratch anyway.

A thin product that adds to y (T, N) reads and writes all of y once more, and so does one that adds to dx (T, M). Both
can be had within the base's own product when its inner dimension is extended by the ranks:

    wide, N > M:   y  = [x | u] [W | B]ᵀ + bias      u = x Aᵀ,  B block-diagonal and scaled by s
    tall, N < M:   dx = [dy | du] [W ; A]            duᵢ = s·dyᵢ Bᵢ

W is unpacked into its part of the scratch. What it costs is a copy of x (2M numbers a token read and written) in place
of 2N for the sums, or of dy (2N) in place of 2M; hence each direction takes it where it is the smaller one: q|k|v and
gate|up in the forward, down in the backward, and a square linear in neither. The sums over base and adapter are
rounded once instead of twice.

The scratch of a forward serves the backward too when it is held: in a layer that runs twice, the second run and dx
share it, so that a weight is unpacked twice a step and not three times. Until that layer's backward is through, its
weights are held unpacked, 0.4 GB in bf16 for a layer of Llama 3.1 8B; in the first run nothing is held.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.function import Function
from luthier.kernels.lora_linear.slices import slices_of
from luthier.kernels.nf4 import NF4Weight

ALIGN = 16  # rows of a scratch begin at multiples of so many numbers, which tensor cores want


def extends(weight: FrozenWeight, x: Tensor) -> bool:
    """Whether a linear takes this path: NF4 on CUDA, for more rows than are multiplied without unpacking it whole."""
    return x.is_cuda and isinstance(weight, NF4Weight) and not weight.is_thin(x)


def _room(ranks: int) -> int:
    """Columns or rows that the adapters get."""
    return -(-ranks // ALIGN) * ALIGN


def _wide(weight: NF4Weight, bs: Sequence[Tensor], starts: Sequence[int], ranks: int) -> Tensor:
    """[W | B], (N, M + room)."""
    n, m = weight.shape
    scratch = bs[0].new_empty(n, m + _room(ranks))
    weight.unpack(scratch[:, :m])
    scratch[:, m:] = 0
    for b, (rows, columns) in zip(bs, slices_of(bs, starts), strict=True):
        scratch[rows, m + columns.start : m + columns.stop] = b
    return scratch


def _tall(weight: NF4Weight, a: Tensor) -> Tensor:
    """[W ; A], (N + room, M)."""
    n, m = weight.shape
    scratch = a.new_empty(n + _room(len(a)), m)
    weight.unpack(scratch[:n])
    scratch[n : n + len(a)] = a
    scratch[n + len(a) :] = 0
    return scratch


def _beside(left: Tensor, right: Tensor) -> Tensor:
    """[left | right | zeros], with room for the right as in the scratch."""
    return torch.cat([left, F.pad(right, (0, _room(right.shape[1]) - right.shape[1]))], 1)


class _ExtendedLoRALinear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: NF4Weight,
        bias: Tensor | None,
        scale: float,
        starts: Sequence[int],
        value: bool,
        hold: bool,
        a: Tensor,
        *bs: Tensor,
    ) -> Tensor:
        a, scaled = a.to(x.dtype), [(b * scale).to(x.dtype) for b in bs]
        u = x @ a.T  # (T, nR)
        n, m = weight.shape
        scratch = None
        if not value:
            y = x.new_zeros(()).expand(len(x), n)
        elif n > m:
            scratch = _wide(weight, scaled, starts, len(a))
            y = F.linear(_beside(x, u), scratch, bias)
        else:
            scratch = _tall(weight, a) if n < m else weight.dense()
            y = F.linear(x, scratch[:n], bias)
            for b, (columns, r) in zip(scaled, slices_of(scaled, starts), strict=True):
                y[:, columns].addmm_(u[:, r], b.T)
        ctx.save_for_backward(x, u, a, *scaled)
        ctx.weight, ctx.scale, ctx.starts, ctx.scratch = weight, scale, starts, scratch if hold else None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, u, a, *scaled), weight, scratch = ctx.saved_tensors, ctx.weight, ctx.scratch
        wide = torch.promote_types(x.dtype, torch.float32)
        du, dbs = torch.empty_like(u), []  # (T, nR)
        for b, (columns, r) in zip(scaled, slices_of(scaled, ctx.starts), strict=True):
            torch.mm(dy[:, columns], b, out=du[:, r])
            dbs.append((dy[:, columns].T @ u[:, r]).to(wide).mul_(ctx.scale))
        da = (du.T @ x).to(wide)  # (nR, M)
        dx, (n, m) = None, weight.shape
        if ctx.needs_input_grad[0]:
            if n < m:
                dx = _beside(dy, du) @ (_tall(weight, a) if scratch is None else scratch)
            else:
                dx = (dy @ (weight.dense() if scratch is None else scratch[:, :m])).addmm_(du, a)
        return dx, None, None, None, None, None, None, da, *dbs


def extended_lora_linear(
    x: Tensor,
    weight: NF4Weight,
    bias: Tensor | None,
    a: Tensor,
    bs: list[Tensor],
    scale: float,
    starts: Sequence[int],
    *,
    value: bool = True,
    hold: bool = False,
) -> Tensor:
    """As `op.lora_linear`, on any device; `op.lora_linear` comes here where `extends` says so."""
    return _ExtendedLoRALinear.call(x, weight, bias, scale, starts, value, hold, a, *bs)
