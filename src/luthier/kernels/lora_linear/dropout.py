"""The adapters of a merged linear with dropout (Srivastava et al. 2014) on their input, and none on the base.

With one mask mᵢ of zeros and ones for each pair, q the share that is dropped, s' = s / (1 − q) and xᵢ = mᵢ ⊙ x:

    uᵢ  = xᵢ Aᵢᵀ                 yᵢ  = (x Wᵀ + bias)ᵢ + s'·uᵢ Bᵢᵀ
    duᵢ = s'·dyᵢ Bᵢ              dx  = dy W + Σ mᵢ ⊙ (duᵢ Aᵢ)
    dAᵢ = duᵢᵀ xᵢ                dBᵢ = s'·dyᵢᵀ uᵢ

A mask is never kept: it follows from its seed, and is drawn again where it is needed again, in the backward as well as
in a layer that runs twice. The factor 1 / (1 − q) is in s', so that the masked input has no rounding of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.function import Function
from luthier.kernels.lora_linear.slices import slices_of


@dataclass(frozen=True)
class Dropout:
    """Dropout of one pass through one linear.

    share: of the inputs that are set to zero, above 0 and below 1.
    seeds: one for each pair; together with shape, dtype and kind of device they decide its mask.
    """

    share: float
    seeds: tuple[int, ...]


def masked(x: Tensor, share: float, seed: int) -> Tensor:
    """x (T, M) with a share of its entries set to zero and the others as they are; a new tensor."""
    generator = torch.Generator(x.device).manual_seed(seed)
    return x.new_empty(x.shape).bernoulli_(1 - share, generator=generator).mul_(x)


class _Masked(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float, seed: int) -> Tensor:
        ctx.share, ctx.seed = share, seed
        return masked(x, share, seed)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None, None]:
        return masked(dx, ctx.share, ctx.seed), None, None


def dropped(x: Tensor, share: float, seed: int) -> Tensor:
    """As `masked`, with a gradient; only the seed is kept for it."""
    return _Masked.call(x, share, seed)


class _DroppedLoRALinear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: FrozenWeight,
        bias: Tensor | None,
        scale: float,
        starts: Sequence[int],
        drop: Dropout,
        value: bool,
        a: Tensor,
        *bs: Tensor,
    ) -> Tensor:
        scale = scale / (1 - drop.share)
        a, scaled = a.to(x.dtype), [(b * scale).to(x.dtype) for b in bs]
        u = x.new_empty(len(x), len(a))  # (T, nR)
        y = weight.forward(x, bias) if value else x.new_zeros(()).expand(len(x), weight.shape[0])
        for b, (n, r), seed in zip(scaled, slices_of(scaled, starts), drop.seeds, strict=True):
            torch.mm(masked(x, drop.share, seed), a[r].T, out=u[:, r])
            if value:
                y[:, n].addmm_(u[:, r], b.T)
        ctx.save_for_backward(x, u, a, *scaled)
        ctx.weight, ctx.scale, ctx.starts, ctx.drop = weight, scale, starts, drop
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, u, a, *scaled), drop = ctx.saved_tensors, ctx.drop
        wide = torch.promote_types(x.dtype, torch.float32)
        dx = ctx.weight.backward(dy) if ctx.needs_input_grad[0] else None  # (T, M)
        da, dbs = a.new_empty(a.shape, dtype=wide), []
        for b, (n, r), seed in zip(scaled, slices_of(scaled, ctx.starts), drop.seeds, strict=True):
            du = dy[:, n] @ b  # (T, R)
            dbs.append((dy[:, n].T @ u[:, r]).to(wide).mul_(ctx.scale))
            da[r] = du.T @ masked(x, drop.share, seed)
            if dx is not None:
                dx += masked(du @ a[r], drop.share, seed)
        return dx, None, None, None, None, None, None, da, *dbs


def dropped_lora_linear(
    x: Tensor,
    weight: FrozenWeight,
    bias: Tensor | None,
    a: Tensor,
    bs: list[Tensor],
    scale: float,
    starts: Sequence[int],
    drop: Dropout,
    *,
    value: bool = True,
) -> Tensor:
    """As `op.lora_linear`, the input of each adapter dropped out by a mask of its own."""
    return _DroppedLoRALinear.call(x, weight, bias, scale, starts, drop, value, a, *bs)
