"""A step that is run again, or over a folder that grew, adds to the ledger only what it has not said before."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers_curate import make_dataset, talk
from helpers_runs import write_rows
from luthier.core.files import hash_file
from luthier.curate.clean import Plan, add, clean
from luthier.curate.example import Entry, Example
from luthier.curate.fold import REVIEWED
from luthier.curate.folder import Dataset
from luthier.curate.history import undo
from luthier.curate.run import run_steps
from luthier.curate.step import Step
from luthier.curate.work import finish, working
from luthier.data.dataset_folder import STATE


def mark_odd(examples: Sequence[Example]) -> list[Entry]:
    return [Entry(e.id, "flag", "odd", score=0.5) for e in examples if e.answer[-1] in "13579"]


ODD = Step("odd", 1, mark_odd)


def folder(path: Path) -> Dataset:
    return make_dataset(path, [talk(f"Question {n}?", f"answer {n}") for n in range(10)])


def whole(path: Path) -> dict[str, str]:
    """Every file that decides what the dataset is, and its hash."""
    files = [path / STATE, *(file for part in ("records", "ledger", "data") for file in (path / part).iterdir())]
    return {file.relative_to(path).as_posix(): hash_file(file) for file in files}


def said(dataset: Dataset) -> list[tuple[str, ...]]:
    """What the ledger says, without what only describes it, by step."""
    made = []
    for one in dataset.passes:
        for row in pq.read_table(dataset.path / one.file).to_pylist():
            if row["action"] in ("flag", "drop", "duplicate"):
                parts = ("record", "action", "reason", "field", "start", "end", "counterpart")
                made.append((one.step, *(str(row[part]) for part in parts)))
    return made


def test_a_step_run_again_adds_no_pass(tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d")
    assert len(run_steps(dataset, [ODD])) == 1
    finish(dataset)
    before = whole(dataset.path)
    assert run_steps(dataset, [ODD]) == []
    finish(dataset)
    assert whole(dataset.path) == before


def test_only_what_is_new_is_added(tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d")
    ids = sorted(dataset.ids())
    first = Entry(ids[0], "flag", "odd", "messages.1.content", 2, 5, counterpart="x:1", score=0.5, detail="a")
    dataset.add("s", 1, {}, [first])
    others = [
        replace(first, record=ids[1]), replace(first, reason="even"), replace(first, field="messages.0.content"),
        replace(first, start=1), replace(first, end=6), replace(first, counterpart="x:2"),
        replace(first, action="drop"),
    ]  # fmt: skip
    made = dataset.add("s", 2, {}, [replace(first, score=0.6, detail="b"), *others])
    assert len(pq.read_table(dataset.path / made.file)) == len(others)
    other_step = dataset.add("t", 1, {}, [first])
    assert len(pq.read_table(dataset.path / other_step.file)) == 1


def test_what_was_taken_back_is_said_again(tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d")
    run_steps(dataset, [ODD])
    finish(dataset)
    flagged, before = said(dataset), whole(dataset.path)
    one = flagged[0][1]
    undo(dataset, record=one)
    (made,) = run_steps(dataset, [ODD])
    assert pq.read_table(dataset.path / made.file)["record"].to_pylist() == [one]
    undo(dataset, step="odd")
    finish(dataset)
    assert all(not example.flags for batch in dataset.map(list) for example in batch)
    (made,) = run_steps(dataset, [ODD])
    finish(dataset)
    assert len(pq.read_table(dataset.path / made.file)) == len(flagged)
    data = {name: value for name, value in before.items() if name.startswith("data/")}
    assert {name: value for name, value in whole(dataset.path).items() if name.startswith("data/")} == data


def test_a_drop_that_a_person_overruled_is_not_said_again(tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d")
    ids = sorted(dataset.ids())
    drop, keep = Entry(ids[0], "drop", "bad"), Entry(ids[0], "keep", REVIEWED)
    dataset.add("s", 1, {}, [drop])
    dataset.add("review", 1, {"file": "a"}, [keep])
    assert dataset.add("s", 1, {}, [drop]) is None
    for entry in (replace(keep, action="drop"), keep, replace(keep, action="drop")):  # a person's last word counts
        assert dataset.add("review", 1, {"file": "a"}, [entry]) is not None
    assert ids[0] not in {example.id for batch in dataset.map(list) for example in batch}


def test_a_score_is_said_again_when_another_came_between(tmp_path: Path) -> None:
    dataset = folder(tmp_path / "d")
    low = Entry(min(dataset.ids()), "score", "difficulty", score=0.25)
    high = replace(low, score=0.75)
    assert [dataset.add("difficulty", 1, {"model": "m"}, [entry]) is None for entry in (low, low, high, low, low)] == [
        False, True, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(("version", "parameters"), [(2, {"seed": 1}), (1, {"seed": 2})])
def test_a_step_with_other_settings_leaves_a_pass(tmp_path: Path, version: int, parameters: dict[str, int]) -> None:
    dataset = folder(tmp_path / "d")
    dataset.add("s", 1, {"seed": 1, "notes": ["3 × long"]}, [])
    assert dataset.add("s", 1, {"seed": 1, "notes": ["2 × long"]}, []) is None
    assert dataset.add("s", version, parameters, []) is not None


FRUIT = ("apple", "pear", "plum", "cherry", "quince", "fig", "grape", "lemon", "melon", "peach")


def fruit_rows(verb: str) -> list[dict[str, str]]:
    rows = [{"instruction": f"How do I {verb} a {name}?", "output": f"You {verb} a {name} by hand."} for name in FRUIT]
    mail = {"instruction": f"Please {verb} the photo that I attached.", "output": f"I cannot {verb} it, sorry, I am."}
    return [*rows, mail, {"instruction": f"What is {verb}ing?", "output": "As an AI language model, I do not know."}]


def test_adding_rows_says_nothing_again_about_the_others(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", fruit_rows("peel"))
    write_rows(tmp_path / "b.jsonl", fruit_rows("pickle"))
    plan = Plan(val_size=0.2)
    clean([tmp_path / "a.jsonl"], tmp_path / "d", plan)
    with working(tmp_path / "d") as dataset:
        first = said(dataset)
        add(dataset, [tmp_path / "b.jsonl"], plan)
    after = said(Dataset(tmp_path / "d"))
    assert first and after[: len(first)] == first and len(after) > len(first)
    assert len(set(after)) == len(after)


def test_adding_the_same_file_again_changes_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", fruit_rows("peel"))
    plan = Plan(val_size=0.2)
    clean([tmp_path / "a.jsonl"], tmp_path / "d", plan)
    before = whole(tmp_path / "d")
    with working(tmp_path / "d") as dataset:
        assert add(dataset, [tmp_path / "a.jsonl"], plan) == 12
    assert whole(tmp_path / "d") == before
