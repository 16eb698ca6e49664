"""The files of a training in stages, without a model: what is read back, what is refused, which adapter is offered."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from luthier.core.errors import RunError
from luthier.core.files import hash_file
from luthier.core.plan_files import (
    ACCEPTED,
    BEGUN,
    REJECTED,
    WAITING,
    PlanState,
    StageState,
    read_plan,
    write_plan,
)
from luthier.models.adapter_files import CONFIG_FILE
from luthier.serve.run_folder import adapter_of, run_of
from luthier.stages.link import require_hash
from luthier.stages.result import Outcome, complete, ended


def plan(*states: str, **fields: object) -> PlanState:
    stages = [StageState(f"s{i}", f"stages/0{i}-s{i}", state) for i, state in enumerate(states, 1)]
    return PlanState("2026-01-31", stages, **fields)


def make(run_dir: Path, state: PlanState) -> Path:
    """A run's folder with plan and events; accepted stages have an adapter, rejected ones `rejected`."""
    run_dir.mkdir(exist_ok=True)
    write_plan(run_dir, state)
    (run_dir / "events.jsonl").touch()
    for stage in state.stages:
        folder = run_dir / stage.path
        if stage.state == WAITING:
            continue
        folder.mkdir(parents=True)
        say(folder)
        if stage.state in (ACCEPTED, REJECTED):
            adapter(folder / ("adapter" if stage.state == ACCEPTED else "rejected"))
    return run_dir


def say(run_dir: Path, *events: dict[str, object]) -> None:
    (run_dir / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text("{}")
    return folder


def outcome(folder: str, text: str = "") -> dict[str, object]:
    return {"event": "outcome", "status": "not accepted", "folder": folder, "text": text, "step": 7, "strength": 0.5}


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    state = plan(ACCEPTED, BEGUN, WAITING, status="", published="")
    state.stages[0] = replace(state.stages[0], adapter_sha256="ab", facts={"seed": 0, "data": {"hash": "x"}})
    write_plan(tmp_path, state)
    assert read_plan(tmp_path) == state
    assert [stage.name for stage in state.accepted] == ["s1"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "today": "", "stages": [{"x": 1}]}'])
def test_a_damaged_plan_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(RunError, match="damaged: it cannot be read"):
        read_plan(tmp_path)


def test_a_newer_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"format": 2, "today": "", "stages": []}')
    with pytest.raises(RunError, match="newer version"):
        read_plan(tmp_path)


def test_an_adapter_is_known_by_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    with pytest.raises(RunError, match="the adapter of stage broad is missing since"):
        require_hash(file, "", "broad")
    file.write_bytes(b"1")
    require_hash(file, hash_file(file), "broad")
    with pytest.raises(RunError, match="the adapter of stage broad has changed since"):
        require_hash(file, hash_file(file)[:-1] + "x", "broad")


@pytest.mark.parametrize(
    ("states", "found", "note"),
    [
        ((ACCEPTED, BEGUN), "stages/01-s1/adapter", "the training is not finished; this is stage s1"),
        ((ACCEPTED, WAITING), "stages/01-s1/adapter", "the training is not finished; this is stage s1"),
        ((ACCEPTED, REJECTED), "stages/01-s1/adapter", "the training is not finished; this is stage s1"),
    ],
)
def test_before_its_end_a_training_offers_the_last_accepted_stage(
    states: tuple[str, ...], found: str, note: str, tmp_path: Path
) -> None:
    offered = adapter_of(make(tmp_path / "run", plan(*states)))
    assert offered is not None and (offered.folder, offered.note) == (tmp_path / "run" / found, note)


def test_what_was_published_is_offered_and_says_whose_it_is(tmp_path: Path) -> None:
    run_dir = make(tmp_path / "run", plan(ACCEPTED, REJECTED, status="not accepted", published="s1"))
    adapter(run_dir / "adapter")
    offered = adapter_of(run_dir)
    assert offered is not None and offered.folder == run_dir / "adapter"
    assert offered.note == "this is stage s1, the last one that was accepted"
    write_plan(run_dir, plan(ACCEPTED, ACCEPTED, status="finished", published="s2"))
    assert adapter_of(run_dir).note == ""


def test_a_training_without_an_accepted_stage_says_where_the_rejected_one_is(tmp_path: Path) -> None:
    run_dir = make(tmp_path / "run", plan(REJECTED, WAITING, status="not accepted"))
    say(run_dir / "stages/01-s1", outcome("rejected", "it is worse"))
    with pytest.raises(RunError, match=r"not accepted: it is worse\n  → luthier chat .*01-s1/rejected talks"):
        adapter_of(run_dir)
    offered = adapter_of(run_dir / "stages/01-s1/rejected")
    assert offered is not None and offered.note == "this result was not accepted: it is worse"


def test_nothing_yet_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no adapter and no checkpoint yet"):
        adapter_of(make(tmp_path / "run", plan(WAITING, WAITING)))


def test_what_is_no_run_is_none(tmp_path: Path) -> None:
    assert adapter_of(tmp_path) is None and adapter_of(tmp_path / "absent") is None
    assert run_of(tmp_path) is None


def test_an_adapter_knows_its_run(tmp_path: Path) -> None:
    run_dir = make(tmp_path / "run", plan(ACCEPTED))
    for folder in ("stages/01-s1", "stages/01-s1/adapter", "stages/01-s1/checkpoints/step-000001"):
        assert run_of(run_dir / folder) == run_dir / "stages/01-s1"
    assert run_of(run_dir / "adapter") == run_of(run_dir) == run_dir


def test_a_run_has_ended_when_what_it_announced_is_there(tmp_path: Path) -> None:
    say(tmp_path)
    assert ended(tmp_path) is None
    say(tmp_path, outcome("adapter"))
    assert ended(tmp_path) is None
    say(tmp_path, outcome("adapter"), outcome("rejected", "worse"))
    adapter(tmp_path / "rejected")
    assert ended(tmp_path) == Outcome("not accepted", "rejected", "worse", 7, 0.5)
    say(tmp_path, outcome("", "nothing"))
    assert ended(tmp_path) == Outcome("not accepted", "", "nothing", 7, 0.5)


def test_an_end_that_was_not_written_is_written_once(tmp_path: Path) -> None:
    say(tmp_path, {"event": "end", "status": "interrupted"}, outcome("rejected", "worse"))
    adapter(tmp_path / "rejected")
    known = ended(tmp_path)
    assert known is not None
    result = complete(tmp_path, known)
    assert result is not None and (result.status, result.rejected_dir) == ("not accepted", tmp_path / "rejected")
    assert complete(tmp_path, known) is None
