"""Which adapter a run's folder has to offer: its result, or while there is none what it has so far."""

from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import RunError
from luthier.core.events import EVENTS_FILE, read_events
from luthier.core.plan_files import BEGUN, PLAN_FILE, REJECTED, read_plan
from luthier.models.adapter_files import CONFIG_FILE
from luthier.train.checkpoint import damage
from luthier.train.checkpoint_folder import checkpoints

ADAPTER_FOLDER, REJECTED_FOLDER = "adapter", "rejected"


@dataclass(frozen=True)
class Found:
    """An adapter's folder, and what should be known about it, or ""."""

    folder: Path
    note: str = ""


def adapter_of(path: Path) -> Found | None:
    """The adapter that `path` is, or that the run or stage at `path` has; None where it is neither.

    Nothing is changed, so a run at work can be asked.

    Raises:
        RunError: the run has none yet, or its result was not accepted; the message says where that is.
    """
    if (path / CONFIG_FILE).is_file():
        return Found(path, _why_rejected(path) if path.name == REJECTED_FOLDER else "")
    if not (path / EVENTS_FILE).is_file():
        return None
    if (path / ADAPTER_FOLDER).is_dir():
        return Found(path / ADAPTER_FOLDER, _of_stage(path))
    if (path / PLAN_FILE).is_file():
        return _of_plan(path)
    if (path / REJECTED_FOLDER).is_dir():
        _refuse(path, path / REJECTED_FOLDER)
    if _outcome(path):  # it ended, and nothing was worth keeping
        _refuse(path, path / REJECTED_FOLDER)
    newest = next((folder for folder in checkpoints(path) if not damage(folder)), None)
    if newest is None:
        raise RunError("the run has no adapter and no checkpoint yet", where=str(path))
    return Found(newest, f"the run is not finished; this is its checkpoint {newest.name}")


def run_of(path: Path) -> Path | None:
    """The run folder that `path` is, or is the adapter or a checkpoint of."""
    folders = (path.absolute(), *path.absolute().parents[:2])
    return next((folder for folder in folders if (folder / EVENTS_FILE).is_file()), None)


def _of_plan(path: Path) -> Found:
    """Of a training in stages that has not published: the stage at work, else the last one that was accepted."""
    plan = read_plan(path)
    for stage in plan.stages:
        folder = path / stage.path
        if stage.state == BEGUN and (folder / EVENTS_FILE).is_file() and checkpoints(folder):
            found = adapter_of(folder)
            assert found is not None
            return Found(found.folder, f"the training is in stage {stage.name}: {found.note}")
        if stage.state == REJECTED and not plan.accepted:
            _refuse(folder, folder / REJECTED_FOLDER)
    if plan.accepted:
        stage = plan.accepted[-1]
        return Found(path / stage.path / ADAPTER_FOLDER, f"the training is not finished; this is stage {stage.name}")
    raise RunError("the run has no adapter and no checkpoint yet", where=str(path))


def _of_stage(path: Path) -> str:
    """A note where a training in stages ended before its last one."""
    if not (path / PLAN_FILE).is_file():
        return ""
    plan = read_plan(path)
    if plan.published == plan.stages[-1].name:
        return ""
    return f"this is stage {plan.published}, the last one that was accepted"


def _why_rejected(folder: Path) -> str:
    said = _outcome(folder.parent)
    return f"this result was not accepted: {said}" if said else ""


def _refuse(path: Path, rejected: Path) -> None:
    said = _outcome(path)
    fix = f"luthier chat {rejected} talks to it all the same" if rejected.is_dir() else ""
    raise RunError(f"the result was not accepted{f': {said}' if said else ''}", where=str(path), fix=fix)


def _outcome(run_dir: Path) -> str:
    """Why a run's result was not accepted, as its events say."""
    if not (run_dir / EVENTS_FILE).is_file():
        return ""
    said = [event.get("text") or "" for event in read_events(run_dir) if event["event"] == "outcome"]
    return said[-1] if said else ""
