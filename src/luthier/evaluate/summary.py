"""What happened in a run, read from its folder: the one view that the report and `luthier runs` share.

Events may be missing (a crash), written by a newer version (unknown names), or stale (a resumed run redoes the steps
after its checkpoint): a field that is not known is None or empty, and only what the run stands on now is kept.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from luthier.core.events import EVENTS_FILE, read_events
from luthier.evaluate.adapter_words import adapter_words
from luthier.evaluate.event_values import mapping, number, pair, text, time
from luthier.evaluate.interval import Comparison, verdict

RUNNING, CRASHED, INTERRUPTED, FAILED = (
    "running",
    "crashed",
    "interrupted",
    "failed",
)  # besides "finished" and "early stop"


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
    """The loss on held-out rows after `step` optimizer steps, in nats per label token; step 0 is the base model."""

    step: int
    loss: float


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


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance. Numbers that the run did not record are None.

    Attributes:
        name: the folder's name; `path` is the folder as it was given.
        status: "running", "finished", "early stop", "interrupted", "failed", or "crashed": no end was written, and
            nobody is at work.
        model: name of the base model; `model_info` is all that the start event says of it.
        adapter: what `adapter_words` says; `adapter_parameters` is how many numbers are trained.
        steps: as they stand now, each step once, in order; `validations` likewise.
        resumed_at: steps at which the run was taken up again.
        checkpoint_step: step of the last checkpoint written, None before the first.
        best_step: the trained step with the lowest validation loss of those that stand.
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
        return next((point for point in self.validations if point.step == self.best_step), None)


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


def read_summary(run_dir: Path) -> RunSummary:
    """Summarise a run from its events.

    Raises:
        RunError: the folder has no events.
    """
    events = list(read_events(run_dir))
    start: dict[str, Any] = {}
    end: dict[str, Any] = {}  # of the present session only
    steps: list[TrainStep] = []
    validations: list[Validation] = []
    heldout: Comparison | None = None
    heldout_step: float | None = None
    samples: dict[str, Sample] = {}
    resumed: list[int] = []
    checkpoint: int | None = None
    warnings: dict[str, None] = {}
    host, gpu = 0.0, 0.0  # peaks over all sessions

    for event in events:
        step = number(event, "step")
        match event["event"]:
            case "start":
                start, end = event, {}
            case "resume":
                end, heldout = {}, None
                samples = {key: replace(sample, after=None) for key, sample in samples.items()}
                if step is not None:
                    resumed.append(int(step))
                    steps = [point for point in steps if point.step <= step]
                    validations = [point for point in validations if point.step <= step]
            case "step" if step is not None:
                steps = steps if not steps or steps[-1].step < step else [p for p in steps if p.step < step]
                steps.append(_train_step(int(step), event))
            case "validation" if step is not None and (loss := number(event, "loss")) is not None:
                validations = [point for point in validations if point.step < step]
                validations.append(Validation(int(step), loss))
            case "sample":
                key = text(event.get("record_id")) or text(event.get("prompt"))
                answer = Answer(text(event.get("answer")), event.get("complete") is not False)
                old = samples.get(key)
                before, after = (old.before, old.after) if old else (None, None)
                before, after = (before, answer) if event.get("when") == "after" else (answer, after)
                samples[key] = Sample(text(event.get("prompt")), text(event.get("expected")), before, after)
            case "checkpoint" if step is not None:
                checkpoint = int(step)
            case "heldout":
                heldout, heldout_step = _comparison(event), step
            case "warning" if event.get("text"):
                warnings[text(event["text"])] = None
            case "interrupted":
                end = {"status": INTERRUPTED}
            case "end":
                end = event
                host, gpu = (
                    max(host, number(event, "peak_rss_bytes") or 0),
                    max(gpu, number(event, "peak_gpu_bytes") or 0),
                )

    trained = [point for point in validations if point.step > 0]
    best = min(trained, key=lambda point: point.loss).step if trained else None
    if heldout is not None and heldout_step is None:
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
        validations=tuple(validations),
        resumed_at=tuple(resumed),
        checkpoint_step=checkpoint,
        best_step=best,
        heldout=heldout,
        heldout_step=None if heldout_step is None else int(heldout_step),
        samples=tuple(samples.values()),
        tokens_per_second=median(speeds) if speeds else None,
        total_tokens=totals[-1] if totals else None,
        seconds=_seconds_at_work(events),
        peak_rss_bytes=host or None,
        peak_gpu_bytes=gpu or None,
        data=mapping(start.get("data")),
        warnings=tuple(warnings),
        recipe=mapping(start.get("recipe")),
        settings=mapping(start.get("settings")),
        machine=start.get("machine"),
        versions=mapping(start.get("versions")),
        dtype=text(start.get("dtype")),
        device=text(start.get("device")),
    )


def _adapter_words(adapter: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """As `adapter_words`; "" where the event does not say."""
    return adapter_words({**recipe, "lora_r": adapter["r"]}) if "r" in adapter else ""


def _train_step(step: int, event: Mapping[str, Any]) -> TrainStep:
    return TrainStep(step, *(number(event, field.name) for field in fields(TrainStep)[1:]))


def _comparison(event: Mapping[str, Any]) -> Comparison | None:
    """The comparison in a heldout event, or None if its losses are missing."""
    before, after = number(event, "before"), number(event, "after")
    if before is None or after is None:
        return None
    change = number(event, "change_percent")
    if change is None:
        change = 100 * (before - after) / before if before else 0.0
    interval = pair(event.get("interval"))
    return Comparison(
        rows=int(number(event, "rows") or 0),
        groups=int(number(event, "groups") or 0),
        label_tokens=int(number(event, "label_tokens") or 0),
        before=before,
        after=after,
        change_percent=change,
        interval=interval,
        loss_interval=pair(event.get("loss_interval")),
        method=text(event.get("method")),
        verdict=text(event.get("verdict")) or verdict(interval),
    )


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
