"""Objectives: what a model says of trained tokens in, the sum of the losses out. Pure functions of tensors."""

from torch import Tensor

from luthier.kernels.base_kl import base_kl
from luthier.kernels.frozen_linear import FrozenWeight
from luthier.models.lora import Adapter


def sft_loss(logprobs: Tensor) -> Tensor:
    """Negative log-likelihood of the trained tokens, summed (nats).

    The loop divides by the number of trained tokens of the whole step, over all its microsteps, so that how a step is
    cut into microsteps does not change its gradient.

    Args:
        logprobs: (N,) of the trained tokens.
    """
    return -logprobs.sum()


def kl_loss(hidden: Tensor, base_hidden: Tensor, head: FrozenWeight, softcap: float | None, adapter: Adapter) -> Tensor:
    """KL(base ‖ tuned) of the next token's distribution, summed over positions (nats).

    Args:
        hidden: (N, D), final hidden states of the tuned model.
        base_hidden: (N, D), of the base at the same positions.
        head, softcap: the decoder's.
        adapter: its head's part counts where it has one.
    """
    pair = adapter.head
    if pair is None:
        return base_kl(hidden, base_hidden, head, softcap).sum()
    return base_kl(hidden, base_hidden, head, softcap, a=pair.a, b=pair.b, scale=pair.scale).sum()
