"""Merged frozen linears (q|k|v, gate|up) with their adapters: one product for the base, thin ones for the adapters.

With u = x Aᵀ (T, nR) and B the block-diagonal of the Bᵢ (N, nR):

    y  = x Wᵀ + bias + s·u Bᵀ
    du = s·dy B            dx = dy W + du A
    dA = duᵀ x             dBᵢ = s·(dyᵀ u), the i-th diagonal block

W and bias are frozen, so no gradient of theirs is ever made. A and B are float32 masters; their products run in x's
dtype and their gradients come back in float32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _block_diagonal(bs: tuple[Tensor, ...], scale: float, dtype: torch.dtype) -> Tensor:
    """(N, nR): s·Bᵢ on the diagonal."""
    if len(bs) == 1:
        return (bs[0] * scale).to(dtype)
    return torch.block_diag(*bs).mul_(scale).to(dtype)


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float, a: Tensor, *bs: Tensor
    ) -> Tensor:
        narrow_a, b = a.to(x.dtype), _block_diagonal(bs, scale, x.dtype)
        u = x @ narrow_a.T  # (T, nR)
        y = F.linear(x, weight, bias)  # (T, N), the bits of the base itself
        y.addmm_(u, b.T)
        ctx.save_for_backward(x, weight, narrow_a, b, u)
        ctx.scale, ctx.widths = scale, [b.shape[0] for b in bs]
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, u = ctx.saved_tensors
        du = dy @ b  # (T, nR)
        da = du.T @ x  # (nR, M)
        rank, dbs, row = u.shape[1] // len(ctx.widths), [], 0
        for i, width in enumerate(ctx.widths):
            db = dy[:, row : row + width].T @ u[:, i * rank : (i + 1) * rank]
            dbs.append(db.to(torch.promote_types(db.dtype, torch.float32)).mul_(ctx.scale))
            row += width
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight  # (T, M)
            dx.addmm_(du, a)
        return dx, None, None, None, da.to(torch.promote_types(da.dtype, torch.float32)), *dbs


def lora_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, bs: list[Tensor], scale: float) -> Tensor:
    """A frozen linear of n merged output slices, each with its own adapter pair.

    Args:
        x: (T, M).
        weight: (N, M) in x's dtype, frozen; N is the sum of the slices.
        bias: (N,) or None, frozen.
        a: (nR, M), the n matrices Aᵢ stacked; float32 (float64 in proofs).
        bs: n tensors (Nᵢ, R), in the order of the slices; same dtype as a.
        scale: s = alpha / R.

    Returns:
        (T, N) in x's dtype.
    """
    return _LoRALinear.apply(x, weight, bias, scale, a, *bs)
