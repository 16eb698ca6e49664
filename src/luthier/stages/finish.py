"""After the last step: the best checkpoint's adapter, what it is worth, whether it may stand, and where it is put."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from luthier.data.records import Record
from luthier.evaluate.interval import BETTER, WORSE, Comparison
from luthier.evaluate.losses import RowLosses
from luthier.stages.forgetting import ForgettingWatch
from luthier.stages.gate import as_event, judge
from luthier.stages.measure import (
    RESULT_FILE,
    answer,
    base_losses,
    compared,
    measure,
    read_losses,
    write_losses,
)
from luthier.stages.publish import faults, publish
from luthier.stages.result import ADAPTER_FOLDER, DIVERGED, FORGETTING, NOT_ACCEPTED, REJECTED_FOLDER, Outcome
from luthier.stages.session import Session
from luthier.stages.strength import choose_strength
from luthier.stages.validate import Validator, losses_file
from luthier.train.checkpoint import damage, folder_of, load_checkpoint
from luthier.train.checkpoint_folder import checkpoints, step_of
from luthier.train.optim import make_optimizer
from luthier.train.progress import Progress


@dataclass
class Finish:
    """The end of one run.

    Args:
        status: what the loop said.
        validator: of the run.
        watch: of the run; None where forgetting is not watched.
        samples: prompts for a person to read.
    """

    session: Session
    status: str
    progress: Progress
    validator: Validator
    watch: ForgettingWatch | None
    samples: Sequence[Record]
    refusals: list[str] = field(default_factory=list)

    def run(self) -> tuple[Outcome, Comparison | None]:
        """Restore, choose the strength, compare, judge, publish; what was found is in events before it is done.

        Raises:
            Interrupted: a stop was asked for; nothing was published, and the run can come here again.
            RunError: the losses before the training are lost and cannot be measured again.
        """
        session, val = self.session, self.session.prepared.val
        if self.status == DIVERGED:
            self.refusals.append("the training diverged")
        step = self._restore()
        wrong = faults(session, val or session.prepared.train) if step is not None else []
        if step is None or (wrong and self.status == DIVERGED):
            return self._nothing(), None
        self.refusals += wrong
        strength, after = self._strength(step) if not wrong else (1.0, None)
        beside = self._compare(step, strength, after) if after is not None else None
        if self.watch is not None and (why := self.watch.refusal(self.progress)):
            self.refusals.append(why)
        elif self.status == FORGETTING and (beside is None or beside.verdict != BETTER):
            self.refusals.append("the training was stopped for forgetting, and the target is not clearly better")
        if session.link is None and beside is not None and beside.verdict == WORSE and not self.refusals:
            self.refusals.append("the held-out loss is clearly worse than the base's")
        answer(session, self.samples, "after")
        if session.link is not None:
            self._gate(beside)
        return self._publish(step, strength, after), beside

    def _nothing(self) -> Outcome:
        """A run that diverged before anything got better."""
        text = "the training diverged before anything got better than it was at the start: nothing is kept"
        self.refusals = [text]
        if self.session.link is not None:
            self._gate(None, kept=False)
        outcome = Outcome(self.status, "", "; ".join(self.refusals), 0, 1.0)
        self.session.emit("outcome", **asdict(outcome))
        return outcome

    def _restore(self) -> int | None:
        """Put the best checkpoint's adapter in place of the last one's; returns its step, None if there is none."""
        session, progress = self.session, self.progress
        if self.status == DIVERGED and not session.prepared.val:
            return max((step_of(folder) for folder in checkpoints(session.run_dir)), default=None)
        if self.status == DIVERGED:
            before = read_losses(session.run_dir, losses_file(session.run_dir, 0).name, session.prepared.val)
            if progress.best_loss is None or before is None or progress.best_loss >= before.mean:
                return None
        if progress.best_step == 0 or (progress.best_step == progress.step and self.status != DIVERGED):
            return progress.step
        best = folder_of(session.run_dir, progress.best_step)
        if wrong := damage(best):
            text = f"{best.name} was the best checkpoint, but {wrong}: the adapter is that of the last step"
            session.emit("warning", text=text)
            return progress.step
        load_checkpoint(best, session.adapter, make_optimizer(session.adapter, session.recipe))
        return progress.best_step

    def _strength(self, step: int) -> tuple[float, RowLosses | None]:
        """Choose the strength, where forgetting is watched; returns it, and the held-out losses at it."""
        session, val = self.session, self.session.prepared.val
        if not val:
            self._require_budget(step)
            return 1.0, None
        full = read_losses(session.run_dir, losses_file(session.run_dir, step).name, val)
        full = full or measure(session, val, session.adapter, "validation")
        if self.watch is None or self.status == DIVERGED:
            return 1.0, full
        found = choose_strength(
            session.decoder,
            session.adapter,
            val,
            self.watch,
            base=base_losses(session),
            full=full,
            origin=session.origin,
            step=step,
            seed=session.recipe.seed,
            micro_batch_tokens=session.prepared.settings.micro_batch_tokens,
            say=session.say,
        )
        session.emit("strength", **found.event())
        if not found.accepted:
            self.refusals.append(found.text.removeprefix(f"{NOT_ACCEPTED}: "))
        if found.chosen == 1.0:
            return 1.0, full
        return found.chosen, measure(session, val, session.adapter, "validation")

    def _require_budget(self, step: int) -> None:
        """Without held-out rows there is nothing to choose a strength by; the budget holds all the same."""
        if self.watch is None or self.status == DIVERGED:
            return
        now = self.watch.known(step) or self.watch.measure(self.session.decoder, self.session.adapter)
        if not self.watch.judged(now).inside:
            text = "more was forgotten than max_forgetting allows, and nothing is held out to choose a strength by"
            self.refusals.append(text)

    def _compare(self, step: int, strength: float, after: RowLosses) -> Comparison:
        """What the training began with beside what came out, and the base where that is something else."""
        session = self.session
        write_losses(session.run_dir, RESULT_FILE, after, step=step, strength=strength)
        before = read_losses(session.run_dir, losses_file(session.run_dir, 0).name, session.prepared.val)
        if before is None:
            before = measure(session, session.prepared.val, None, "validation") if session.start is None else None
        if before is None:
            return self.validator.compare(step, start=session.start)  # says what is lost
        beside = compared(session, session.prepared.val, before, after)
        against = session.link.beside if session.link is not None else "the base"
        session.emit("heldout", against=against, **asdict(beside))
        if session.start is not None:
            whole = compared(session, session.prepared.val, base_losses(session), after)
            session.emit("heldout_base", against="the base", **asdict(whole))
        return beside

    def _gate(self, beside: Comparison | None, *, kept: bool = True) -> None:
        session, link = self.session, self.session.link
        assert link is not None
        earlier = []
        for stage in link.earlier if kept else ():
            now = measure(session, stage.rows, session.adapter, f"what stage {stage.name} holds out")
            earlier.append((stage.name, compared(session, stage.rows, stage.reached, now)))
            session.emit("earlier", stage=stage.name, **asdict(earlier[-1][1]))
        verdict = judge(link, beside, earlier, self.refusals)
        self.refusals = [] if verdict.passed else [verdict.text]
        whole = beside
        if session.start is not None and beside is not None:
            after = read_losses(session.run_dir, RESULT_FILE, session.prepared.val)
            assert after is not None
            whole = compared(session, session.prepared.val, base_losses(session), after)
        session.emit(
            "gate",
            stage=link.name,
            passed=verdict.passed,
            text=verdict.text,
            status=self.status,
            gate=link.gate,
            max_unlearning=link.max_unlearning,
            base=as_event(whole),
            parent=as_event(beside),
            earlier=[{"stage": name, **asdict(comparison)} for name, comparison in earlier],
        )

    def _publish(self, step: int, strength: float, after: RowLosses | None) -> Outcome:
        session = self.session
        rows = session.prepared.val or session.prepared.train
        if not self.refusals:
            outcome = Outcome(self.status, ADAPTER_FOLDER, "", step, strength)
            session.emit("outcome", **asdict(outcome))
            wrong = publish(session, ADAPTER_FOLDER, rows, after)
            if not wrong:
                return outcome
            self.refusals.append(wrong)
        status = self.status if self.status == DIVERGED else NOT_ACCEPTED
        outcome = Outcome(status, REJECTED_FOLDER, "; ".join(self.refusals), step, strength)
        session.emit("outcome", **asdict(outcome))
        if wrong := publish(session, REJECTED_FOLDER, rows, after):
            outcome = Outcome(status, "", "; ".join([*self.refusals, wrong]), step, strength)
            session.emit("outcome", **asdict(outcome))
        return outcome
