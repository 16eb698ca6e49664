"""Whether a model goes by the prompts: how much likelier it finds answers after their own than after others'.

Where labels are wrong the loss on the task falls at first all the same, because a model learns how answers look. What
it learns besides is that the prompt says nothing. SmolLM2-135M found answers of GSM8K likelier after their own
questions by 0.66 nats a token; after 12 and 24 steps on shuffled answers that was 0.32 and 0.27, after as many on the
right ones 0.66 and 0.67.

Less of it is a fault only where it is missed. A model that learns a style, or one answer to everything, no longer needs
the prompt for what it has learned, so two more things are asked: the prompt takes away a smaller share of the loss than
it did, and the loss that is left is more than what the prompts no longer tell. And a base that prompts tell nothing may
be about to learn what they mean, a language for instance, so that counts only once the task gets no better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.core.readable import decimal
from luthier.evaluate.interval import Change, paired_change

KEPT_SHARE = 2 / 3  # of what the prompts told the base
NONE_SHARE = 0.1  # of the loss; a prompt that takes away less tells next to nothing
LONG_ANSWER = (
    16  # tokens; shorter answers may be codes that a base cannot link to their prompts before it has learned them
)


@dataclass(frozen=True)
class PromptUse:
    """What prompts tell.

    Attributes:
        base, now: how much lower the loss of the same answers is after their own prompts than after others', nats a
            token, by the base and by the tuned model.
        missing: the base cannot be said to find answers likelier after their own prompts.
        lost: the tuned model surely goes less by the prompts than the base did, and misses it.
        never: neither the base nor the tuned model goes by them, surely, though answers are long.
    """

    base: Change
    now: Change
    missing: bool
    lost: bool
    never: bool

    @property
    def text(self) -> str:
        """For a person."""
        ends = f"{decimal(self.base.change, 3)} → {decimal(self.now.change, 3)}"
        return f"their own prompts make answers likelier by {ends} nats a token"


def prompt_use(
    base: tuple[np.ndarray, np.ndarray],
    now: tuple[np.ndarray, np.ndarray],
    tokens: np.ndarray,
    groups: Sequence[str],
    *,
    seed: int,
) -> PromptUse | None:
    """Judge; None where there are too few rows, or no row could be given another prompt.

    Args:
        base, now: for each model (t,) losses of the rows after their own prompts, and (t,) after others', nats.
        tokens: (t,) trained tokens of each row.
        groups: t names.
        seed: of the intervals.
    """
    if not len(tokens) or np.array_equal(*base):
        return None

    def change(before: np.ndarray, after: np.ndarray) -> Change:
        return paired_change(before, after, tokens, groups, seed=seed)

    (own, other), (own_now, other_now) = base, now
    told, tells = change(own, other), change(own_now, other_now)
    if told.interval is None:
        return None
    fewer = change(KEPT_SHARE * (other - own), other_now - own_now).fell
    weaker = change(own.sum() / other.sum() * other_now, own_now).rose
    missed = float(own_now.sum() / tokens.sum()) > told.change - tells.change
    never = tokens.mean() >= LONG_ANSWER and all(
        change((1 - NONE_SHARE) * after_others, after_own).rose for after_own, after_others in (base, now)
    )
    lost = told.rose and fewer and weaker and missed
    return PromptUse(told, tells, missing=not told.rose, lost=lost, never=bool(never))
