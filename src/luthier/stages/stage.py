"""One stage of training, from its first event to its report."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from luthier.core.errors import Interrupted, RunError
from luthier.core.files import hash_json
from luthier.evaluate.interval import Comparison
from luthier.evaluate.report import write_report
from luthier.stages.facts import require_same
from luthier.stages.finish import Finish
from luthier.stages.forgetting import ForgettingWatch
from luthier.stages.general import General, prepare_general
from luthier.stages.measure import answer, base_losses
from luthier.stages.result import INTERRUPTED, Outcome, TrainResult, result_of
from luthier.stages.samples import choose_samples
from luthier.stages.session import Session
from luthier.stages.start_event import start_fields
from luthier.stages.validate import Validator
from luthier.train.checkpoint import facts_of, load_checkpoint, newest_good
from luthier.train.checkpoint_folder import checkpoints, step_of
from luthier.train.loop import fit
from luthier.train.progress import Progress
from luthier.train.range_test import range_rows, range_test
from luthier.train.stream import Stream

OUTSIDE = (
    "what this stage begins with has forgotten more than its max_forgetting allows: unless replay brings that back, "
    "the stage will not be accepted"
)


@dataclass(frozen=True)
class Begin:
    """Where a run begins or goes on.

    Attributes:
        checkpoint: the newest whole one; None starts from the beginning.
        notes: what is to be told: checkpoints that were passed over, differences that were accepted.
        old: the facts that the checkpoint was written with.
    """

    checkpoint: Path | None = None
    notes: tuple[str, ...] = ()
    old: dict[str, Any] = field(default_factory=dict)


def going_on(run_dir: Path, facts: dict[str, Any], accept: tuple[str, ...]) -> Begin:
    """Find the newest whole checkpoint of a run, and see that the run is still made of the same.

    Raises:
        RunError: something else is changed than `accept` names, or there were checkpoints and none is whole.
    """
    checkpoint, notes = newest_good(run_dir)
    if checkpoint is None:
        return Begin(notes=tuple(notes))
    old = facts_of(checkpoint)
    told = require_same(old, facts, accept=accept, where=str(run_dir))
    return Begin(checkpoint, (*notes, *told), old)


def run_stage(session: Session, begin: Begin) -> TrainResult:
    """Train, compare, judge, publish, report.

    Raises:
        RunError: the training could not go on; what was saved stays.
    """
    session.open()
    try:
        return _Stage(session, begin).run()
    finally:
        session.close()


class _Stage:
    def __init__(self, session: Session, begin: Begin) -> None:
        self.session, self.begin, self.progress = session, begin, Progress()
        self.samples = choose_samples(
            session.prepared.val_records, session.recipe.num_samples, seed=session.recipe.seed
        )

    def run(self) -> TrainResult:
        session = self.session
        try:
            self._open()
            return self._run()
        except Interrupted:  # in the middle of something long that is begun again from the newest checkpoint
            saved = max((step_of(folder) for folder in checkpoints(session.run_dir)), default=0)
            session.emit("interrupted", step=saved)
            return self._result(Outcome(INTERRUPTED, "", "", saved, 1.0), None)
        except torch.OutOfMemoryError as error:
            raise self._failed(_no_memory(session, error)) from None
        except RunError as error:
            raise self._failed(error) from None

    def _failed(self, error: RunError) -> RunError:
        self.session.emit("warning", text=error.what)
        self.session.end("failed", self.progress)
        write_report(self.session.run_dir)
        return error

    def _open(self) -> None:
        """The first events, and the state that is gone on with."""
        session, begin = self.session, self.begin
        if begin.checkpoint is None:
            session.emit("start", **start_fields(session))
            if session.link is not None:
                session.emit("stage", **session.link.event())
        for text in begin.notes:
            session.emit("warning", text=text)
        if begin.checkpoint is not None:
            self.progress = load_checkpoint(begin.checkpoint, session.adapter, session.optimizer)
            self._take_over()
            total = session.prepared.settings.total_steps
            session.emit("resume", step=self.progress.step, total_steps=total)
        for text in session.checked.warnings:
            session.emit("warning", text=text)
        for text in session.checked.advice if begin.checkpoint is None else ():
            session.emit("advice", text=text)
        session.draw(after=None if begin.checkpoint is None else self.progress.step)

    def _take_over(self) -> None:
        """What was changed by name since the checkpoint acts from here on."""
        recipe, old = self.session.recipe, self.begin.old
        if recipe.learning_rate not in ("auto", old["learning_rate"]):
            self.progress.learning_rate = recipe.learning_rate
        if recipe.replay_share != old["replay_share"]:
            self.progress.replay_share = recipe.replay_share

    def _run(self) -> TrainResult:
        session, progress = self.session, self.progress
        prepared, settings, recipe = session.prepared, session.prepared.settings, session.recipe
        general, watch = self._general()
        if general is not None and progress.watch.setdefault("general", general.hash) != general.hash:
            raise RunError(
                "the general rows are not those that this run began with",
                where=str(session.run_dir),
                fix="put general_datasets, sequence_len and too_long back, or start a new run with another output_dir",
            )
        replay = general.replay_rows if general is not None else []
        validator = Validator(
            session.decoder,
            session.adapter,
            prepared.train,
            prepared.val,
            recipe=recipe,
            settings=settings,
            run_dir=session.run_dir,
            emit=session.emit,
            say=session.say,
            should_stop=session.interrupt,
            forgetting=watch,
            replay=replay,
        )
        stream = Stream(
            prepared.train,
            settings.steps,
            replay,
            micro_batch_tokens=settings.micro_batch_tokens,
            seed=recipe.seed,
        )
        if self.begin.checkpoint is None:
            progress.replay_share = recipe.replay_share if replay else 0.0
            self._before(validator)
        if watch is not None:
            for event in watch.before(session.decoder):
                session.emit(**event)
            if session.start is not None and self.begin.checkpoint is None:
                wrong = watch.start(progress, session.decoder, session.start)
                if wrong:
                    session.emit("warning", text=f"{OUTSIDE} ({wrong})")
        status = fit(
            session.decoder,
            session.adapter,
            session.optimizer,
            stream,
            recipe=recipe,
            settings=settings,
            progress=progress,
            run_dir=session.run_dir,
            base_model=session.base_model,
            facts=session.facts,
            emit=session.emit,
            evaluate=validator if prepared.val or watch is not None else None,
            should_stop=session.interrupt,
        )
        if status == INTERRUPTED:
            return self._result(Outcome(INTERRUPTED, "", "", progress.step, 1.0), None)
        outcome, comparison = Finish(session, status, progress, validator, watch, self.samples).run()
        return self._result(outcome, comparison)

    def _general(self) -> tuple[General | None, ForgettingWatch | None]:
        """The general rows, where something is done with them, and the watch, where forgetting is watched."""
        session, prepared, recipe = self.session, self.session.prepared, self.session.recipe
        if recipe.max_forgetting is None and recipe.replay_share == 0:
            return None, None
        general = prepare_general(
            recipe,
            run_dir=session.run_dir,
            decoder=session.decoder,
            renderer=prepared.renderer,
            base_hash=base_hash(session.facts),
            given=prepared.general_records,
            say=session.say,
        )
        if self.begin.checkpoint is None:
            session.emit(
                "general",
                text=general.why,
                notes=general.notes,
                probe_rows=len(general.probe_rows),
                replay_rows=len(general.replay_rows),
                hash=general.hash,
            )
        if recipe.max_forgetting is None:
            return general, None
        watch = ForgettingWatch(
            recipe,
            general,
            prepared.val or prepared.train,
            prepared.renderer.tokenizer,
            run_dir=session.run_dir,
            micro_batch_tokens=prepared.settings.micro_batch_tokens,
            say=session.say,
        )
        return general, watch

    def _before(self, validator: Validator) -> None:
        """What the training starts from: its held-out loss and its answers; and the learning rate."""
        session = self.session
        validator.before(self.progress, under=session.start)
        if session.start is not None and session.prepared.val:
            base_losses(session)
        self.progress.learning_rate = self._rate()
        answer(session, self.samples, "before")

    def _rate(self) -> float:
        """The recipe's learning rate, or what a range test finds."""
        session, settings, recipe = self.session, self.session.prepared.settings, self.session.recipe
        if recipe.learning_rate != "auto":
            return settings.learning_rate
        found = range_test(
            session.decoder,
            session.adapter,
            recipe,
            range_rows(session.prepared.train, settings, seed=recipe.seed),
            guess=settings.learning_rate,
            seed=recipe.seed,
            progress=lambda done, total: session.say("learning rates", done, total),
        )
        session.emit("range_test", **asdict(found))
        return found.chosen

    def _result(self, outcome: Outcome, comparison: Comparison | None) -> TrainResult:
        self.session.end(outcome.status, self.progress)
        return result_of(self.session.run_dir, outcome, comparison)


def _no_memory(session: Session, error: torch.OutOfMemoryError) -> RunError:
    tokens, run_dir = session.prepared.settings.micro_batch_tokens, session.run_dir
    return RunError(
        f"the device has too little memory: {str(error).splitlines()[0]}",
        where=str(run_dir),
        fix=f"what was saved is whole: lower micro_batch_tokens (it is {tokens}) in {run_dir / 'recipe.yaml'}, which "
        f"changes no step, then luthier train --resume {run_dir} --accept micro_batch_tokens",
    )


def base_hash(facts: dict[str, Any]) -> str:
    """Of the base's weights and config, however they are held."""
    return hash_json(facts["base_model"])
