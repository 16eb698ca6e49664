"""Guards: each step's loss and gradient norm are judged before the weights change.

Three questions, and a ladder of answers:

1. Are both finite? If not, the step is skipped.
2. Is one far above what the last 64 accepted steps were? Then the step is skipped: a limit is the median and a multiple
   of the spread, which is 1.4826 times the median absolute deviation, of log norms and of losses. What is skipped
   enters no window, so that one spike does not hide the next.
3. Has the loss been rising since some update? That is divergence, whether the single steps look usual or not.

Up to 3 skipped steps in any 100 are passed over. More, or divergence, asks for a rewind: back to a checkpoint from
before the trouble, past the steps of the trouble, at half the rate. After 3 rewinds the run has diverged.

Two cases are no trouble, since the weights are sound and a rewind would come to the same place: norms that stay at a
new level while the loss stays where it was, and single spikes of the data with usual steps between them. The windows
then take in the values they had kept out.

The limits are ours, tuned on simulated and real runs (benchmarks/steady/explosions.py). Skipping outliers of a window
that they do not enter goes back to OLMo 2 (arXiv:2501.00656), jumping past the batches of a spike to PaLM
(arXiv:2204.02311).
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median, median_high
from typing import Any

WINDOW = 64  # accepted steps that the limits come from
FULL = 16  # accepted steps from which the limits are as close as they get
FEW = 4  # accepted steps from which there are limits at all
TO_SPREAD = 1.4826  # median absolute deviation → standard deviation, of normal numbers
NORM_SPREADS, LOSS_SPREADS, MEAN_SPREADS = 3.85, 8.0, 4.0
NORM_FACTOR, EARLY_NORM_FACTOR = 4.0, 10.0  # a norm below this many times the median is no spike
LOSS_RISE, EARLY_LOSS_RISE = 0.5, 2.0  # nor is a loss less than this above the median (nats a token)
USUAL_SPREAD = 0.3  # of log norms: what is seen in a few steps is mixed with it
LATEST = 16  # accepted steps whose median norm is the level: norms drift faster than losses
NEAR = 100  # steps in which skips are counted
MAX_SKIPS, MAX_REWINDS = 3, 3
TOGETHER = 2  # skipped steps no further apart belong to one trouble
ALIKE = math.log(4)  # norms that differ by less than a factor 4 are of one level
REACH = 24  # steps; a rise of the loss is seen well within so many of them
AFTER, AFTER_LOW = 10, 1  # of so many steps all but the lowest show that the loss has risen
EARLY_EMA_RISE = 1.5  # nats; a few losses tell little of their spread
DECAY, EMA_RISE, LASTING = 0.9, 1.3, 3  # of the moving average; by how much, and for how many steps it is too high


@dataclass(frozen=True)
class Verdict:
    """What to do with a step.

    Attributes:
        action: "take", "skip", "rewind" or "diverged".
        reason: why, in a few words; empty when a step is simply taken.
        numbers: what was compared, JSON values: norm_limit, loss_limit and more by reason.
        began: the first step of the trouble (counted from 1), for rewind and diverged.
        skipped: the step itself is one of those that are skipped.
        count: skipped steps among the last 100, this one included.
    """

    action: str
    reason: str = ""
    numbers: dict[str, float | int | None] = field(default_factory=dict)
    began: int = 0
    skipped: bool = False
    count: int = 0


class Guard:
    """The guards of one run.

    Args:
        state: JSON values, empty at first; changed in place, so that whoever keeps it keeps the guards' memory.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        fresh: dict[str, Any] = {
            "log_norms": [], "losses": [],  # of the accepted steps, newest last
            "first_loss": None,  # the base's own
            "ema": 0.0, "ema_weight": 0.0, "best_ema": None, "best_at": 0, "too_high": 0,
            "skips": [],  # of the last 100 steps: step, reason, loss, log_norm
            "usual_log_norm": [], "usual_loss": [],  # none, or what has been found to be the data's own height
            "accepted": 0, "last_good": 0,  # steps since the start or the last rewind, and the last of them
            "rewinds": 0, "void": [],  # [from, to] of each rewind: checkpoints between them are not to be trusted
            "trouble": 0,  # first step of the trouble that was last rewound from
        }  # fmt: skip
        for name, value in fresh.items():
            state.setdefault(name, value)
        self.state = state

    def limits(self) -> dict[str, float | None]:
        """norm_limit and loss_limit, the most that the next step may have; None while too few steps are known."""
        norms, losses = self.state["log_norms"], self.state["losses"]
        norm_rise = math.log(EARLY_NORM_FACTOR if len(norms) < FULL else NORM_FACTOR)
        loss_rise = EARLY_LOSS_RISE if len(losses) < FULL else LOSS_RISE
        norm = loss = None
        if len(norms) >= FEW:
            norm = median(norms[-LATEST:]) + max(NORM_SPREADS * _log_spread(norms), norm_rise)
            norm = math.exp(max([norm, *self.state["usual_log_norm"]]))
        if len(losses) >= FEW:
            spread = max(LOSS_SPREADS * _spread(losses), MEAN_SPREADS * _mean_spread(losses))
            loss = median(losses) + max(spread, loss_rise)
            loss = max([loss, *self.state["usual_loss"]])
        return {"norm_limit": norm, "loss_limit": loss}

    def judge(self, step: int, loss: float, norm: float) -> Verdict:
        """Judge a step before its update.

        Args:
            step: its number, counted from 1.
            loss: nats a token; what it is before the update.
            norm: length of the gradient before it is clipped.
        """
        limits, log_norm = self.limits(), _log(norm)
        reason, limit = "", None
        if not math.isfinite(loss):
            reason = "the loss is not finite"
        elif not math.isfinite(norm):
            reason = "the gradient is not finite"
        elif limits["loss_limit"] is not None and loss > limits["loss_limit"]:
            reason, limit = "the loss is far above what it was", limits["loss_limit"]
        elif limits["norm_limit"] is not None and norm > limits["norm_limit"]:
            reason, limit = "the gradient is far longer than it was", limits["norm_limit"]
        if reason:
            return self._flag(step, reason, loss, log_norm, {**limits, "limit": limit})
        diverging, began, numbers = self._diverging(step, loss)
        if diverging:
            return self._trouble(diverging, began, {**limits, **numbers}, skipped=False, count=len(self._near(step)))
        self._accept(step, loss, log_norm)
        return Verdict("take", numbers=limits, count=len(self._near(step)))

    def broken(self, step: int) -> Verdict:
        """The verdict on weights that are not finite after `step`."""
        return self._trouble("the weights are not finite", step, {}, skipped=False, count=len(self._near(step)))

    def _near(self, step: int) -> list[dict[str, Any]]:
        """The skips that still count at `step`."""
        self.state["skips"] = [skip for skip in self.state["skips"] if skip["step"] > step - NEAR]
        return self.state["skips"]

    def _flag(
        self, step: int, reason: str, loss: float, log_norm: float | None, limits: dict[str, float | None]
    ) -> Verdict:
        skips = self._near(step)
        finite = math.isfinite(loss) and log_norm is not None
        skips.append({"step": step, "reason": reason, "loss": loss if finite else None,
                      "log_norm": log_norm if finite else None})  # fmt: skip
        count = len(skips)
        if count <= MAX_SKIPS:
            return Verdict("skip", reason, dict(limits), skipped=True, count=count)
        row = _ending(skips, gap=1)
        if finite and len(row) <= TOGETHER and self.state["accepted"]:
            why = "such steps keep coming among usual ones: they are the data's"
            return self._usual(step, loss, log_norm, why, limits)
        norms = [skip["log_norm"] for skip in row if "longer" in skip["reason"]]
        if finite and len(norms) == len(row) and max(norms) - min(norms) < ALIKE:
            self.state["log_norms"] = []
            why = "gradients stay longer and the loss does not rise: a new level"
            return self._usual(step, loss, log_norm, why, limits)
        began = _ending(skips, gap=TOGETHER)[0]["step"]
        return self._trouble(reason, began, dict(limits), skipped=True, count=count)

    def _usual(
        self, step: int, loss: float, log_norm: float | None, why: str, limits: dict[str, float | None]
    ) -> Verdict:
        """Take the step, and such steps from now on."""
        state, count = self.state, len(self.state["skips"])
        finite = [skip for skip in state["skips"] if skip["loss"] is not None]
        state["skips"] = [skip for skip in state["skips"] if skip["loss"] is None]
        state["usual_loss"] = [median_high(skip["loss"] for skip in finite) + LOSS_RISE]
        state["usual_log_norm"] = [median_high(skip["log_norm"] for skip in finite) + math.log(NORM_FACTOR) / 2]
        self._accept(step, loss, log_norm)
        return Verdict("take", why, limits, count=count)

    def _trouble(self, reason: str, began: int, numbers: dict[str, Any], *, skipped: bool, count: int) -> Verdict:
        state = self.state
        if state["trouble"] and not state["accepted"]:
            began = state["trouble"]  # nothing went well since the last rewind: it is the same trouble still
        action = "rewind" if state["rewinds"] < MAX_REWINDS else "diverged"
        return Verdict(action, reason, {**numbers, "rewinds": state["rewinds"]}, began, skipped, count)

    def _diverging(self, step: int, loss: float) -> tuple[str, int, dict[str, float]]:
        """Whether the loss has been rising, since which step, and the numbers that show it."""
        state = self.state
        if state["first_loss"] is None:
            state["first_loss"] = loss
        state["ema"] = DECAY * state["ema"] + (1 - DECAY) * loss
        state["ema_weight"] = DECAY * state["ema_weight"] + (1 - DECAY)
        ema, best, losses = state["ema"] / state["ema_weight"], state["best_ema"], state["losses"]
        spread = _spread(losses) if len(losses) >= FULL else 0.0
        if best is None or ema < best:
            state["best_ema"] = best = ema
        if ema < best + max(0.05 * best, spread / 4):
            state["best_at"] = step
        rise = max(LOSS_RISE, 3 * spread, 2 * _mean_spread(losses)) if len(losses) >= FULL else EARLY_EMA_RISE
        high = ema > max(EMA_RISE * best, best + rise, state["first_loss"])
        state["too_high"] = state["too_high"] + 1 if high else 0
        if state["too_high"] >= LASTING:
            return "the loss has been rising", state["best_at"] + 1, {"ema": ema, "best_ema": best}
        before, after = losses[: 1 - AFTER], sorted([*losses[1 - AFTER :], loss])
        if len(before) >= FULL:
            old, new = median(before), after[AFTER_LOW]
            if new > old + max(LOSS_RISE, 3 * _spread(before), 2.5 * _mean_spread(before)):
                return "the loss has risen and stays up", step - AFTER + 1, {"before": old, "after": new}
        base = state["first_loss"]
        if len(after) == AFTER and after[0] > base + max(LOSS_RISE, 2 * _spread(after)):
            return "the loss stays above the base model's own", state["best_at"] + 1, {"base": base, "after": after[0]}
        return "", 0, {}

    def _accept(self, step: int, loss: float, log_norm: float | None) -> None:
        state = self.state
        state["accepted"] += 1
        state["last_good"] = step
        state["losses"] = [*state["losses"], loss][-WINDOW:]
        if log_norm is not None:
            state["log_norms"] = [*state["log_norms"], log_norm][-WINDOW:]


