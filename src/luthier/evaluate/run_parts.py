"""The parts that a run's summary is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.evaluate.interval import Comparison, Interval


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One optimizer step. `loss` is in nats per label token, `seconds` is the step's own time."""

    step: int
    epoch: float | None
    loss: float | None
    grad_norm: float | None
    learning_rate: float | None
    tokens_per_second: float | None
    total_tokens: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Validation:
    """The loss on held-out rows after `step` steps, in nats per label token; step 0 is before the training.

    `probe_loss` is that of the held-in probe, training rows measured in the same way; None if it was not measured.
    """

    step: int
    loss: float
    probe_loss: float | None = None


@dataclass(frozen=True, slots=True)
class General:
    """What the watch on forgetting saw after `step` steps.

    Attributes:
        change, interval: of the loss on general texts against the base, nats a token; above 0 it rose.
        rows: general rows behind it.
        budget: most that it may rise, or None.
        verdict: in a word or two.
    """

    step: int
    change: float
    interval: Interval | None
    rows: int
    budget: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class StrengthPoint:
    """One strength of the adapter: the changes against the base, nats a token, with their intervals."""

    strength: float
    target_change: float
    target_interval: Interval | None
    general_change: float | None
    general_interval: Interval | None
    inside: bool


@dataclass(frozen=True, slots=True)
class StrengthSweep:
    """The strengths that were tried, and what was chosen and why."""

    points: tuple[StrengthPoint, ...]
    chosen: float | None
    accepted: bool
    text: str


@dataclass(frozen=True, slots=True)
class RangeTest:
    """Learning rates that were tried for a moment each, and the loss (raw and smoothed, nats a token) at each."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    chosen: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Something that the run noticed or did: the event as it is written. `step` is None where it has none."""

    kind: str
    step: int | None
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage of a training in stages.

    Attributes:
        number: from 1.
        parent: name of the stage that it goes on from; "" is the base.
        path: its folder within the run's.
        passed: what its gate said; None while it has not been asked.
        text: why.
        status: how its training ended; "" while it has not.
        base, before: the held-out loss beside the base's, and beside that of the stage before; None if not compared.
    """

    number: int
    name: str
    parent: str = ""
    path: str = ""
    passed: bool | None = None
    text: str = ""
    status: str = ""
    base: Comparison | None = None
    before: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, perhaps nothing; `complete` is False if it was stopped at max_new_tokens."""

    text: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, answered by the model before and after training; None where an answer was not recorded."""

    prompt: str
    expected: str
    before: Answer | None
    after: Answer | None
