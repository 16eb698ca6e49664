"""DoRA on merged linears: each output of the adapted product is scaled to a size that is learned.

With z = x Wᵀ + s·(x Aᵀ) Bᵀ as in `lora_linear`, g = m / ‖W + s·BA‖ one number an output, and the norm taken for a
constant in the backward (§4.3 of the paper, and PEFT):

    y  = g ⊙ z + bias              dz = g ⊙ dy              dm = Σ dy ⊙ z / ‖W + s·BA‖, over the rows

W + s·BA is never made. With w a row of W and b the same row of B,

    ‖w + s·bA‖² = ‖w‖² + 2s·b·(A w) + s²·b (A Aᵀ) bᵀ

where A Wᵀ is a product of a few rows by W, and ‖w‖² never changes. z is kept for dm, so this path is slower and larger
than LoRA's.

Dropout acts as in PEFT: what the adapter adds to the base, of a masked and rescaled x' in place of x:

    y = x Wᵀ + bias + (g − 1) ⊙ x' Wᵀ + g ⊙ s·(x' Aᵀ) Bᵀ

which takes a second product with W for every slice, and is plain autograd.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight, frozen_linear
from luthier.kernels.function import Function
from luthier.kernels.lora_linear import Dropout, dropped, lora_linear
from luthier.kernels.lora_linear.slices import slices_of

CHUNK_ROWS = 2048  # of W, squared at a time in float32


def row_squares(weight: FrozenWeight) -> Tensor:
    """‖w‖² of each row of W (N, M): (N,) in float32, float64 for W in float64."""
    dense = weight.dense()
    wide = torch.promote_types(dense.dtype, torch.float32)
    return torch.cat([part.to(wide).square().sum(1) for part in dense.split(CHUNK_ROWS)])


@torch.no_grad()
def _norms(
    weight: FrozenWeight,
    squares: Tensor,
    a: Tensor,
    bs: Sequence[Tensor],
    scale: float,
    starts: Sequence[int],
    dtype: torch.dtype,
) -> list[Tensor]:
    """‖W + s·BA‖ of each pair's rows, (Nᵢ,) in float32 (float64 in proofs)."""
    wide = torch.promote_types(a.dtype, torch.float32)
    narrow = a.to(dtype)
    aw = weight.forward(narrow, None).to(wide)  # (nR, N)
    norms, a = [], narrow.to(wide)
    for b, (n, r) in zip(bs, slices_of(bs, starts), strict=True):
        b = b.to(wide)
        crossed = (aw[r, n].T + (0.5 * scale) * (b @ (a[r] @ a[r].T))).mul_(b).sum(1)  # (Nᵢ,)
        square = crossed.mul_(2 * scale).add_(squares[n])
        norms.append(square.clamp_min_(torch.finfo(wide).tiny).sqrt_())
    return norms


class _Scaled(Function):
    """g ⊙ z + bias, g = m / norm in the columns that have one and 1 in the others."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, bias: Tensor | None, starts: Sequence[int], norms: Sequence[Tensor], *magnitudes: Tensor
    ) -> Tensor:
        g = torch.ones(z.shape[1], dtype=magnitudes[0].dtype, device=z.device)
        for magnitude, norm, start in zip(magnitudes, norms, starts, strict=True):
            g[start : start + len(norm)] = magnitude / norm
        ctx.save_for_backward(z, g, *norms)
        ctx.starts = starts
        y = z * g
        return (y if bias is None else y.add_(bias)).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (z, g, *norms), starts = ctx.saved_tensors, ctx.starts
        dms = []
        for norm, start in zip(norms, starts, strict=True):
            n = slice(start, start + len(norm))
            dms.append((dy[:, n].to(g.dtype) * z[:, n]).sum(0).div_(norm))
        return (dy * g).to(z.dtype), None, None, None, *dms


class _Rows:
    """Some rows of a frozen weight, for the products of one slice; made dense in each product and not kept."""

    def __init__(self, weight: FrozenWeight, rows: slice) -> None:
        self._weight, self._rows = weight, rows
        self.shape = torch.Size((rows.stop - rows.start, weight.shape[1]))

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `FrozenWeight.forward`."""
        return torch.nn.functional.linear(x, self.dense(), bias)

    def backward(self, dy: Tensor) -> Tensor:
        """As `FrozenWeight.backward`."""
        return dy @ self.dense()

    def dense(self) -> Tensor:
        """As `FrozenWeight.dense`."""
        return self._weight.dense()[self._rows]


def dora_linear(
    x: Tensor,
    weight: FrozenWeight,
    bias: Tensor | None,
    a: Tensor,
    bs: list[Tensor],
    magnitudes: list[Tensor],
    squares: Tensor,
    scale: float,
    starts: Sequence[int],
    drop: Dropout | None = None,
) -> Tensor:
    """A frozen linear of merged output slices, n of them with a DoRA adapter of their own.

    Args:
        x: (T, M).
        weight: W (N, M) in x's dtype.
        bias: (N,) or None, frozen.
        a: (nR, M), the n matrices Aᵢ stacked; float32 (float64 in proofs).
        bs: n tensors (Nᵢ, R); same dtype as a.
        magnitudes: n tensors mᵢ (Nᵢ,); same dtype as a.
        squares: (N,), `row_squares(weight)`.
        scale: s, what the product BA is multiplied by.
        starts: n, the first output column of each of them.
        drop: dropout on the adapters' input, or None.

    Returns:
        (T, N) in x's dtype.
    """
    norms = _norms(weight, squares, a, bs, scale, starts, x.dtype)
    if drop is None:
        z = lora_linear(x, weight, None, a, bs, scale, starts)
        return _Scaled.call(z, bias, starts, norms, *magnitudes)
    y, keep = frozen_linear(x, weight, bias), 1 - drop.share
    for b, m, norm, (n, r), seed in zip(bs, magnitudes, norms, slices_of(bs, starts), drop.seeds, strict=True):
        xi, g = dropped(x, drop.share, seed), m / norm
        base = frozen_linear(xi, _Rows(weight, n), None)
        low = xi @ a[r].to(x.dtype).T @ (b * (scale / keep)).to(x.dtype).T
        y[:, n] = (y[:, n] + (g - 1) / keep * base + g * low).to(x.dtype)
    return y
