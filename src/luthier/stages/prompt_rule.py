"""Whether a model goes by the prompts: how much likelier it finds answers after their own than after others'.

Where labels are wrong the loss on the task falls at first all the same, because a model learns how answers look. What
it learns besides is that the prompt says nothing. SmolLM2-135M found answers of GSM8K likelier after their own
questions by 0.74 nats a token; after 24 steps on shuffled answers that was 0.26 to 0.31, after 26 on the right ones
0.74 to 0.79 (`benchmarks/steady/forgetting.py`, three seeds).

Of long answers honest runs keep nearly all of it (94 % and more, `benchmarks/steady/prompts.py`). Still, less of it is
a fault only where it is missed: a model that learns one answer to everything needs no prompt for that. So the prompt
must also take away a smaller share of the loss than it did, and the loss that is left be more than what prompts no
longer tell; and it does not count while it comes back.

Where prompts never told anything, held-out rows are mixed up, too, or the answers are a language or facts that the base
cannot know. Those are learned; of answers that are mixed up most of the loss stays.

Nothing is said of short answers: they may be labels, and which are frequent is learned before what they mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.core.readable import decimal
from luthier.evaluate.interval import Change, paired_change

KEPT_SHARE = 0.85  # of what the prompts told the base
LEFT_SHARE = 0.5  # of the base's loss
NONE_SHARE = 0.1  # of the loss; a prompt that takes away less tells next to nothing
LONG_ANSWER = 16  # tokens

Sides = tuple[np.ndarray, np.ndarray]  # (m,) summed losses of answers after their own prompts, and after others', nats


@dataclass(frozen=True)
class PromptUse:
    """What prompts tell.

    Attributes:
        base, now: how much lower the loss of the same answers is after their own prompts than after others', nats a
            token, by the base and by the tuned model.
        missing: the base cannot be said to find answers likelier after their own prompts, though they are long.
        lost: the tuned model surely goes less by the prompts than the base did, and misses it.
        never: it is missing, prompts surely tell the tuned model next to nothing, and most of the loss is left.
    """

    base: Change
    now: Change
    missing: bool
    lost: bool
    never: bool

    @property
    def unrelated(self) -> bool:
        """What is learned looks away from the prompts."""
        return self.lost or self.never

    @property
    def text(self) -> str:
        """For a person."""
        ends = f"{decimal(self.base.change, 3)} → {decimal(self.now.change, 3)}"
        return f"their own prompts make answers likelier by {ends} nats a token"


def prompt_use(
    base: Sides, now: Sides, earlier: Sides, tokens: np.ndarray, groups: Sequence[str], *, seed: int
) -> PromptUse | None:
    """Judge; None where there are too few answers.

    Args:
        base, now, earlier: losses of the base, of the tuned model, and of what it was when the task last surely gained.
        tokens: (m,) of each answer.
        groups: m names.
        seed: of the intervals.
    """
    if not len(tokens):
        return None

    def change(before: np.ndarray, after: np.ndarray) -> Change:
        return paired_change(before, after, tokens, groups, seed=seed)

    (own, other), (own_now, other_now) = base, now
    told, tells = change(own, other), change(own_now, other_now)
    if told.interval is None:
        return None
    long = float(tokens.mean()) >= LONG_ANSWER
    fewer = change(KEPT_SHARE * (other - own), other_now - own_now).fell
    # The ratio own / other rose: to first order in both, so the base's ratio is not taken for the truth.
    ratio, grown = own.sum() / other.sum(), other_now.sum() / other.sum()
    weaker = change(ratio * other_now + grown * (own - ratio * other), own_now).rose
    missed = float(own_now.sum() / tokens.sum()) > told.change - tells.change
    returns = change(earlier[1] - earlier[0], other_now - own_now).rose
    none = change((1 - NONE_SHARE) * other_now, own_now).rose
    left = bool(own_now.sum() > LEFT_SHARE * own.sum())
    missing = not told.rose and long
    lost = told.rose and long and fewer and weaker and missed and not returns
    return PromptUse(told, tells, missing=missing, lost=lost, never=missing and none and left)