def rewound(now: dict[str, Any], loaded: dict[str, Any], *, to_step: int, next_step: int, began: int) -> dict[str, Any]:
    """The guards' state after a rewind: the windows of the checkpoint, and what is known of the whole run.

    Args:
        now: the state at the verdict.
        loaded: the state in the checkpoint.
        to_step: steps behind at the checkpoint.
        next_step: steps behind after the jump.
        began: first step of the trouble.
    """
    return Guard({
        **loaded, "skips": [], "accepted": 0, "last_good": to_step + 1, "too_high": 0, "trouble": began,
        "rewinds": now["rewinds"] + 1, "void": [*now["void"], [to_step, next_step]],
        "first_loss": now["first_loss"] if to_step else None,  # back at the base, the next loss is its own again
    }).state  # fmt: skip


def trusted(state: dict[str, Any], saved: list[int], began: int) -> int | None:
    """Which of the `saved` checkpoints a rewind goes to, or None.

    The newest whose weights were seen to work: a usual step came after it, before the trouble began. Those that a
    rewind has left behind are passed over, and the start of the run is always good. Without such a one, the oldest.
    """
    good = sorted(step for step in saved if not any(start < step < end for start, end in state.get("void", [])))
    before = [step for step in good if step == 0 or step <= began - 2]
    return before[-1] if before else next((step for step in good if step < began), None)


