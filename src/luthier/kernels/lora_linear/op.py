"""Merged frozen linears (q|k|v, gate|up) with their adapters: one product for the base, thin ones for the adapters.

With u = x Aᵀ (T, nR), and i a slice of y's N or of u's nR columns:

    yᵢ  = (x Wᵀ + bias)ᵢ + s·uᵢ Bᵢᵀ
    duᵢ = s·dyᵢ Bᵢ         dx = dy W + du A
    dA  = duᵀ x            dBᵢ = s·dyᵢᵀ uᵢ

W and bias are frozen, so no gradient of theirs is ever made. A and B are float32 masters; their products run in x's
dtype and their gradients come back in float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.function import Function
from luthier.kernels.lora_linear.extended import extended_lora_linear, extends
from luthier.kernels.lora_linear.slices import slices_of
from luthier.kernels.nf4 import opened


class _LoRALinear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: FrozenWeight,
        bias: Tensor | None,
        scale: float,
        starts: Sequence[int],
        value: bool,
        a: Tensor,
        *bs: Tensor,
    ) -> Tensor:
        a, scaled = a.to(x.dtype), [(b * scale).to(x.dtype) for b in bs]
        u = x @ a.T  # (T, nR)
        if value:
            y = weight.forward(x, bias)  # (T, N), the bits of the base itself
            for b, (n, r) in zip(scaled, slices_of(scaled, starts), strict=True):
                y[:, n].addmm_(u[:, r], b.T)
        else:
            y = x.new_zeros(()).expand(len(x), weight.shape[0])
        ctx.save_for_backward(x, u, a, *scaled)
        ctx.weight, ctx.scale, ctx.starts = weight, scale, starts
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, u, a, *scaled), starts = ctx.saved_tensors, ctx.starts
        wide = torch.promote_types(x.dtype, torch.float32)
        du, dbs = torch.empty_like(u), []  # (T, nR)
        for b, (n, r) in zip(scaled, slices_of(scaled, starts), strict=True):
            torch.mm(dy[:, n], b, out=du[:, r])
            dbs.append((dy[:, n].T @ u[:, r]).to(wide).mul_(ctx.scale))
        da = (du.T @ x).to(wide)  # (nR, M)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = ctx.weight.backward(dy).addmm_(du, a)  # (T, M)
        return dx, None, None, None, None, None, da, *dbs


def lora_linear(
    x: Tensor,
    weight: FrozenWeight,
    bias: Tensor | None,
    a: Tensor,
    bs: list[Tensor],
    scale: float,
    starts: Sequence[int],
    *,
    value: bool = True,
    hold: bool = False,
) -> Tensor:
    """A frozen linear of merged output slices, n of them with an adapter pair of their own.

    Args:
        x: (T, M).
        weight: W (N, M) in x's dtype; N is the sum of the slices.
        bias: (N,) or None, frozen.
        a: (nR, M), the n matrices Aᵢ stacked; float32 (float64 in proofs).
        bs: n tensors (Nᵢ, R); same dtype as a.
        scale: s, what the adapters' output is multiplied by.
        starts: n, the first output column of each of them.
        value: False gives zeros instead of the output, with its gradients all the same: for a backward pass that needs
            what leads here, but no longer what came of it.
        hold: a weight in NF4 that is unpacked here stays so until the backward, which needs it again.

    Returns:
        (T, N) in x's dtype.
    """
    if extends(weight, x):
        return extended_lora_linear(x, weight, bias, a, bs, scale, starts, value=value, hold=hold)
    if hold:
        weight = opened(weight, x)
    return _LoRALinear.call(x, weight, bias, scale, starts, value, a, *bs)
