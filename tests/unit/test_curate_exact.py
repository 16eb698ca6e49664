"""Exact duplicates: what is evened out, what is not, and which one stays."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from helpers_curate import make_dataset, stored, talk
from luthier.curate import folder
from luthier.curate.exact import even_out, exact_duplicates
from luthier.curate.example import Entry
from luthier.data.records import Message, Record

PAIR = Record(
    messages=(Message("user", "Which?"),), chosen=(Message("assistant", "A"),), rejected=(Message("assistant", "B"),)
)


def search(path: Path, *records: Record, workers: int = 1) -> tuple[list[Entry], Counter[str]]:
    notes: Counter[str] = Counter()
    dataset = make_dataset(path / "data", records)
    return exact_duplicates(dataset, workers=workers, notes=notes), notes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello there.", "hello  there"),
        ("What is it?", "What is it"),
        ("Line one\nLine two", "Line one line two"),
        ("ﬁne", "fine"),
        ("He said “yes”.", 'He said "yes"'),
        ("Stop!", "stop"),
    ],
)
def test_what_typing_varies_is_evened_out(one: str, other: str) -> None:
    assert even_out(one) == even_out(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("5!", "5"), ("5-3", "5+3"), ("3.14", "3 14"), ("a<b", "a>b"), ("don't", "dont"), ("-1", "1"), ("C", "C++")],
)
def test_what_carries_meaning_is_not(one: str, other: str) -> None:
    assert even_out(one) != even_out(other)


def test_one_of_each_group_stays_and_is_named(tmp_path: Path) -> None:
    rows = [talk("Hi there.", "Yes"), talk("hi  there", "Yes."), talk("HI THERE", "yes..."), talk("Bye", "Yes")]
    entries, notes = search(tmp_path, *rows)
    assert len(entries) == 2
    assert {entry.action for entry in entries} == {"duplicate"}
    ids = [row.id for row in stored(rows)]
    kept = ids[2]  # the longest answer
    assert {entry.counterpart for entry in entries} == {kept}
    assert {entry.record for entry in entries} == {ids[0], ids[1]}
    assert not +notes


def test_the_same_prompt_with_another_answer_stays_and_is_counted(tmp_path: Path) -> None:
    entries, notes = search(tmp_path, talk("Name a colour", "Red"), talk("Name a colour", "Blue"))
    assert entries == []
    assert +notes == {"prompts with several different answers": 1}


def test_a_label_is_part_of_a_row(tmp_path: Path) -> None:
    wanted = replace(talk("Name a colour", "Red"), label=True)
    entries, notes = search(tmp_path, wanted, replace(wanted, label=False), talk("Name a colour", "Red"))
    assert entries == []
    assert notes["answers labelled both wanted and unwanted"] == 1


def test_preferences_the_other_way_round_are_different(tmp_path: Path) -> None:
    turned = replace(PAIR, chosen=PAIR.rejected, rejected=PAIR.chosen)
    entries, _ = search(tmp_path, PAIR, turned, replace(PAIR, chosen=(Message("assistant", "a."),)))
    assert len(entries) == 1


def test_tools_and_tool_calls_are_part_of_a_row(tmp_path: Path) -> None:
    row = talk("Call it", "done")
    called = replace(row, messages=(row.messages[0], replace(row.messages[1], tool_calls='[{"name":"f"}]')))
    assert search(tmp_path, row, called, replace(row, tools='[{"name":"f"}]'))[0] == []


def test_order_and_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "BATCH", 100)
    rows = stored([talk(f"Question {number % 50}", f"answer {number % 50}") for number in range(500)])
    there = exact_duplicates(make_dataset(tmp_path / "a", rows), workers=2)
    back = exact_duplicates(make_dataset(tmp_path / "b", rows[::-1]))
    assert len(there) == 450
    assert there == back
