"""Chunked over rows; the whole vocabulary counts, not only the tokens that were drawn.

    z = h Wᵀ (+ s·(h Aᵀ) Bᵀ, where the head has an adapter),   q = softmax(z),   p = softmax(h₀ Wᵀ) of the base

    kl[t] = Σ_v p[t, v]·(log p[t, v] − log q[t, v])            ∂kl[t]/∂z[t] = q[t] − p[t] = δ[t]

The base is not trained, so nothing flows into h₀. With g[t] = ∂L/∂kl[t], which only the backward knows, and u = h Aᵀ,
c = s·δ B:

    dh[t] = g[t]·(δ[t] W + c[t] A)        dA = (g ⊙ c)ᵀ h        dB = s·δᵀ (g ⊙ u)

As in `selected_logprobs`, whose chunks these are: without an adapter of the head the gradient of each row is made in
the forward, while both distributions are at hand, and scaled in the backward. With one, dB needs the rows' δ again, so
they are computed again in the backward. Where logits are capped, δ is multiplied by the slope of the cap.

Distributions and sums are in float32 whatever the head's dtype; a pass over 2·rows·V numbers where the loss has one.
"""

from typing import Any

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.function import Function
from luthier.kernels.lora_linear import Dropout
from luthier.kernels.lora_linear.dropout import masked
from luthier.kernels.selected_logprobs.adapted import _input
from luthier.kernels.selected_logprobs.op import CPU_ROWS, CPU_SLICE_ROWS, gpu_chunk_rows

_COPIES = 6  # of a chunk's logits, in float32, that a GPU holds beside each other


def _chunks(hidden: Tensor, head: FrozenWeight) -> list[slice]:
    size = CPU_ROWS
    if hidden.is_cuda:
        card = torch.cuda.get_device_properties(hidden.device).total_memory
        size = gpu_chunk_rows(head.shape[0] * 4 * _COPIES, card)
    return [slice(start, start + size) for start in range(0, len(hidden), size)]


def _log_softmax(logits: Tensor, softcap: float | None, dtype: torch.dtype) -> Tensor:
    """Log-probabilities (rows, V) in a new tensor."""
    wide = logits.to(dtype, copy=True)
    if softcap is not None:
        wide.div_(softcap).tanh_().mul_(softcap)
    return wide.sub_(wide.logsumexp(-1, keepdim=True))


def _rows(logits: Tensor, base_logits: Tensor, out: Tensor, softcap: float | None, gradient: bool) -> None:
    """KL of each row (rows,) into out; with `gradient`, logits (rows, V) become q − p, times dz/ds."""
    size = len(logits) if logits.is_cuda else CPU_SLICE_ROWS
    for part, base, kl in zip(*(x.split(max(1, size)) for x in (logits, base_logits, out)), strict=True):
        log_q, log_p = (_log_softmax(z, softcap, out.dtype) for z in (part, base))
        p = log_p.exp()
        torch.sum(log_p.sub_(log_q).mul_(p), -1, out=kl)
        if gradient:
            delta = log_q.exp_().sub_(p)
            if softcap is not None:
                delta.mul_(1 - part.to(out.dtype).div(softcap).tanh_().square_())
            part.copy_(delta)


class _BaseKL(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, base_hidden: Tensor, head: FrozenWeight, softcap: float | None) -> Tensor:
        kls = torch.empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for rows in _chunks(hidden, head):
            logits = head.forward(hidden[rows], None)  # (rows, V)
            _rows(logits, head.forward(base_hidden[rows], None), kls[rows], softcap, gradient is not None)
            if gradient is not None:
                gradient[rows] = head.backward(logits)
            del logits  # else the next chunk's are made beside them
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return kls

    @staticmethod
    def backward(ctx: Any, dkls: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return torch.mul(gradient, dkls.unsqueeze(1), out=torch.empty_like(gradient)), None, None, None


class _AdaptedBaseKL(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        base_hidden: Tensor,
        head: FrozenWeight,
        softcap: float | None,
        scale: float,
        drop: Dropout | None,
        a: Tensor,
        b: Tensor,
    ) -> Tensor:
        a, b = a.to(hidden.dtype), b.to(hidden.dtype)
        if drop is not None:
            scale = scale / (1 - drop.share)
        ctx.save_for_backward(hidden, base_hidden, a, b)
        ctx.head, ctx.softcap, ctx.scale, ctx.drop = head, softcap, scale, drop
        kls = torch.empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        u = _input(hidden, drop) @ a.T  # (T, R)
        for rows in _chunks(hidden, head):
            logits = head.forward(hidden[rows], None).addmm_(u[rows], b.T, alpha=scale)
            _rows(logits, head.forward(base_hidden[rows], None), kls[rows], softcap, False)
            del logits
        return kls

    @staticmethod
    def backward(ctx: Any, dkls: Tensor) -> tuple[Tensor | None, ...]:
        hidden, base_hidden, a, b = ctx.saved_tensors
        head, scale, drop = ctx.head, ctx.scale, ctx.drop
        wide, g = dkls.dtype, dkls.unsqueeze(1)  # (T, 1)
        read = _input(hidden, drop)
        u = read @ a.T
        gu = (u * (g * scale)).to(u.dtype)  # (T, R)
        kls = torch.empty_like(dkls)  # made once more on the way, and not looked at
        dh = torch.empty_like(hidden)
        c, db = torch.empty_like(u), torch.zeros(b.shape, dtype=wide, device=b.device)
        for rows in _chunks(hidden, head):
            delta = head.forward(hidden[rows], None).addmm_(u[rows], b.T, alpha=scale)
            _rows(delta, head.forward(base_hidden[rows], None), kls[rows], ctx.softcap, True)  # (rows, V), q − p
            db += delta.T @ gu[rows]
            torch.mm(delta, b, out=c[rows])
            dh[rows] = head.backward(delta)
            del delta
        c.mul_(scale)
        da = ((c * g).to(c.dtype).T @ read).to(wide)
        low = c @ a
        dh = (dh.add_(low if drop is None else masked(low, drop.share, drop.seeds[0])) * g).to(dh.dtype)
        return dh, None, None, None, None, None, da, db


def base_kl(
    hidden: Tensor,
    base_hidden: Tensor,
    head: FrozenWeight,
    softcap: float | None = None,
    *,
    a: Tensor | None = None,
    b: Tensor | None = None,
    scale: float = 0.0,
    drop: Dropout | None = None,
) -> Tensor:
    """KL(base ‖ tuned) of the next token's distribution, for each row.

    Args:
        hidden: (T, D), the tuned model's final hidden states, only the rows that are wanted.
        base_hidden: (T, D), the base's at the same positions; no gradient flows into them.
        head: W (V, D) in hidden's dtype, dense or in 4 bits, the same for both.
        softcap: c, where a logit s counts as c·tanh(s/c).
        a, b, scale: the head's adapter, (R, D), (V, R) and s, float32 (float64 in proofs), or none.
        drop: dropout on that adapter's input, with one seed, or None.

    Returns:
        (T,) float32 (float64 for float64 input), nats; zero where both are the same.
    """
    base_hidden = base_hidden.detach()
    if a is None or b is None:
        return _BaseKL.call(hidden, base_hidden, head, softcap)
    return _AdaptedBaseKL.call(hidden, base_hidden, head, softcap, scale, drop, a, b)
