"""A process killed at any point leaves a dataset folder as it was, or complete; never something between.

Every change that Python makes to the file system announces itself to an audit hook. From the n-th on all of them fail,
which is what a kill looks like from the disk: nothing that comes later happens, cleaning up included.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers_curate import make_dataset, talk
from luthier.core.files import hash_file
from luthier.curate.clean import Plan, clean
from luthier.curate.example import Entry, Example
from luthier.curate.folder import STATE, Dataset
from luthier.curate.history import undo
from luthier.curate.run import Budget, run_steps
from luthier.curate.step import Step
from luthier.curate.work import finish, working

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree", "os.truncate"}
_left: int | None = None  # changes that are still allowed; None lets everything through


class Killed(BaseException):
    """Not an Exception: nothing catches it on the way."""


def _hook(event: str, args: tuple[Any, ...]) -> None:
    global _left
    if _left is None:
        return
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in CHANGES:
        if _left == 0:
            raise Killed(event)
        _left -= 1


sys.addaudithook(_hook)


def killed_after(changes: int, work: Callable[[], None]) -> bool:
    """Run `work` with so many changes allowed; whether it was killed."""
    global _left
    _left = changes
    try:
        work()
    except Killed:
        return True
    finally:
        _left = None
    return False


def drop_first(examples: list[Example]) -> list[Entry]:
    return [Entry(example.id, "drop", "first") for example in examples if "number 0" in example.answer]


def state_of(folder: Path) -> tuple[str, dict[str, str]]:
    """The state file, and what the data files that it names hold; checks that they are what it says."""
    dataset = Dataset(folder)
    files = [*dataset.state["records"], *dataset.state["data"], *dataset.state["passes"]]
    for item in files:
        name = item.get("file") or f"ledger/{item['number']:04}-{item['step']}.parquet"
        assert hash_file(folder / name) == item["sha256"], name
    return (folder / STATE).read_text(), {item["side"]: item["sha256"] for item in dataset.state["data"]}


def test_work_on_a_folder(tmp_path: Path) -> None:
    original = tmp_path / "original"
    dataset = make_dataset(original, [talk(f"Question {n}?", f"This is answer number {n}.") for n in range(8)])
    run_steps(dataset, [Step("first", 1, drop_first)], budget=Budget(1, 1))
    finish(dataset)

    def take_back(folder: Path) -> None:
        with working(folder) as opened:
            undo(opened, step="first")
            finish(opened)

    complete = shutil.copytree(original, tmp_path / "complete")
    take_back(complete)
    before, after = state_of(original), state_of(complete)
    assert before != after
    outcomes = []
    for changes in range(1000):
        folder = shutil.copytree(original, tmp_path / f"copy{changes}")
        if not killed_after(changes, lambda folder=folder: take_back(folder)):
            break
        outcomes.append(state_of(folder))
        assert outcomes[-1] in (before, after)
        if outcomes[-1] == before:  # whoever comes next finishes the work and nothing is left of the first try
            take_back(folder)
            assert state_of(folder) == after
        assert not [name for name in os.listdir(folder / "data") if name.startswith(".")] or outcomes[-1] == after
    assert outcomes.count(before) > 5 and outcomes[0] == before and outcomes[-1] == after


def test_cleaning_files(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}, of course."} for n in range(8)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clean([source], tmp_path / "complete", Plan(val_size=0.3))
    after = state_of(tmp_path / "complete")
    killed = 0
    for changes in range(1000):
        out = tmp_path / f"out{changes}" / "made"
        if not killed_after(changes, lambda out=out: clean([source], out, Plan(val_size=0.3))):
            break
        killed += 1
        assert not out.exists() or state_of(out) == after
    assert killed > 10
    assert state_of(out) == after
