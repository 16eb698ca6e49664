"""Attention of each conversation's newest token to the keys and values that were kept of the tokens before it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_to_cache(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    window: int | None = None,
    *,
    softcap: float | None = None,
) -> Tensor:
    """One query a conversation; all conversations end at the last column, so their beginnings differ.

    The query heads that share a key head are the rows of one product. A product of a few rows is bound by reading keys
    and values, on every device, so torch's own attention is as fast as can be here. It cannot cap scores.

    Args:
        q: (N, H, K), the newest tokens' queries.
        keys, values: (N, G, L, K), the newest token in the last column; H a multiple of G.
        mask: (N, 1, 1, L) in q's dtype, −inf in the columns before a conversation begins, else 0; None when all N
            begin in the first column.
        window: a token sees itself and the window − 1 tokens before it; None sees all.
        softcap: c, where a score s counts as c·tanh(s/c).

    Returns:
        (N, H·K).
    """
    if window is not None:
        keys, values = keys[:, :, -window:], values[:, :, -window:]
        mask = None if mask is None else mask[..., -window:]
    grouped = q.unflatten(1, (keys.shape[1], -1))  # (N, G, H/G, K)
    if softcap is None:
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask).flatten(1)
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (grouped @ keys.transpose(2, 3)).to(wide).mul_(q.shape[-1] ** -0.5 / softcap).tanh_().mul_(softcap)
    weights = (scores if mask is None else scores.add_(mask)).softmax(-1)  # (N, G, H/G, L)
    return (weights.to(q.dtype) @ values).flatten(1)
