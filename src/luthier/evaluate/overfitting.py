"""Overfitting: the rows that are trained on still get better while rows that are not get worse.

At each validation two losses are compared with those at the best validation so far, row by row: the validation rows
and a fixed held-in probe, rows of the training data measured in the same way (no dropout, same weights), because the
running training loss is neither. Both paired 95 % intervals must be clear of zero, the probe's below it and the
validation's above, at two validations in a row: one is a suspicion, two are the alarm. Validation is compared with the
best of several, which was in luck as a rule, so its interval is widened by how many there were to pick from.

The rule is a pure function of losses. What it must know from one validation to the next is a JSON value; for the losses
of single rows at earlier validations it asks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.evaluate.interval import FEWEST_UNITS, Change, gap, paired_change
from luthier.evaluate.losses import RowLosses
from luthier.evaluate.overfitting_words import gap_text, overfit_text, stall_text, too_few_text

ALARM_AFTER = 2  # validations in a row
STALL_AFTER = 5
WIDE_GAP = 0.1  # of the loss on the probe: a smaller distance before training is not worth a sentence


@dataclass(frozen=True)
class Measured:
    """Losses of the validation rows and of the held-in probe under the same weights."""

    val: RowLosses
    probe: RowLosses


@dataclass(frozen=True)
class Overfit:
    """What one validation says.

    Attributes:
        times: validations in a row, this one included, at which the probe was better and validation worse; 0 if not.
        since: step of the first of them; 0 if none.
        best_step: the step that was compared with.
        picked: validations that it is the best of.
        val, probe: the changes since then, above 0 where the loss rose; None at the first validation.
        stop: patience is at an end.
        text: what to say about it; "" if there is nothing new to say.
        remarks: what else was noticed, each once a run.
    """

    times: int = 0
    since: int = 0
    best_step: int = 0
    picked: int = 1
    val: Change | None = None
    probe: Change | None = None
    stop: bool = False
    text: str = ""
    remarks: tuple[str, ...] = ()


class OverfitWatch:
    """Judges one validation after the other.

    Args:
        state: what is known from before, {} at the start; changed in place, always a JSON value.
        groups: group of each validation row, and of each row of the probe.
        patience: validations after the alarm that are waited for before `stop`; 0 never stops.
        read: losses at an earlier step, or None if they are lost.
        seed: decides the resampling.
    """

    def __init__(
        self,
        state: dict[str, Any],
        groups: tuple[Sequence[str], Sequence[str]],
        *,
        patience: int,
        read: Callable[[int], Measured | None],
        seed: int = 0,
    ) -> None:
        self.state, self.groups, self.patience, self.read, self.seed = state, groups, patience, read, seed

    def add(self, step: int, now: Measured) -> Overfit:
        """The verdict on the validation after `step`; steps come in order, as a rule beginning with 0."""
        state = self.state
        remarks = []
        if not state:
            state.update(course=[], times=0, since=0, best=step, anchor=step, flat=0, stalled=False)
            remarks = self._at_first(now, step)
        best, picked, again = self._best(), max(1, len(state["course"])), self._again(step)
        state["course"].append([step, now.val.mean, now.probe.mean])
        if best is None:  # the first validation, or all before it are lost
            state.update(times=0, since=0, best=step, anchor=step, flat=0)
            return Overfit(best_step=step, remarks=tuple(remarks))
        best_step, before = best
        val, probe = self._changes(before, now, picked)
        if val.rose and probe.fell:
            state["times"] += 0 if again else 1
            state["since"] = step if state["times"] == 1 and not again else state["since"]
        else:
            state.update(times=0, since=0)
        state["best"] = step if now.val.mean < before.val.mean else best_step
        remarks += self._stall(step, now)
        times = state["times"]
        stop = self.patience > 0 and times >= ALARM_AFTER + self.patience
        text = ""
        if (times in (1, ALARM_AFTER) or stop) and not again:
            left = ALARM_AFTER + self.patience - times if self.patience else None
            text = overfit_text(
                val, probe, best_step, picked=picked, times=times, alarm=times >= ALARM_AFTER, left=left
            )
        return Overfit(times, state["since"], best_step, picked, val, probe, stop, text, tuple(remarks))

    def _again(self, step: int) -> bool:
        """Whether the validation before was so near, as at the end of a run, that this one says the same once more."""
        steps = [at for at, _, _ in self.state["course"][-2:]]
        return len(steps) == 2 and 2 * (step - steps[1]) < steps[1] - steps[0]

    def _best(self) -> tuple[int, Measured] | None:
        """The best validation so far; where its losses are lost, the best of those that are not."""
        course: list[tuple[int, float, float]] = self.state["course"]
        if not course:
            return None
        by_loss = [step for step, _, _ in sorted(course, key=lambda point: (point[1], point[0]))]
        for step in dict.fromkeys([self.state["best"], *by_loss]):
            if (found := self.read(step)) is not None:
                return step, found
        return None

    def _changes(self, before: Measured, now: Measured, picked: int = 1) -> tuple[Change, Change]:
        val, probe = self.groups
        return (
            paired_change(before.val.nll, now.val.nll, now.val.tokens, val, seed=self.seed, picked=picked),
            paired_change(before.probe.nll, now.probe.nll, now.probe.tokens, probe, seed=self.seed),
        )

    def _at_first(self, now: Measured, step: int) -> list[str]:
        """What the sets themselves tell: too few groups to judge by, or held-out rows of another kind."""
        val, probe = self.groups
        sizes = [len({group or f"\0{row}" for row, group in enumerate(groups)}) for groups in (val, probe)]
        if min(sizes) < FEWEST_UNITS:
            return [too_few_text(*sizes)]
        distance = gap((now.probe.nll, now.probe.tokens, probe), (now.val.nll, now.val.tokens, val), seed=self.seed)
        if step == 0 and (distance.rose or distance.fell) and abs(distance.change) > WIDE_GAP * now.probe.mean:
            return [gap_text(distance, len(val), len(probe))]
        return []

    def _stall(self, step: int, now: Measured) -> list[str]:
        """Whether neither loss has clearly moved for STALL_AFTER validations; said once."""
        state = self.state
        before = self.read(state["anchor"])
        val, probe = self._changes(before, now) if before is not None else (None, None)
        if val is None or probe is None or val.interval is None or probe.interval is None:
            state.update(anchor=step, flat=0)
            return []
        if val.rose or val.fell or probe.rose or probe.fell:
            state.update(anchor=step, flat=0)
            return []
        state["flat"] += 1
        if state["flat"] < STALL_AFTER or state["stalled"]:
            return []
        state["stalled"] = True
        return [stall_text(val, probe, state["anchor"], STALL_AFTER)]
