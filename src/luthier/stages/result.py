"""What a run ended with: kept in its events, so that it can be told again and a crash between two of them mended."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from luthier.core.events import EventLog, read_events
from luthier.evaluate.interval import Comparison
from luthier.evaluate.report import write_report
from luthier.evaluate.summary import read_summary

ADAPTER_FOLDER, REJECTED_FOLDER = "adapter", "rejected"
INTERRUPTED, DIVERGED, FORGETTING, NOT_ACCEPTED = "interrupted", "diverged", "forgetting", "not accepted"


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        run_dir: the run's folder.
        status: "finished", "early stop" or "overfitting": the adapter of the best validation is published;
            "interrupted"; "diverged", "forgetting" or "not accepted".
        adapter_dir: the PEFT adapter; None if the run was interrupted or its result is not accepted.
        rejected_dir: where the adapter is that was not accepted; None if there is none.
        comparison: held-out loss before and after; None without validation rows or if interrupted.
        text: why the result is not accepted; "" if it is.
        report: the page that shows it all.
        stages: of a training in stages what each that was run ended with.
    """

    run_dir: Path
    status: str
    adapter_dir: Path | None
    comparison: Comparison | None
    report: Path
    rejected_dir: Path | None = None
    text: str = ""
    stages: tuple["TrainResult", ...] = field(default=())


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: of the run.
        folder: name of the folder within the run's that has the adapter; "" where there was none worth keeping.
        text: why the adapter is not in `adapter`; "" where it is.
        step: of the weights that were kept.
        strength: what they were scaled by.
    """

    status: str
    folder: str
    text: str
    step: int
    strength: float


def ended(run_dir: Path) -> Outcome | None:
    """How a run ended, if it did: what it said that it would publish is there."""
    said = [event for event in read_events(run_dir) if event["event"] == "outcome"]
    if not said:
        return None
    outcome = Outcome(*(said[-1][entry.name] for entry in fields(Outcome)))
    return outcome if not outcome.folder or (run_dir / outcome.folder).is_dir() else None


def complete(run_dir: Path, outcome: Outcome) -> TrainResult | None:
    """End a run that published its adapter and died before it could say so; None if it had said so."""
    names = [event["event"] for event in read_events(run_dir) if event["event"] in ("outcome", "end")]
    if names[-1] == "end":
        return None
    log = EventLog(run_dir)
    try:
        log.add("end", status=outcome.status, step=outcome.step, best_step=outcome.step)
    finally:
        log.close()
    return result_of(run_dir, outcome)


def result_of(run_dir: Path, outcome: Outcome, comparison: Comparison | None = None) -> TrainResult:
    """What a run that ended so is worth; writes its report.

    Args:
        comparison: read from the run's events if it is not at hand.
    """
    folder = run_dir / outcome.folder
    return TrainResult(
        run_dir=run_dir,
        status=outcome.status,
        adapter_dir=folder if outcome.folder == ADAPTER_FOLDER else None,
        comparison=comparison or (read_summary(run_dir).heldout if outcome.folder else None),
        report=write_report(run_dir),
        rejected_dir=folder if outcome.folder == REJECTED_FOLDER else None,
        text=outcome.text,
    )
