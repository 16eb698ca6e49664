"""What the run does at a validation: losses of held-out and held-in rows, kept row by row, and what they say.

The held-in probe is a fixed sample of the training rows, measured as the validation rows are: the same weights, no
dropout, every token once. So the two can be compared, which the running training loss cannot.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from luthier.core.disk import NO_SPACE
from luthier.core.errors import Interrupted, RunError
from luthier.core.files import read_json, write_json
from luthier.data.render import Row
from luthier.evaluate.interval import Comparison, compare
from luthier.evaluate.losses import RowLosses, row_losses
from luthier.evaluate.overfitting import Measured, Overfit, OverfitWatch
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.recipe import Recipe
from luthier.train.loop import Judged, NotFinite
from luthier.train.progress import Progress
from luthier.train.settings import Settings
from luthier.train.step import accumulate
from luthier.train.stream import StepRows

PROBE_ROWS = 256  # 150 are enough to see overfitting by, and more add time; validation rows are never cut


class Forgetting(Protocol):
    """What watches over general abilities at the same occasions (`stages.forgetting`)."""

    def at(
        self, progress: Progress, decoder: Decoder, adapter: Adapter, *, last: bool = False
    ) -> tuple[list[dict[str, Any]], str]:
        """Events to record, and "forgetting" if the run is to stop, else ""; `last` if no step follows."""


class Validator:
    """Measures at each validation what the loop wants to know.

    Args:
        train, val: the stage's rows; without `val` only `forgetting` is asked, and losses are NaN over 0 tokens.
        replay: general rows that may come among those of a step.
        emit: receives the events overfit, advice and warning, and validation at step 0.
        say: receives progress.
        should_stop: asked between forward passes; True raises Interrupted, and then nothing of the run is changed.
        forgetting: asked after the losses.
    """

    def __init__(
        self,
        decoder: Decoder,
        adapter: Adapter,
        train: Sequence[Row],
        val: Sequence[Row],
        *,
        recipe: Recipe,
        settings: Settings,
        run_dir: Path,
        emit: Callable[..., None],
        say: Callable[[str, int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        forgetting: Forgetting | None = None,
        replay: Sequence[Row] = (),
    ) -> None:
        self.replay = replay
        self.decoder, self.adapter, self.train, self.val = decoder, adapter, train, val
        self.recipe, self.settings, self.run_dir, self.emit = recipe, settings, run_dir, emit
        self.say, self.should_stop, self.forgetting = say, should_stop, forgetting
        self.probe = choose_probe(train, min(len(val), PROBE_ROWS), seed=recipe.seed)

    def before(self, progress: Progress, *, under: Adapter | None = None) -> None:
        """What comes before the first step: the longest microstep once, then the losses at step 0.

        Args:
            under: what the training starts from: None for the base, the adapter where it goes on from an earlier stage.

        Raises:
            RunError: the memory does not suffice for the longest microstep, or a loss is not finite.
            Interrupted: a stop was asked for; a resume at step 0 calls this again.
        """
        micro = self.settings.micro_batch_tokens
        try_longest(
            self.decoder, self.adapter, self.train, self.settings.steps, replay=self.replay, micro_batch_tokens=micro
        )
        if not self.val:
            return
        now = self._measure(0, under)
        self._judge(progress, now)
        losses = {"loss": now.val.mean, "label_tokens": int(now.val.tokens.sum())}
        self.emit("validation", step=0, **losses, best=False, **_more(now))

    def __call__(self, progress: Progress) -> Judged:
        """The validation after `progress.step`.

        Raises:
            RunError: a loss is not finite.
            Interrupted: a stop was asked for; the run must come back here before its next step.
        """
        now = self._measure(progress.step, self.adapter) if self.val else None
        events, stop = [], ""
        if self.forgetting is not None:
            last = progress.step >= self.settings.total_steps
            events, stop = self.forgetting.at(progress, self.decoder, self.adapter, last=last)
        # Nothing is asked from here on, so the state is changed as a whole or not at all.
        judged = Judged(math.nan, 0, stop)
        if now is not None:
            found = self._judge(progress, now)
            stop = "overfitting" if found.stop else stop
            judged = Judged(now.val.mean, int(now.val.tokens.sum()), stop, _more(now))
        for event in events:
            self.emit(**event)
        progress.watch["validated"] = progress.step
        return judged

    def compare(self, best_step: int, *, start: Adapter | None = None) -> Comparison:
        """Held-out loss before and after training, when the adapter is that of `best_step`.

        Args:
            start: what the losses at step 0 were measured under, as in `before`; only None can be measured again.

        Raises:
            RunError: losses are lost that cannot be measured again.
        """
        before = self._kept_or_again(0, None, lost=start is not None)
        after = self._kept_or_again(best_step, self.adapter)
        groups = [row.group for row in self.val]
        return compare(before.nll, after.nll, before.tokens, groups, seed=self.recipe.seed)

    def _measure(self, step: int, adapter: Adapter | None) -> Measured:
        """Losses of both sets, written to the run's folder."""
        now = Measured(
            self._losses("validation", self.val, adapter), self._losses("held-in probe", self.probe, adapter)
        )
        for what, rows, losses in (("validation", self.val, now.val), ("probe", self.probe, now.probe)):
            _require_finite(what, step, rows, losses, self.run_dir)
        value = {"nll": now.val.nll.tolist(), "tokens": now.val.tokens.tolist()}
        probe = {"probe_nll": now.probe.nll.tolist(), "probe_tokens": now.probe.tokens.tolist()}
        try:
            write_json(losses_file(self.run_dir, step), value | probe)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self.emit("warning", text=f"the disk is full: the losses of single rows at step {step} are not kept")
        return now

    def _losses(self, what: str, rows: Sequence[Row], adapter: Adapter | None) -> RowLosses:
        def done(number: int, total: int) -> None:
            if self.say is not None:
                self.say(what, number, total)
            if self.should_stop is not None and self.should_stop():
                raise Interrupted

        return row_losses(
            self.decoder,
            rows,
            adapter=adapter,
            micro_batch_tokens=self.settings.micro_batch_tokens,
            progress=done,
        )

    def _judge(self, progress: Progress, now: Measured) -> Overfit:
        """What the rule on overfitting says; its state is kept with the run's."""
        watch = OverfitWatch(
            progress.watch.setdefault("overfit", {}),
            ([row.group for row in self.val], [row.group for row in self.probe]),
            patience=self.recipe.overfitting_patience,
            read=self._read,
            seed=self.recipe.seed,
        )
        found = watch.add(progress.step, now)
        for text in found.remarks:
            self.emit("advice", step=progress.step, text=text)
        if found.text:
            self.emit("overfit", step=progress.step, **_fields(found))
        return found

    def _read(self, step: int) -> Measured | None:
        """Losses kept at an earlier step; None, and a warning, if they are lost."""
        found = read_losses(self.run_dir, step, self.val, self.probe)
        if isinstance(found, Measured):
            return found
        text = f"the losses of step {step} cannot be compared with: {found}"
        self.emit("warning", text=text)
        return None

    def _kept_or_again(self, step: int, adapter: Adapter | None, *, lost: bool = False) -> RowLosses:
        """The validation losses kept at a step, else measured again with the adapter of that step."""
        found = read_losses(self.run_dir, step, self.val, self.probe)
        if isinstance(found, Measured):
            return found.val
        if lost:
            raise RunError(
                f"the losses before the training cannot be read: {found}",
                where=str(losses_file(self.run_dir, step)),
                fix="the adapter is in the newest checkpoint; train this stage again to have it compared",
            )
        self.emit("warning", text=f"the losses of step {step} are measured again: {found}")
        return self._losses("validation", self.val, adapter)