def worth_keeping(state: dict[str, Any], saved: list[int], step: int) -> set[int]:
    """Which of the `saved` checkpoints a rewind may want, now that `step` steps are behind.

    The newest that was seen to work, and one from long before, since a rise of the loss is seen late.
    """
    old = max((at for at in saved if at <= step - REACH), default=min(saved, default=0))
    return {old, *([at] if (at := trusted(state, saved, state.get("last_good", 0) + 1)) is not None else [])}


def _ending(skips: list[dict[str, Any]], *, gap: int) -> list[dict[str, Any]]:
    """The last skips that are no more than `gap` steps apart."""
    first = len(skips) - 1
    while first and skips[first]["step"] - skips[first - 1]["step"] <= gap:
        first -= 1
    return skips[first:]


def _log(norm: float) -> float | None:
    return math.log(norm) if math.isfinite(norm) and norm > 0 else None


def _spread(values: list[float]) -> float:
    middle = median(values)
    return TO_SPREAD * median(abs(value - middle) for value in values)


def _mean_spread(values: list[float]) -> float:
    """The spread from the mean deviation, which knows of values that a median does not: a tenth that are far higher."""
    middle = median(values)
    return sum(abs(value - middle) for value in values) / len(values) * math.sqrt(math.pi / 2)


def _log_spread(norms: list[float]) -> float:
    """The spread of log norms about their course: from the differences of neighbours, which a drift hardly changes."""
    number = len(norms)
    spread = sum(abs(b - a) for a, b in pairwise(norms)) / (number - 1) * math.sqrt(math.pi) / 2
    weight = FULL**2 / number  # of what is usual: as much as the seen one at first, and soon little
    return math.sqrt((number * spread**2 + weight * USUAL_SPREAD**2) / (number + weight))
