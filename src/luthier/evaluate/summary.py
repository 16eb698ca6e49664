"""What happened in a run, read from its folder: the one view that the report and `luthier runs` share.

Events may be missing (a crash), written by a newer version (unknown names), or stale (a resumed run redoes the steps
after its checkpoint): a field that is not known is None or empty, and only what the run stands on now is kept.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from luthier.core.events import EVENTS_FILE, read_events
from luthier.evaluate import read_parts
from luthier.evaluate.adapter_words import adapter_words
from luthier.evaluate.event_values import mapping, number, text, time
from luthier.evaluate.interval import Comparison
from luthier.evaluate.run_parts import (
    Answer,
    Decision,
    General,
    RangeTest,
    Sample,
    StageLine,
    StrengthSweep,
    TrainStep,
    Validation,
)

RUNNING, CRASHED, INTERRUPTED, FAILED = "running", "crashed", "interrupted", "failed"
OVERFITTING, FORGETTING, DIVERGED, NOT_ACCEPTED = "overfitting", "forgetting", "diverged", "not accepted"
# Events that are kept as decisions: what the run noticed or did.
DECISIONS = (
    *("advice", "range_test", "skipped", "rewind", "diverged", "paused", "unpaused", "overfit", "forgetting", "action"),
    *("strength", "stage", "gate", "outcome"),
)


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance. Numbers that the run did not record are None.

    Attributes:
        name: the folder's name; `path` is the folder as it was given.
        status: "running", "finished", "early stop", "overfitting", "forgetting", "diverged", "not accepted",
            "interrupted", "failed", or "crashed": no end was written, and nobody is at work.
        model: name of the base model; `model_info` is all that the start event says of it.
        adapter: what `adapter_words` says; `adapter_parameters` is how many numbers are trained.
        steps: as they stand now, each step once, in order; `validations` likewise.
        thrown, thrown_validations: what a rewind took back, in the order in which it was done.
        decisions: what the run noticed and did, in order; what a resume redid is there once.
        general: the watch on forgetting, without the base itself.
        strength: how the adapter's strength was chosen; `range_test` likewise the learning rate.
        stages: of a training in stages, or the one stage that this run is; else empty.
        published: the adapter's folder, "adapter" or "rejected"; "" if there is none (yet) or it is not recorded.
        resumed_at: steps at which the run was taken up again.
        checkpoint_step: step of the last checkpoint written, None before the first.
        best_step: the trained step with the lowest validation loss; a rewind may have taken it back since.
        heldout: the comparison of before and after; `heldout_step` is the step of the adapter that was compared.
        tokens_per_second: median over the steps.
        seconds: time at work, pauses between interruption and resume left out.
        data: the start event's account of the data; `report_data.ledger` reads it.
        settings: what "auto" in the recipe came to.
        started: when the first event was written.
    """

    name: str
    path: Path
    status: str
    started: datetime | None
    model: str
    model_info: Mapping[str, Any]
    adapter: str
    adapter_parameters: float | None
    total_steps: int | None
    steps: tuple[TrainStep, ...]
    validations: tuple[Validation, ...]
    resumed_at: tuple[int, ...]
    checkpoint_step: int | None
    best_step: int | None
    heldout: Comparison | None
    heldout_step: int | None
    samples: tuple[Sample, ...]
    tokens_per_second: float | None
    total_tokens: float | None
    seconds: float | None
    peak_rss_bytes: float | None
    peak_gpu_bytes: float | None
    data: Mapping[str, Any]
    warnings: tuple[str, ...]
    recipe: Mapping[str, Any]
    settings: Mapping[str, Any]
    machine: Any
    versions: Mapping[str, Any]
    dtype: str
    device: str
    thrown: tuple[TrainStep, ...] = ()
    thrown_validations: tuple[Validation, ...] = ()
    decisions: tuple[Decision, ...] = ()
    general: tuple[General, ...] = ()
    strength: StrengthSweep | None = None
    range_test: RangeTest | None = None
    stages: tuple[StageLine, ...] = ()
    published: str = ""

    @property
    def steps_done(self) -> int:
        """The last step that counts."""
        return self.steps[-1].step if self.steps else 0

    @property
    def train_loss(self) -> float | None:
        """Mean loss of the last twentieth of the steps (one at least), nats per label token."""
        losses = [step.loss for step in self.steps if step.loss is not None]
        tail = losses[-max(1, len(losses) // 20) :]
        return sum(tail) / len(tail) if tail else None

    @property
    def best_validation(self) -> Validation | None:
        """The validation at `best_step`."""
        known = (*self.validations, *self.thrown_validations)
        return next((point for point in known if point.step == self.best_step), None)


def list_runs(root: Path) -> list[RunSummary]:
    """The runs in `root`, in its folders and in theirs, newest last. `root` may be a run itself or not exist."""
    found = [path for path in (root, *_folders(root)) if (path / EVENTS_FILE).is_file()]
    found += [inner for path in _folders(root) if path not in found for inner in _folders(path)]
    runs = [read_summary(path) for path in found if (path / EVENTS_FILE).is_file()]
    return sorted(runs, key=lambda run: (run.started.timestamp() if run.started else 0.0, run.name))


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [child for child in sorted(path.iterdir()) if child.is_dir() and not child.name.startswith(".")]


@dataclass
class _Reader:
    """What stands after the events that were read so far."""

    start: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)  # of the present session only
    steps: list[TrainStep] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    thrown: list[TrainStep] = field(default_factory=list)
    thrown_validations: list[Validation] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    general: list[General] = field(default_factory=list)
    strength: StrengthSweep | None = None
    range_test: RangeTest | None = None
    stages: dict[str, StageLine] = field(default_factory=dict)
    published: str = ""
    heldout: Comparison | None = None
    heldout_step: float | None = None
    samples: dict[str, Sample] = field(default_factory=dict)
    resumed: list[int] = field(default_factory=list)
    checkpoint: int | None = None
    warnings: dict[str, None] = field(default_factory=dict)
    host: float = 0.0  # peaks over all sessions
    gpu: float = 0.0

    def read(self, event: dict[str, Any]) -> None:
        """Take one event in."""
        step = number(event, "step")
        at = None if step is None else int(step)
        self._decide(event, at)
        match event["event"]:
            case "start":
                self.start, self.end = event, {}
            case "resume":
                self._resume(at)
            case "step" if at is not None:
                if self.steps and self.steps[-1].step >= at:
                    self.steps = [point for point in self.steps if point.step < at]
                self.steps.append(read_parts.train_step(at, event))
            case "validation" if at is not None and (loss := number(event, "loss")) is not None:
                self.validations = [point for point in self.validations if point.step < at]
                self.validations.append(Validation(at, loss, number(event, "probe_loss")))
            case "rewind" if at is not None and (to := number(event, "to_step")) is not None:
                self.thrown += [point for point in self.steps if point.step > to]
                self.thrown_validations += [point for point in self.validations if point.step > to]
                self.steps = [point for point in self.steps if point.step <= to]
                self.validations = [point for point in self.validations if point.step <= to]
                self.general = [point for point in self.general if point.step <= to]
            case "forgetting" if at is not None and (seen := read_parts.general(at, event)) is not None:
                self.general = [*(point for point in self.general if point.step < at), seen]
            case "strength":
                self.strength = read_parts.strength_sweep(event)
            case "range_test":
                self.range_test = read_parts.range_test(event)
            case "stage" if (line := read_parts.stage_line(event)) is not None:
                self.stages[line.name] = line
            case "gate" if (known := self.stages.get(text(event.get("stage")))) is not None:
                self.stages[known.name] = replace(
                    known,
                    passed=event.get("passed") is True,
                    text=text(event.get("text")),
                    status=text(event.get("status")),
                    base=read_parts.comparison(mapping(event.get("base"))),
                    before=read_parts.comparison(mapping(event.get("parent"))),
                )
            case "sample":
                self._sample(event)
            case "checkpoint" if at is not None:
                self.checkpoint = at
            case "heldout":
                self.heldout, self.heldout_step = read_parts.comparison(event), step
            case "outcome":
                self.published, self.heldout_step = text(event.get("folder")), step
            case "warning" if event.get("text"):
                self.warnings[text(event["text"])] = None
            case "interrupted":
                self.end = {"status": INTERRUPTED}
            case "end":
                self.end = event
                self.host = max(self.host, number(event, "peak_rss_bytes") or 0)
                self.gpu = max(self.gpu, number(event, "peak_gpu_bytes") or 0)

    def _decide(self, event: dict[str, Any], at: int | None) -> None:
        """Keep a decision; one without a step, which each session may make again, is there once."""
        kind = event["event"]
        if kind not in DECISIONS:
            return
        told = {name: value for name, value in event.items() if name != "time"}
        if at is None:
            key = ("event", "text", "stage", "name")
            same = [old for old in self.decisions if all(old.fields.get(name) == told.get(name) for name in key)]
            self.decisions = [old for old in self.decisions if old not in same]
        self.decisions.append(Decision(kind, at, told))

    def _resume(self, at: int | None) -> None:
        """The steps after the checkpoint are done again: what was told of them does not stand."""
        self.end, self.heldout, self.strength, self.published = {}, None, None, ""
        self.samples = {key: replace(sample, after=None) for key, sample in self.samples.items()}
        self.decisions = [old for old in self.decisions if old.kind not in ("strength", "outcome")]
        if at is None:
            return
        self.resumed.append(at)
        self.decisions = [old for old in self.decisions if old.step is None or old.step <= at]
        for name in ("steps", "validations", "thrown", "thrown_validations", "general"):
            setattr(self, name, [point for point in getattr(self, name) if point.step <= at])

    def _sample(self, event: dict[str, Any]) -> None:
        key = text(event.get("record_id")) or text(event.get("prompt"))
        answer = Answer(text(event.get("answer")), event.get("complete") is not False)
        old = self.samples.get(key)
        before, after = (old.before, old.after) if old else (None, None)
        before, after = (before, answer) if event.get("when") == "after" else (answer, after)
        self.samples[key] = Sample(text(event.get("prompt")), text(event.get("expected")), before, after)


def read_summary(run_dir: Path) -> RunSummary:
    """Summarise a run from its events.

    Raises:
        RunError: the folder has no events.
    """
    events = list(read_events(run_dir))
    reader = _Reader()
    for event in events:
        reader.read(event)
    start, end, steps = reader.start, reader.end, reader.steps
    trained = [point for point in (*reader.validations, *reader.thrown_validations) if point.step > 0]
    heldout_step = reader.heldout_step
    if reader.heldout is not None and heldout_step is None:
        heldout_step = number(end, "best_step")
    adapter, model = mapping(start.get("adapter")), mapping(start.get("model"))
    speeds = [point.tokens_per_second for point in steps if point.tokens_per_second is not None]
    totals = [point.total_tokens for point in steps if point.total_tokens is not None]
    total_steps = number(start, "total_steps")
    return RunSummary(
        name=run_dir.resolve().name,
        path=run_dir,
        status=text(end.get("status")) or (RUNNING if _locked(run_dir) else CRASHED),
        started=next((when for event in events if (when := time(event)) is not None), None),
        model=text(model.get("name")),
        model_info=model,
        adapter=_adapter_words(adapter, mapping(start.get("recipe"))),
        adapter_parameters=number(adapter, "parameters"),
        total_steps=None if total_steps is None else int(total_steps),
        steps=tuple(steps),
        validations=tuple(reader.validations),
        resumed_at=tuple(reader.resumed),
        checkpoint_step=reader.checkpoint,
        best_step=min(trained, key=lambda point: point.loss).step if trained else None,
        heldout=reader.heldout,
        heldout_step=None if heldout_step is None else int(heldout_step),
        samples=tuple(reader.samples.values()),
        tokens_per_second=median(speeds) if speeds else None,
        total_tokens=totals[-1] if totals else None,
        seconds=_seconds_at_work(events),
        peak_rss_bytes=reader.host or None,
        peak_gpu_bytes=reader.gpu or None,
        data=mapping(start.get("data")),
        warnings=tuple(reader.warnings),
        recipe=mapping(start.get("recipe")),
        settings=mapping(start.get("settings")),
        machine=start.get("machine"),
        versions=mapping(start.get("versions")),
        dtype=text(start.get("dtype")),
        device=text(start.get("device")),
        thrown=tuple(reader.thrown),
        thrown_validations=tuple(reader.thrown_validations),
        decisions=tuple(reader.decisions),
        general=tuple(reader.general),
        strength=reader.strength,
        range_test=reader.range_test,
        stages=tuple(sorted(reader.stages.values(), key=lambda line: line.number)),
        published=reader.published,
    )


def _adapter_words(adapter: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """As `adapter_words`; "" where the event does not say."""
    return adapter_words({**recipe, "lora_r": adapter["r"]}) if "r" in adapter else ""


def _seconds_at_work(events: Iterable[Mapping[str, Any]]) -> float | None:
    """Time from the first to the last event of each session, added up; a start or resume begins a session."""
    total, first, last = 0.0, None, None
    for event in events:
        now = time(event)
        if now is None or event["event"] == "warning":  # a resumed run may warn before its resume event
            continue
        if event["event"] in ("start", "resume") and first is not None and last is not None:
            total += (last - first).total_seconds()
            first = now
        first, last = first or now, now
    return None if first is None or last is None else total + (last - first).total_seconds()


def _locked(run_dir: Path) -> bool:
    """Whether a live process holds the run. A shared lock is tried and given back at once."""
    try:
        handle = os.open(run_dir / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
