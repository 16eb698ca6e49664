"""A training in stages: each begins with the adapter of the one before it, and its gate decides whether it stands.

`plan_files` says what is in the folder. Whatever has happened is written down before the next thing is done, so a
training that dies anywhere goes on where it was; a failed gate leaves the stage before as the result.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from luthier.core.errors import RunError
from luthier.core.events import EVENTS_FILE, EventLog, read_events
from luthier.core.files import atomic_folder, hash_file, write_json, write_text
from luthier.core.lock import RunLock
from luthier.core.plan_files import ACCEPTED, BEGUN, REJECTED, WAITING, PlanState, StageState, read_plan, write_plan
from luthier.evaluate.losses import RowLosses, row_losses
from luthier.evaluate.report import write_report
from luthier.models.adapter_files import WEIGHTS_FILE, load_adapter
from luthier.models.decoder import Decoder
from luthier.recipe import Recipe, dump_recipe, stage_folder
from luthier.stages.check import Check
from luthier.stages.facts import require_same, run_facts
from luthier.stages.interrupt import Interrupt
from luthier.stages.link import Earlier, Link, require_hash
from luthier.stages.manifest import MANIFEST_FILE, manifest_of
from luthier.stages.measure import RESULT_FILE, read_losses
from luthier.stages.plan_check import PlanCheck, check_plan
from luthier.stages.prepare import Say
from luthier.stages.result import ADAPTER_FOLDER, INTERRUPTED, TrainResult, complete, ended, result_of
from luthier.stages.session import Listener, Session, load_base
from luthier.stages.stage import Begin, going_on, run_stage

FINISHED = "finished"
SHOWN = ("stage", "gate", "warning")  # events of the whole that a listener gets beside those of the stages


def train_plan(checked: PlanCheck, run_dir: Path, *, say: Say | None, listen: Listener | None) -> TrainResult:
    """Run all stages from the start. Whoever calls holds the lock of the folder.

    Raises:
        LuthierError: what stops a stage; nothing that was saved is lost.
    """
    decoder = load_base(checked.stages[0].prepared)  # what a damaged model can stop comes before the first file
    names = [stage.name for stage in checked.recipe.stages]
    stages = [StageState(name, stage_folder(index, name)) for index, name in enumerate(names)]
    state = PlanState(checked.stages[0].prepared.today.isoformat(), stages)
    write_plan(run_dir, state)
    write_text(run_dir / "recipe.yaml", dump_recipe(checked.recipe))
    return _run(_Plan(run_dir, checked, state, decoder, say, listen), resumed=False)


def resume_plan(
    run_dir: Path, recipe: Recipe, *, say: Say | None, listen: Listener | None, accept: Sequence[str]
) -> TrainResult:
    """Go on in the middle of any stage, or between two. Whoever calls holds the lock of the folder.

    Args:
        recipe: as it is in the folder by now; what has begun must be made of the same.
        accept: names of what may have changed since.

    Raises:
        RunError: the training is finished, or a stage that has begun is made of something else by now.
    """
    state = read_plan(run_dir)
    said = [event for event in _events(run_dir) if event["event"] == "end"]
    if state.status and said and said[-1]["status"] == state.status:
        told = next((stage.text for stage in state.stages if stage.state == REJECTED), "")
        raise RunError(
            f"this training is finished: {state.status}{f' ({told})' if told else ''}",
            where=str(run_dir),
            fix="start another with another output_dir to train further",
        )
    _same_stages(state, recipe, run_dir)
    checked = check_plan(recipe, today=date.fromisoformat(state.today), say=say)
    plan = _Plan(run_dir, checked, state, None, say, listen, tuple(accept))
    plan.require_same()
    plan.decoder = load_base(checked.stages[0].prepared)
    return _run(plan, resumed=True)


def _same_stages(state: PlanState, recipe: Recipe, run_dir: Path) -> None:
    """Stages that have begun keep their places; those to come may be others by now."""
    names = [stage.name for stage in recipe.stages]
    begun = [stage.name for stage in state.stages if stage.state != WAITING]
    if names[: len(begun)] != begun:
        raise RunError(
            f"the training began with the stages {', '.join(begun)}, and its recipe has {', '.join(names) or 'none'}",
            where=str(run_dir / "recipe.yaml"),
            fix="put them back in their places; stages that have not begun may be changed",
        )
    state.stages[len(begun) :] = [
        StageState(name, stage_folder(index, name)) for index, name in enumerate(names) if index >= len(begun)
    ]


def _run(plan: "_Plan", *, resumed: bool) -> TrainResult:
    try:
        with Interrupt() as plan.interrupt:
            return plan.run(resumed=resumed)
    finally:
        plan.close()


@dataclass
class _Plan:
    run_dir: Path
    checked: PlanCheck
    state: PlanState
    decoder: Decoder | None
    say: Say | None
    listen: Listener | None
    accept: tuple[str, ...] = ()
    interrupt: Interrupt = field(default_factory=Interrupt)
    began: float = field(default_factory=time.monotonic)
    told: list[str] = field(default_factory=list)
    results: list[TrainResult] = field(default_factory=list)
    log: EventLog | None = None
    _facts: dict[int, dict[str, Any]] = field(default_factory=dict)

    def emit(self, event: str, **fields: Any) -> None:
        assert self.log is not None, "the plan is not at work"
        entry = self.log.add(event, **fields)
        if self.listen is not None and event in SHOWN:
            self.listen(entry)

    def _heard(self, event: dict[str, Any]) -> None:
        """An event of a stage; its place and its gate are told by the whole."""
        if self.listen is not None and event["event"] not in ("stage", "gate"):
            self.listen(event)

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def require_same(self) -> None:
        """See that what has begun is made of the same as it was.

        Raises:
            RunError: it is not, and `accept` does not name it.
        """
        for index, stage in enumerate(self.state.stages):
            if stage.state == WAITING:
                break
            try:
                told = require_same(stage.facts, self.facts(index), accept=self.accept, where=str(self.run_dir))
            except RunError as error:
                raise RunError(f"stage {stage.name}: {error.what}", where=error.where, fix=error.fix) from None
            self.told += [f"stage {stage.name}: {text}" for text in told]
            stage.facts = self.facts(index)

    def facts(self, index: int) -> dict[str, Any]:
        """What a stage is made of, its parent and its gate included."""
        if index not in self._facts:
            known = next(iter(self._facts.values()), {})
            self._facts[index] = run_facts(self.checked.stages[index], base=known.get("base_model"))
        parent, asked = self.state.stages[index - 1] if index else None, self.checked.recipe.stages[index]
        return {
            **self._facts[index],
            "parent": parent.adapter_sha256 if parent is not None else "",
            "gate": asked.gate,
            "max_unlearning": asked.max_unlearning,
        }

    def run(self, *, resumed: bool) -> TrainResult:
        resumed = resumed and any(event["event"] == "start" for event in _events(self.run_dir))
        self.log = EventLog(self.run_dir)
        if resumed:
            current = next((stage.name for stage in self.state.stages if stage.state in (WAITING, BEGUN)), "")
            self.emit("resume", stage=current)
        else:
            self.emit("start", **self._start())
        for text in self.told:
            self.emit("warning", text=text)
        for index, stage in enumerate(self.state.stages):
            if stage.state in (ACCEPTED, REJECTED):
                if stage.state == ACCEPTED:
                    require_hash(self._folder(stage) / ADAPTER_FOLDER / WEIGHTS_FILE, stage.adapter_sha256, stage.name)
                self.results.append(self._known(stage))
                if stage.state == REJECTED:
                    break
                continue
            if self.interrupt.asked:
                return self._interrupted(stage)
            try:
                result = self._stage(index)
            except RunError as error:
                self.emit("warning", text=f"stage {stage.name}: {error.what}")
                self._emit_end("failed", stage)
                raise
            if result.status == INTERRUPTED:
                return self._interrupted(stage)
            self.results.append(result)
            self._judged(index, result)
            if stage.state == REJECTED:
                break
        return self._end()

    def _start(self) -> dict[str, Any]:
        first, parts = self.checked.stages[0], self.checked.stages
        manifest = manifest_of(first, self.facts(0))
        prepared = first.prepared
        return {
            "recipe": self.checked.recipe.model_dump(),
            "model": manifest["model"],
            "adapter": {
                "base": "nf4" if prepared.recipe.nf4 else prepared.place.dtype_name,
                "r": prepared.recipe.lora_r,
                "alpha": prepared.recipe.lora_alpha,
                "parameters": first.adapter_parameters,
            },
            "stages": [stage.name for stage in self.state.stages],
            "total_steps": sum(part.prepared.settings.total_steps for part in parts),
            "machine": manifest["machine"],
            "versions": manifest["versions"],
            "device": str(prepared.place.device),
            "dtype": prepared.place.dtype_name,
            "place": prepared.place.why,
        }

    def _folder(self, stage: StageState) -> Path:
        return self.run_dir / stage.path

    def _link(self, index: int) -> Link:
        asked, parent = self.checked.recipe.stages[index], self.state.stages[index - 1] if index else None
        return Link(
            name=asked.name,
            number=index + 1,
            of=len(self.state.stages),
            path=self.state.stages[index].path,
            gate=asked.gate,
            max_unlearning=asked.max_unlearning,
            parent=parent.name if parent else "",
            parent_dir=self._folder(parent) / ADAPTER_FOLDER if parent else None,
            parent_sha256=parent.adapter_sha256 if parent else "",
            earlier=[self._earlier(number) for number in range(index) if self.checked.stages[number].prepared.val],
        )

    def _earlier(self, index: int) -> Earlier:
        stage, prepared = self.state.stages[index], self.checked.stages[index].prepared
        reached = read_losses(self._folder(stage), RESULT_FILE, prepared.val)
        if reached is None:
            reached = self._measured(stage, self.checked.stages[index])
        return Earlier(stage.name, prepared.val, reached)

    def _measured(self, stage: StageState, checked: Check) -> RowLosses:
        """What an accepted stage reached, measured again with its adapter: the file with it is lost."""
        assert self.decoder is not None
        folder, prepared = self._folder(stage) / ADAPTER_FOLDER, checked.prepared
        adapter = load_adapter(folder, self.decoder.spec, device=self.decoder.device, base=self.decoder)
        micro = prepared.settings.micro_batch_tokens
        return row_losses(self.decoder, prepared.val, adapter=adapter, micro_batch_tokens=micro)

    def _stage(self, index: int) -> TrainResult:
        """Run a stage or go on with it."""
        assert self.decoder is not None
        stage, checked = self.state.stages[index], self.checked.stages[index]
        folder, link, facts = self._folder(stage), self._link(index), self.facts(index)
        resumed = stage.state == BEGUN
        stage.state, stage.parent, stage.parent_sha256, stage.facts = BEGUN, link.parent, link.parent_sha256, facts
        write_plan(self.run_dir, self.state)
        folder.mkdir(parents=True, exist_ok=True)
        with RunLock(folder):
            begin = Begin()
            if resumed and (folder / EVENTS_FILE).is_file():
                if (outcome := ended(folder)) is not None:
                    return complete(folder, outcome) or result_of(folder, outcome)
                begin = going_on(folder, facts, self.accept)
            self.emit("stage", **link.event(), resumed=begin.checkpoint is not None)
            session = Session(
                checked, folder, self.decoder, facts, interrupt=self.interrupt, say=self.say, listen=self._heard,
                link=link,
            )  # fmt: skip
            write_text(folder / "recipe.yaml", dump_recipe(checked.prepared.recipe))
            if begin.checkpoint is None:
                parent = {"name": link.parent, "sha256": link.parent_sha256} if link.parent else None
                write_json(folder / MANIFEST_FILE, manifest_of(checked, facts, parent))
            return run_stage(session, begin)

    def _judged(self, index: int, result: TrainResult) -> None:
        """Write down what the gate said."""
        stage, folder = self.state.stages[index], result.run_dir
        said = [event for event in read_events(folder) if event["event"] == "gate"][-1]
        passed = result.adapter_dir is not None
        stage.state, stage.text = (
            ACCEPTED if passed else REJECTED,
            said["text"] if said["passed"] == passed else result.text,
        )
        stage.adapter_sha256 = hash_file(folder / ADAPTER_FOLDER / WEIGHTS_FILE) if passed else ""
        told = {name: value for name, value in said.items() if name not in ("event", "time")}
        hashes = {"adapter_sha256": stage.adapter_sha256, "parent_sha256": stage.parent_sha256}
        self.emit("gate", **{**told, **hashes, "passed": passed, "text": stage.text, "status": result.status})
        write_plan(self.run_dir, self.state)

    def _known(self, stage: StageState) -> TrainResult:
        """The result of a stage that was accepted before."""
        folder = self._folder(stage)
        outcome = ended(folder)
        assert outcome is not None, "an accepted stage has ended"
        return result_of(folder, outcome)

    def _interrupted(self, stage: StageState) -> TrainResult:
        self.emit("interrupted", stage=stage.name)
        self._emit_end(INTERRUPTED, stage)
        return TrainResult(
            self.run_dir, INTERRUPTED, None, None, write_report(self.run_dir), stages=tuple(self.results)
        )

    def _emit_end(self, status: str, stage: StageState) -> None:
        seconds = time.monotonic() - self.began
        self.emit("end", status=status, stage=stage.name, published=self.state.published, seconds=seconds)

    def _end(self) -> TrainResult:
        """Publish the last accepted adapter, and say how it ended."""
        last, accepted = self.results[-1], self.state.accepted
        stood = last.adapter_dir is not None
        self.state.status = FINISHED if stood else last.status
        self.state.published = accepted[-1].name if accepted else ""
        if accepted and not (self.run_dir / ADAPTER_FOLDER).is_dir():
            self._publish(accepted[-1])
        write_plan(self.run_dir, self.state)
        ran = self.state.stages[len(self.results) - 1]
        self._emit_end(self.state.status, ran)
        return TrainResult(
            run_dir=self.run_dir,
            status=self.state.status,
            adapter_dir=self.run_dir / ADAPTER_FOLDER if accepted else None,
            comparison=last.comparison,
            report=write_report(self.run_dir),
            rejected_dir=last.rejected_dir,
            text="" if stood else ran.text,
            stages=tuple(self.results),
        )

    def _publish(self, stage: StageState) -> None:
        source = self._folder(stage) / ADAPTER_FOLDER
        with atomic_folder(self.run_dir / ADAPTER_FOLDER) as folder:
            for file in source.iterdir():
                shutil.copyfile(file, folder / file.name)
            require_hash(folder / WEIGHTS_FILE, stage.adapter_sha256, stage.name)


def _events(run_dir: Path) -> list[dict[str, Any]]:
    return list(read_events(run_dir)) if (run_dir / EVENTS_FILE).is_file() else []