def losses_file(run_dir: Path, step: int) -> Path:
    """Where the losses of single rows after `step` steps are kept."""
    return run_dir / "validation" / f"step-{step:06d}.json"


def read_losses(run_dir: Path, step: int, val: Sequence[Row], probe: Sequence[Row]) -> Measured | str:
    """The losses kept at a step, or what is wrong with them."""
    path = losses_file(run_dir, step)
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        value = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return f"{path.name} is damaged"
    sides = [kept_losses(value, prefix, rows) for prefix, rows in (("", val), ("probe_", probe))]
    if sides[0] is None or sides[1] is None:
        return f"{path.name} is damaged, or of other rows"
    return Measured(sides[0], sides[1])


def kept_losses(value: Any, prefix: str, rows: Sequence[Row]) -> RowLosses | None:
    """One set of losses out of a file's value; None if they are not finite losses of these rows."""
    nll, tokens = (value.get(prefix + name) for name in ("nll", "tokens")) if isinstance(value, dict) else (None, None)
    if tokens != [int(row.mask.sum()) for row in rows] or not isinstance(nll, list) or len(nll) != len(rows):
        return None
    if not all(isinstance(loss, int | float) and math.isfinite(loss) for loss in nll):
        return None
    return RowLosses(np.array(nll, np.float64), np.array(tokens, np.int64))


