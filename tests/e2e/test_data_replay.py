"""Replay as a person types it: a tenth of general data in a dataset of one's own; what is counted, kept and said."""

import json
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers_cli import Desk
from helpers_runs import write_rows

TREES = (
    "oak",
    "ash",
    "elm",
    "yew",
    "fir",
    "pine",
    "lime",
    "alder",
    "birch",
    "rowan",
    "hazel",
    "maple",
    "beech",
    "cedar",
)
WORK = ("plant", "prune", "fell", "water", "graft")
FISH = ("carp", "pike", "perch", "trout", "bream", "tench", "eel", "salmon", "roach", "dace", "chub", "zander")
SEAS = ("a brook", "a pond", "the sea", "a river", "an estuary", "a reservoir")


def clean(desk: Desk, name: str) -> None:
    """A folder of 70 rows of one's own and 72 general ones of two categories, none of them held out."""
    own = [
        {"prompt": f"When do I {work} the {tree}?", "completion": f"You {work} the {tree} when its leaves are gone."}
        for tree in TREES
        for work in WORK
    ]
    general = [
        {"prompt": f"Can a {fish} live in {sea}?", "completion": f"Whether the {fish} lives in {sea} depends on food.",
         "category": "where" if fish < "f" else "which"}
        for fish in FISH
        for sea in SEAS
    ]  # fmt: skip
    write_rows(desk.folder / "own.jsonl", own)
    write_rows(desk.folder / "general.jsonl", general)
    # Rows from one pattern are near copies of each other, and are meant to be rows of their own here.
    desk.run("data", "clean", "own.jsonl", "general.jsonl", "--out", name, "--val-size", "0", "--skip", "dedup")


def epoch(folder: Path) -> tuple[Counter[str], Counter[str], dict[str, set[float]]]:
    """Of each source: rows, words of answers in an epoch (each row as often as it is repeated), and the repetitions."""
    rows, words, repeats = Counter(), Counter(), {}
    for file in (folder / "data").glob("train-*.parquet"):
        for row in pq.read_table(file).to_pylist():
            source, times = row["source"], row.get("repeats") or 1.0
            rows[source] += 1
            words[source] += times * len(row["messages"][1]["content"].split())
            repeats.setdefault(source, set()).add(times)
    return rows, words, repeats


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("replay"))
    clean(desk, "made")
    return desk


def state(desk: Desk) -> dict:
    return json.loads((desk.folder / "made" / "dataset.json").read_text())


def contents(desk: Desk) -> dict[str, bytes]:
    files = [file for part in ("data", "ledger", "records") for file in (desk.folder / "made" / part).iterdir()]
    return {file.name: file.read_bytes() for file in [*files, desk.folder / "made" / "dataset.json"]}


def test_a_tenth_of_general_data(desk: Desk) -> None:
    before = contents(desk)
    rows_before, _, _ = epoch(desk.folder / "made")
    out, _ = desk.run("data", "balance", "made", "--replay", "0.1", "--replay-source", "general.jsonl")
    rows, words, repeats = epoch(desk.folder / "made")
    assert rows["own.jsonl"] == rows_before["own.jsonl"] == 70  # replay comes on top and takes nothing away
    assert words["general.jsonl"] / words.total() == pytest.approx(0.1, abs=0.01)
    assert repeats == {"own.jsonl": {1.0}, "general.jsonl": {1.0}}
    counts = state(desk)["counts"]
    assert counts["rows_in"] == 142 == sum(counts["used"].values()) + sum(counts["out"].values())
    assert counts["out"]["over the share"] == 72 - rows["general.jsonl"]
    line = re.search(r"^\(replay\) .*?([\d.]+) %\s+([\d.]+)\s*$", out, re.M)
    assert line is not None, out
    assert float(line[1]) == pytest.approx(10, abs=1) and float(line[2]) == pytest.approx(
        rows["general.jsonl"] / 72, abs=0.01
    )
    assert "estimated from words" in out and "cap" not in out
    report = (desk.folder / "made" / "report.html").read_text()
    assert "over the share" in report and "(replay)" in report

    again = contents(desk)
    out, _ = desk.run("data", "balance", "made", "--replay", "0.1", "--replay-source", "general.jsonl")
    assert "nothing new" in out and contents(desk) == again

    desk.run("data", "undo", "made", "--step", "balance")
    data = {name for name in before if name.startswith("train-")}
    assert {name: contents(desk)[name] for name in data} == {name: before[name] for name in data}


def test_little_general_data_is_repeated_and_no_more_than_four_times(desk: Desk) -> None:
    out, _ = desk.run("data", "balance", "made", "--replay", "0.6", "--replay-source", "general.jsonl")
    _, words, repeats = epoch(desk.folder / "made")
    assert words["general.jsonl"] / words.total() == pytest.approx(0.6, abs=0.03)  # words stand for tokens here
    assert repeats["own.jsonl"] == {1.0} and max(repeats["general.jsonl"]) <= 2.0
    out, _ = desk.run("data", "balance", "made", "--replay", "0.9", "--replay-source", "general.jsonl")
    assert "taken back first" in out and re.search(r"'\(replay\)' is [\d.]+ % instead of 90.0 %", out)
    _, words, repeats = epoch(desk.folder / "made")
    assert repeats["general.jsonl"] == {4.0} and words["general.jsonl"] / words.total() < 0.9
    assert out.count("instead of 90.0 %") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--replay", "0.1"), "replay needs both a share and the sources"),
        (("--replay-source", "general.jsonl"), "replay needs both a share and the sources"),
        (("--replay", "0.1", "--replay-source", "generel.jsonl"), "sources are 'general.jsonl', 'own.jsonl'"),
        (("--replay", "1.5", "--replay-source", "general.jsonl"), "a share from 0 to below 1"),
        (("--replay", "0.1", "--replay-source", "general.jsonl", "--replay-source", "own.jsonl"), "nothing to balance"),
    ],
)
def test_mistakes(desk: Desk, words: tuple[str, ...], message: str) -> None:
    before = json.dumps(state(desk))
    out, err = desk.run("data", "balance", "made", *words, code=1)
    assert message in err and "taken back" not in out
    assert json.dumps(state(desk)) == before
