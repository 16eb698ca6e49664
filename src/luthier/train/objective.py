"""Objectives: log-probabilities in, the sum of the losses out. Pure functions of tensors."""

from torch import Tensor


def sft_loss(logprobs: Tensor) -> Tensor:
    """Negative log-likelihood of the trained tokens, summed (nats).

    The loop divides by the number of trained tokens of the whole step, over all its microsteps, so that how a step is
    cut into microsteps does not change its gradient.

    Args:
        logprobs: (N,) of the trained tokens.
    """
    return -logprobs.sum()
