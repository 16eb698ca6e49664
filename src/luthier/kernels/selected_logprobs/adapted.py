"""Log-probabilities of chosen tokens under an output head that has an adapter.

With m the dropout mask of zeros and ones (all ones without dropout), h' = m ⊙ h, u = h' Aᵀ (T, R) and s the adapter's
scale, divided by the share kept where there is dropout:

    z[t] = W h[t] + s·B u[t]           logp[t] = z[t, y] − logsumexp(z[t])

Let δ[t] = softmax(z[t]) − onehot(y) and g[t] = −∂L/∂logp[t], which only the backward knows. Then, with c = s·δ B
(T, R),

    dh[t] = g[t]·(δ[t] W + m[t] ⊙ (c[t] A))
    dA    = (g ⊙ c)ᵀ h'                          dB = s·δᵀ (g ⊙ u)

For the first two one could keep δ W and c from the forward, as `op.py` does. dB is a sum over rows of δ[t], each V
wide, times what is not known yet, so it needs the rows' δ again: either whole logits are kept, or they are computed
again. They are computed again, and then nothing but h is kept. That is three products with W a chunk instead of two,
and the gradients of A and B are summed over the chunks in float32. δ is never multiplied by g: the thin factors are,
which is less work and one rounding less.

Where logits are capped, δ is multiplied by the slope of the cap, as in `op.py`.
"""

from typing import Any

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.function import Function
from luthier.kernels.lora_linear import Dropout
from luthier.kernels.lora_linear.dropout import masked
from luthier.kernels.selected_logprobs.op import _chunk_rows, _rows


class _AdaptedLogprobs(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: FrozenWeight,
        targets: Tensor,
        softcap: float | None,
        scale: float,
        drop: Dropout | None,
        a: Tensor,
        b: Tensor,
    ) -> Tensor:
        a, b = a.to(hidden.dtype), b.to(hidden.dtype)
        if drop is not None:
            scale = scale / (1 - drop.share)
        ctx.save_for_backward(hidden, targets, a, b)
        ctx.head, ctx.softcap, ctx.scale, ctx.drop = head, softcap, scale, drop
        logps = torch.empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        u = _input(hidden, drop) @ a.T
        for rows in _chunks(hidden, head):
            logits = _logits(hidden[rows], u[rows], head, b, scale)
            _rows(logits, targets[rows], logps[rows], softcap, False)
            del logits  # else the next chunk's are made beside them
        return logps

    @staticmethod
    def backward(ctx: Any, dlogps: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, a, b = ctx.saved_tensors
        head, scale, drop = ctx.head, ctx.scale, ctx.drop
        wide, g = dlogps.dtype, -dlogps.unsqueeze(1)  # (T, 1)
        read = _input(hidden, drop)
        u = read @ a.T
        gu = (u * (g * scale)).to(u.dtype)  # (T, R)
        logps = torch.empty_like(dlogps)  # made once more on the way, and not looked at
        dh = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        c, db = torch.empty_like(u), torch.zeros(b.shape, dtype=wide, device=b.device)
        for rows in _chunks(hidden, head):
            delta = _logits(hidden[rows], u[rows], head, b, scale)
            _rows(delta, targets[rows], logps[rows], ctx.softcap, True)  # (rows, V), softmax − onehot
            db += delta.T @ gu[rows]
            torch.mm(delta, b, out=c[rows])
            if dh is not None:
                dh[rows] = head.backward(delta)
            del delta
        c.mul_(scale)
        da = ((c * g).to(c.dtype).T @ read).to(wide)
        if dh is not None:
            low = c @ a
            dh = (dh.add_(low if drop is None else masked(low, drop.share, drop.seeds[0])) * g).to(dh.dtype)
        return dh, None, None, None, None, None, da, db


def _input(hidden: Tensor, drop: Dropout | None) -> Tensor:
    """What the adapter reads."""
    return hidden if drop is None else masked(hidden, drop.share, drop.seeds[0])


def _chunks(hidden: Tensor, head: FrozenWeight) -> list[slice]:
    size = _chunk_rows(hidden, head)
    return [slice(start, start + size) for start in range(0, len(hidden), size)]


def _logits(hidden: Tensor, u: Tensor, head: FrozenWeight, b: Tensor, scale: float) -> Tensor:
    """(rows, V), the cap not yet on them."""
    return head.forward(hidden, None).addmm_(u, b.T, alpha=scale)


def adapted_logprobs(
    hidden: Tensor,
    head: FrozenWeight,
    targets: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    *,
    softcap: float | None = None,
    drop: Dropout | None = None,
) -> Tensor:
    """As `selected_logprobs`, under z = h Wᵀ + s·(h Aᵀ) Bᵀ; logits of a few hundred rows are held at once.

    Args:
        hidden: (T, D), only the rows whose log-probability is wanted.
        head: W (V, D) in hidden's dtype.
        targets: (T,) int64.
        a: (R, D), float32 (float64 in proofs).
        b: (V, R), same dtype.
        scale: s.
        softcap: as in `selected_logprobs`.
        drop: dropout on the adapter's input, with one seed, or None.

    Returns:
        (T,) float32 (float64 for float64 input), natural logarithm.
    """
    return _AdaptedLogprobs.call(hidden, head, targets, softcap, scale, drop, a, b)