def choose_probe(train: Sequence[Row], number: int, *, seed: int) -> list[Row]:
    """A fixed sample of the training rows, the same in every run of this seed whatever order they stand in."""
    keyed = [
        (hashlib.sha256(f"{seed}/probe/{row.record_id}".encode() + row.ids.tobytes()).digest(), index)
        for index, row in enumerate(train)
    ]
    return [train[index] for _, index in sorted(keyed)[:number]]


def try_longest(
    decoder: Decoder,
    adapter: Adapter,
    rows: Sequence[Row],
    steps: Sequence[Any],
    *,
    replay: Sequence[Row] = (),
    micro_batch_tokens: int = 0,
) -> None:
    """Forward and backward through the microstep of most tokens, so that too little memory shows before the training.

    Weights, optimizer and random streams are left as they were; the gradient is zero again.

    Args:
        steps: the plan, (epoch, microsteps of row indices) for each step.
        replay: rows that may fill a microstep up to `micro_batch_tokens`, or get one to themselves.

    Raises:
        RunError: the device has too little memory for it.
    """
    microsteps = {tuple(microstep) for _, step in steps for microstep in step}
    trained = [microstep for microstep in microsteps if any(rows[i].mask.any() for i in microstep)]
    longest = max(trained, key=lambda microstep: (sum(len(rows[i].ids) for i in microstep), microstep), default=())
    if not longest:
        return
    some = [rows[i] for i in longest]
    room = micro_batch_tokens - sum(len(row.ids) for row in some)
    for row in sorted(replay, key=lambda row: -len(row.ids)):
        if len(row.ids) <= room:
            some.append(row)
            room -= len(row.ids)
        elif len(row.ids) > sum(len(other.ids) for other in some):
            some, room = [row], micro_batch_tokens - len(row.ids)
    tokens, label_tokens = sum(len(row.ids) for row in some), sum(int(row.mask.sum()) for row in some)
    alone = StepRows(0, [some], [[False] * len(some)], tokens, label_tokens, 0, 0, 0.0)
    try:
        accumulate(decoder, adapter, alone, step=0, kl_weight=0.0, should_stop=lambda: False)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the device has too little memory for the longest microstep, {tokens} tokens: {error}",
            where=some[0].where,
            fix="lower micro_batch_tokens; if one row alone is that long, lower sequence_len or set "
            "gradient_checkpointing to true",
        ) from None
    adapter.grad.zero_()


def _require_finite(what: str, step: int, rows: Sequence[Row], losses: RowLosses, run_dir: Path) -> None:
    broken = np.flatnonzero(~np.isfinite(losses.nll))
    if len(broken):
        raise NotFinite(
            f"the {what} loss of {len(broken)} of {len(rows)} rows is not finite at step {step} "
            f"(the first is {rows[broken[0]].where})",
            where=str(run_dir),
            fix="lower learning_rate; if it is so before the first step, luthier model verify the base",
        )


def _more(now: Measured) -> dict[str, Any]:
    """Fields of a validation event beside its loss."""
    return {
        "rows": len(now.val.nll),
        "probe_loss": now.probe.mean,
        "probe_label_tokens": int(now.probe.tokens.sum()),
        "probe_rows": len(now.probe.nll),
    }


def _fields(found: Overfit) -> dict[str, Any]:
    """An overfit event."""
    assert found.val is not None and found.probe is not None
    fields = {
        "times": found.times,
        "since": found.since,
        "best_step": found.best_step,
        "picked": found.picked,
        "stop": found.stop,
    }
    for name, change in (("val", found.val), ("probe", found.probe)):
        told = asdict(change)
        fields |= {f"{name}_{key}": told[key] for key in ("change", "interval", "rows", "groups")}
    return fields | {"text": found.text}
