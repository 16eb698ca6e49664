"""The next token of each conversation, chosen from its logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-30  # a temperature that float32 can divide by
FIRST_LOOK = 64  # tokens looked at first; nearly always they have the mass asked for


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_p keeps the smallest set of that mass."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def choose(logits: Tensor, sampling: Sampling, draws: Sequence[float]) -> list[int]:
    """A token for each row of logits.

    The token is where a uniform number falls in the summed probabilities: one draw a token, whatever the vocabulary.

    Args:
        logits: (N, V).
        draws: (N,) uniform in [0, 1); not looked at when greedy.

    Returns:
        (N,) token ids.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1).tolist()
    logits = logits.float()
    # The largest becomes 0, so that with hardly any temperature the others become −inf, and nothing becomes inf.
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / max(sampling.temperature, TINY)).softmax(-1)  # (N, V)
    order = None
    if sampling.top_p < 1:
        probabilities, order = _likeliest(probabilities, sampling.top_p)
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    total = sums[:, -1:].contiguous()
    wanted = torch.tensor(draws, dtype=torch.float64, device=logits.device).unsqueeze(1) * total
    # The first sum above what was drawn; rounding must not carry it behind the last token that has a probability.
    places = torch.minimum(torch.searchsorted(sums, wanted, right=True), torch.searchsorted(sums, total))
    return (places if order is None else order.gather(1, places)).flatten().tolist()


def _likeliest(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of each row that together have the mass top_p: (N, n), falling, and their ids (N, n).

    A token stays while those before it have less than top_p, so the first always does; the others' probability is 0.
    To sort the whole vocabulary is not needed: once the n likeliest have the mass, so have those before all others.
    """
    number = min(FIRST_LOOK, probabilities.shape[1])
    while True:
        kept, order = probabilities.topk(number)
        kept = kept.double()
        sums = kept.cumsum(-1)
        if number == probabilities.shape[1] or bool((sums[:, -1] >= top_p).all()):
            return kept.masked_fill(sums - kept >= top_p, 0), order
        number = min(8 * number, probabilities.shape[1])
