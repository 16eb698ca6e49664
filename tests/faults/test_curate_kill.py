"""A process killed at any point leaves a dataset folder as it was, or complete; never something between.

Every change that Python makes to the file system announces itself to an audit hook. A process of its own does the work,
and the hook ends it, without any cleaning up, before the n-th change; for every n until the work gets through.
"""

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers_curate import make_dataset, talk
from luthier.core.files import hash_file
from luthier.curate.clean import Plan, clean
from luthier.curate.example import Entry, Example
from luthier.curate.folder import Dataset
from luthier.curate.history import undo
from luthier.curate.run import Budget, run_steps
from luthier.curate.step import Step
from luthier.curate.work import finish, working
from luthier.data.dataset_folder import STATE

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree", "os.truncate"}
KILLED = 137
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["test_curate_kill", "luthier.curate.report", "luthier.curate.card", "pyarrow.parquet"])


def take_back(folder: Path) -> None:
    """Work on a folder: undo a step."""
    with working(folder) as opened:
        undo(opened, step="first")
        finish(opened)


def clean_rows(folder: Path) -> None:
    """Make a folder from rows.jsonl beside it."""
    clean([folder.parent / "rows.jsonl"], folder, Plan(val_size=0.3))


def do(work: str, changes: int, folder: Path) -> None:
    """In a process of its own: `work`, with so many changes allowed."""
    left = changes

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in CHANGES:
            if left == 0:
                os._exit(KILLED)
            left -= 1

    sys.addaudithook(hook)
    {"take_back": take_back, "clean_rows": clean_rows}[work](folder)


def killed_after(work: str, changes: int, folder: Path) -> bool:
    """Whether the work was killed before it was done."""
    process = CONTEXT.Process(target=do, args=(work, changes, folder))
    process.start()
    process.join(60)
    assert process.exitcode in (0, KILLED), process.exitcode
    return process.exitcode == KILLED


def drop_first(examples: Sequence[Example]) -> list[Entry]:
    return [Entry(example.id, "drop", "first") for example in examples if "number 0" in example.answer]


def state_of(folder: Path) -> tuple[str, dict[str, str]]:
    """The state file, and the hashes of the data files that it names; checks that all files are what it says."""
    dataset = Dataset(folder)
    for item in [*dataset.state["records"], *dataset.state["data"], *dataset.state["passes"]]:
        name = item.get("file") or f"ledger/{item['number']:04}-{item['step']}.parquet"
        assert hash_file(folder / name) == item["sha256"], name
    return (folder / STATE).read_text(), {item["side"]: item["sha256"] for item in dataset.state["data"]}


def test_work_on_a_folder(tmp_path: Path) -> None:
    original = tmp_path / "original"
    dataset = make_dataset(original, [talk(f"Question {n}?", f"This is answer number {n}.") for n in range(8)])
    run_steps(dataset, [Step("first", 1, drop_first)], budget=Budget(1, 1))
    finish(dataset)
    complete = shutil.copytree(original, tmp_path / "complete")
    take_back(complete)
    before, after = state_of(original), state_of(complete)
    assert before != after
    outcomes = []
    for changes in range(1000):
        folder = shutil.copytree(original, tmp_path / f"copy{changes}")
        if not killed_after("take_back", changes, folder):
            break
        outcomes.append(state_of(folder))
        assert outcomes[-1] in (before, after)
        if outcomes[-1] == before:  # whoever comes next finishes the work, and nothing is left of the first try
            take_back(folder)
            assert state_of(folder) == after
            assert {p.name for p in (folder / "data").iterdir()} == {p.name for p in (complete / "data").iterdir()}
            assert {p.name for p in (folder / "ledger").iterdir()} == {p.name for p in (complete / "ledger").iterdir()}
    assert outcomes.count(before) > 5 and outcomes[0] == before and outcomes[-1] == after


def test_cleaning_files(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}, of course."} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clean_rows(tmp_path / "complete")
    _, after = state_of(tmp_path / "complete")
    killed = 0
    for changes in range(0, 1000, 3):
        out = tmp_path / f"out{changes}"
        if not killed_after("clean_rows", changes, out):
            break
        killed += 1
        assert not out.exists() or state_of(out)[1] == after
    assert killed > 5
    assert state_of(out)[1] == after
