"""The training loop: microsteps accumulate, the guards judge, a step updates, and at its intervals the run validates
and saves.

Nothing here knows where rows come from or how a validation is made: they are arguments. A step's gradient is the sum
over its microsteps divided by the trained tokens of the whole step, so 1 × 8 rows and 8 × 1 rows give the same update.

A step that the guards refuse is branched over: no weight, moment or statistic is touched, not even by zero. A rewind
saves where it goes on before it deletes anything, and all that it does follows from the checkpoint that the run would
resume from; so a run that dies within a rewind makes the same one again, or finds it made.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from luthier.core.errors import Interrupted, RunError
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.recipe import Recipe
from luthier.train.diagnosis import diagnosis
from luthier.train.guards import Guard, Verdict, rewound
from luthier.train.keeper import Keeper
from luthier.train.optim import Optimizer
from luthier.train.progress import Progress
from luthier.train.schedule import factor
from luthier.train.settings import Settings
from luthier.train.step import MOST_RECORDS, Gradient, accumulate, blame
from luthier.train.stream import StepRows, Stream

REWARM = 20  # steps in which the learning rate rises again after a rewind
RATE_CUT = 0.5  # what a rewind multiplies the rate by
KEPT_RECORDS = 8  # of each skipped step, in the guards' state


class NotFinite(RunError):
    """A loss of a validation is not finite. The weights are to blame, so the run goes back."""


@dataclass(frozen=True)
class Judged:
    """A validation.

    Attributes:
        loss: mean over the held-out rows' trained tokens (nats).
        label_tokens: how many these are; 0 where none are held out, and then the loss means nothing.
        stop: "overfitting" or "forgetting" when the run shall end with that status, else empty.
        more: further fields of the validation's event, JSON values.
    """

    loss: float
    label_tokens: int
    stop: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def fit(
    decoder: Decoder,
    adapter: Adapter,
    optimizer: Optimizer,
    stream: Stream,
    *,
    recipe: Recipe,
    settings: Settings,
    progress: Progress,
    run_dir: Path,
    base_model: str,
    facts: dict[str, Any],
    emit: Callable[..., None],
    evaluate: Callable[[Progress], Judged] | None,
    should_stop: Callable[[], bool],
) -> str:
    """Train from `progress.step` to the end of the plan, an early end, or an interruption.

    Args:
        stream: the rows of each step.
        progress: where the run stands; updated in place. A rewind puts other dicts into it.
        base_model: where PEFT shall find the base, written into each saved adapter.
        facts: what the run is made of, kept in each checkpoint's manifest.
        emit: receives the events step, skipped, rewind, diverged, validation, checkpoint, warning, paused, unpaused and
            interrupted.
        evaluate: called every `eval_steps` and after the last step, before the save; None: no validation. It may change
            in its argument rate_scale, warm_from, replay_share, kl_weight and watch.
        should_stop: asked between microsteps; True gives the unfinished step up, saves, and ends the loop. `evaluate`
            may raise Interrupted to the same end, and NotFinite, which leads to a rewind.

    Returns:
        "finished", "early stop", "overfitting", "forgetting", "interrupted" or "diverged". After "diverged" the adapter
        is that of the newest checkpoint from before the trouble.

    Raises:
        RunError: the run cannot be written, for another reason than a full disk.
    """
    keeper = Keeper(
        adapter, optimizer, run_dir, base_model, facts, recipe.keep_checkpoints, emit, should_stop
    )  # fmt: skip
    return _Loop(
        decoder, adapter, optimizer, stream, recipe, settings, progress, emit, evaluate, should_stop, keeper
    ).run()


@dataclass
class _Loop:
    decoder: Decoder
    adapter: Adapter
    optimizer: Optimizer
    stream: Stream
    recipe: Recipe
    settings: Settings
    progress: Progress
    emit: Callable[..., None]
    evaluate: Callable[[Progress], Judged] | None
    should_stop: Callable[[], bool]
    keeper: Keeper

    def run(self) -> str:
        progress = self.progress
        progress.learning_rate = progress.learning_rate or self.settings.learning_rate
        if progress.step == 0 and not self.keeper.save(progress):
            return self._interrupted()
        for start, end in progress.guard.get("void", []):  # the run may have died before it was through with this
            self.keeper.discard(progress, start, end)
        if progress.owes_validation:
            progress.owes_validation = False
            if status := self._keep(self.evaluate is not None):
                return status
        while progress.step < self.settings.total_steps and not progress.stopped:
            if status := self._step():
                return status
        return progress.stopped or "finished"

    def _step(self) -> str:
        """One place of the plan; a status if the run ends here, else nothing."""
        progress, began = self.progress, time.monotonic()
        rows = self.stream.rows_of(progress)
        if rows.label_tokens == rows.replay_tokens:
            named = {row.record_id: row.where for microstep in rows.microsteps for row in microstep}
            self._tell_skipped("none of its tokens is trained on", list(named), list(named.values()))
            self._behind(rows, began)
            return self._intervals()
        where = {"step": progress.step, "kl_weight": progress.kl_weight}
        gradient = accumulate(self.decoder, self.adapter, rows, **where, should_stop=self.should_stop)
        if gradient is None:
            self.adapter.grad.zero_()
            if self.keeper.sound():  # else the run goes on from the checkpoint before, and finds the same
                self.keeper.save(progress)
            return self._interrupted()
        verdict = Guard(progress.guard).judge(progress.step + 1, gradient.judged_loss, gradient.norm)
        if verdict.action == "take":
            self._take(rows, gradient, verdict, began)
            return self._intervals()
        blamed = blame(self.decoder, self.adapter, rows, gradient, **where)  # leaves no gradient
        if verdict.skipped:
            progress.guard["skips"][-1]["records"] = blamed.records[:KEPT_RECORDS]
            self._tell_skipped(
                verdict.reason, blamed.records, blamed.wheres, loss=gradient.judged_loss, grad_norm=gradient.norm,
                count_in_window=verdict.count, microsteps=blamed.microsteps, tensors=blamed.tensors, **verdict.numbers,
            )  # fmt: skip
        self._behind(rows, began)
        return self._intervals() if verdict.action == "skip" else self._rewind(verdict, blamed.records)

    def _take(self, rows: StepRows, gradient: Gradient, verdict: Verdict, began: float) -> None:
        progress, norm, longest = self.progress, gradient.norm, self.recipe.max_grad_norm
        rate = self._rate()
        self.optimizer.step(rate, longest / norm if norm > longest else 1.0)
        self.adapter.grad.zero_()
        progress.updates += 1
        seconds = self._behind(rows, began)
        if verdict.reason:
            self.emit("warning", text=f"step {progress.step} is taken: {verdict.reason}")
        self.emit(
            "step",
            step=progress.step,
            updates=progress.updates,
            epoch=rows.epoch,
            loss=gradient.loss,
            replay_loss=gradient.replay_loss,
            kl=gradient.kl,
            grad_norm=norm,
            **verdict.numbers,
            learning_rate=rate,
            tokens=rows.tokens,
            label_tokens=rows.label_tokens,
            replay_tokens=rows.replay_tokens,
            shared_tokens=rows.tokens - gradient.computed_tokens,
            seconds=seconds,
            tokens_per_second=rows.tokens / seconds,
            total_tokens=progress.total_tokens,
        )

    def _rate(self) -> float:
        """The learning rate of the next step."""
        progress, step = self.progress, self.progress.step + 1
        course = factor(
            step, self.settings.total_steps, kind=self.recipe.lr_scheduler, warmup_ratio=self.recipe.warmup_ratio
        )
        again = 1.0 if progress.warm_from < 0 else min(1.0, (step - progress.warm_from) / REWARM)
        return progress.learning_rate * course * progress.rate_scale * again

    def _behind(self, rows: StepRows, began: float) -> float:
        """Count the step as done with; returns the seconds that it took."""
        progress, seconds = self.progress, time.monotonic() - began
        progress.step += 1
        progress.total_tokens += rows.tokens
        progress.total_label_tokens += rows.label_tokens
        progress.seconds += seconds
        progress.replay_drawn, progress.replay_owed = rows.drawn, rows.owed
        return seconds

    def _tell_skipped(self, reason: str, records: list[str], wheres: list[str], **more: Any) -> None:
        nothing = {"loss": None, "grad_norm": None, "limit": None, "norm_limit": None, "loss_limit": None,
                   "count_in_window": 0, "microsteps": [], "tensors": []}  # fmt: skip
        self.emit("skipped", step=self.progress.step + 1, reason=reason, records=records[:MOST_RECORDS],
                  wheres=wheres[:MOST_RECORDS], **{**nothing, **more})  # fmt: skip

    def _intervals(self) -> str:
        """After a step: validate and save, if it is time."""
        step = self.progress.step
        last = step >= self.settings.total_steps
        due = self.evaluate is not None and (last or step % self.settings.eval_steps == 0)
        if not (due or last or step % self.settings.save_steps == 0):
            return ""
        if not self.keeper.sound():
            return self._rewind(Guard(self.progress.guard).broken(step), [])
        return self._keep(due)

    def _keep(self, due: bool) -> str:
        """Save, after a validation where one is due."""
        progress, evaluate, judged = self.progress, self.evaluate, []
        before = copy.deepcopy(asdict(progress))

        def validate() -> None:
            assert evaluate is not None
            if not judged:
                _put(progress, before)  # a full disk may have stopped it half way
                judged.append(evaluate(progress))
                self._best(judged[0])

        try:
            saved = self.keeper.save(progress, first=validate if due else None)
        except Interrupted:  # in the middle of the validation, which the run makes when it goes on
            _put(progress, {**before, "owes_validation": True})
            self.keeper.save(progress)
            saved = False
        except NotFinite as error:
            _put(progress, before)
            self.emit("warning", text=error.what)
            return self._rewind(Guard(progress.guard).broken(progress.step), [])
        return "" if saved else self._interrupted()

    def _best(self, judged: Judged) -> None:
        """Keep count of what is best, and of whether it is time to end."""
        progress, patience = self.progress, self.recipe.early_stopping_patience
        if not judged.label_tokens:  # there are no held-out rows, only other things that are watched
            progress.stopped = judged.stop
            return
        best = math.isfinite(judged.loss) and (progress.best_loss is None or judged.loss < progress.best_loss)
        if best:
            progress.best_loss, progress.best_step, progress.stale_validations = judged.loss, progress.step, 0
        else:
            progress.stale_validations += 1
        over = progress.stale_validations >= patience and progress.step < self.settings.total_steps
        progress.stopped = judged.stop or ("early stop" if patience and over else "")
        self.emit("validation", step=progress.step, loss=judged.loss, label_tokens=judged.label_tokens, best=best,
                  **judged.more)  # fmt: skip

    def _interrupted(self) -> str:
        self.emit("interrupted", step=self.progress.step)
        return "interrupted"

    def _rewind(self, verdict: Verdict, records: list[str]) -> str:
        """Back to before the trouble, and on from after it; a status if the run ends here, else nothing."""
        now, keeper, total = self.progress, self.keeper, self.settings.total_steps
        skips = [record for skip in now.guard["skips"] for record in skip.get("records", [])]
        records = list(dict.fromkeys([*records, *skips]))
        seen, rate = now.step, self._rate()
        next_step = min(seen + (seen - verdict.began + 1), total)  # past the trouble, and as far again
        old = keeper.back(now.guard, verdict.began)
        useless = next_step == total and (now.guard["accepted"] == 0 or (old is not None and old.updates == 0))
        if old is None or verdict.action == "diverged" or useless:
            if old is not None:
                keeper.discard(now, old.step, seen + 1)
            self.emit("diverged", step=seen, to_step=None if old is None else old.step, reason=verdict.reason,
                      records=records[:MOST_RECORDS], text=diagnosis(now, verdict, rate, records),
                      **verdict.numbers)  # fmt: skip
            return "diverged"
        scale = RATE_CUT * min(now.rate_scale, old.rate_scale)
        guard = rewound(now.guard, old.guard, to_step=old.step, next_step=next_step, began=verdict.began)
        stale = old.stale_validations if now.best_step <= old.step else 0
        kept = (
            "total_tokens", "total_label_tokens", "seconds", "learning_rate", "best_loss", "best_step", "stopped",
            # or the same general rows would come again, and what was decided about them be undone
            "replay_drawn", "replay_owed", "replay_share", "kl_weight",
        )  # fmt: skip
        _put(now, asdict(old) | {name: getattr(now, name) for name in kept} | {
            "step": next_step, "rate_scale": scale, "warm_from": next_step, "guard": guard, "stale_validations": stale,
            "owes_validation": False,
        })  # fmt: skip
        self.emit("rewind", step=seen, to_step=old.step, next_step=next_step, reason=verdict.reason, rate_scale=scale,
                  records=records[:MOST_RECORDS], **{**verdict.numbers, "rewinds": guard["rewinds"]})  # fmt: skip
        # The save is the moment from which the rewind is made; if the plan ends in the gap, this is the run's last one.
        status = self._keep(next_step == total and self.evaluate is not None)
        if not status:
            keeper.discard(now, old.step, next_step)
        return status


def _put(progress: Progress, values: dict[str, Any]) -> None:
    """Give `progress` these values, in place."""
    values = copy.deepcopy(values)
    for entry in fields(progress):
        setattr(progress, entry.name, values[entry.name])
