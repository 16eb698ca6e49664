"""Dataset folders: what was read stays, decisions apply in order, every row is accounted for, and all can be undone."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers_curate import make_dataset, stored, talk
from luthier.core.errors import DataError
from luthier.curate.example import Entry, Example
from luthier.curate.fold import REVIEWED, fold
from luthier.curate.folder import QUARANTINED, Dataset, Stored
from luthier.curate.history import diff, undo, why
from luthier.curate.materialise import data_path, materialise
from luthier.curate.personal import PERSONAL
from luthier.curate.run import Budget, add_pass, run_steps
from luthier.curate.step import Step
from luthier.curate.work import catch_up
from luthier.data.dataset_folder import STATE
from luthier.data.records import Message, Record, record_from_json

RECORDS = [talk(f"Question {number}?", f"answer {number} ") for number in range(10)]


def edit(example: Example, before: str, after: str) -> Entry:
    return Entry(example.id, "edit", "trimmed", "messages.1.content", before=before, after=after)


def trim(examples: Sequence[Example]) -> list[Entry]:
    return [edit(e, e.answer, e.answer.strip()) for e in examples if e.answer != e.answer.strip()]


def shout(examples: Sequence[Example]) -> list[Entry]:
    return [edit(e, e.answer, e.answer.upper()) for e in examples if e.answer != e.answer.upper()]


def drop_third(examples: Sequence[Example]) -> list[Entry]:
    return [Entry(e.id, "drop", "third") for e in examples if "3" in e.answer]


def drop_most(examples: Sequence[Example]) -> list[Entry]:
    return [Entry(e.id, "drop", "too many") for e in examples if "9" not in e.answer]


TRIM, SHOUT, THIRD, MOST = (
    Step("trim", 1, trim),
    Step("shout", 1, shout),
    Step("third", 1, drop_third),
    Step("most", 1, drop_most),
)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "data").glob("*"))}


def finish(dataset: Dataset) -> dict[str, bytes]:
    dataset.commit(materialise(dataset))
    dataset.remove_strays()
    return files(dataset.path)


def answers(dataset: Dataset) -> list[str]:
    return [example.answer for batch in dataset.map(list) for example in batch]


def test_a_dataset_is_the_fold_of_its_ledger(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", RECORDS)
    run_steps(dataset, [TRIM, SHOUT, THIRD])
    assert answers(dataset) == [f"ANSWER {number}" for number in range(10) if number != 3]
    assert len(finish(dataset)) == 1
    again = Dataset(tmp_path / "d")
    assert again.state["counts"] == {
        "rows_in": 10,
        "used": {"train": 9, "validation": 0},
        "out": {"third": 1},
        "void_edits": 0,
    }
    table = pq.read_table(data_path(again, "train"))
    assert table.column_names == ["id", "source", "messages", "group", "category", "flags", "meta"]
    assert table["messages"][0].as_py() == [
        {"role": "user", "content": "Question 0?"}, {"role": "assistant", "content": "ANSWER 0"},
    ]  # fmt: skip


def test_undo_gives_the_same_bytes_as_never_done(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", RECORDS)
    run_steps(dataset, [TRIM])
    before = finish(dataset)
    run_steps(dataset, [THIRD])
    assert finish(dataset) != before
    assert [made.step for made in undo(dataset, step="third")] == ["third"]
    assert finish(dataset) == before
    with pytest.raises(DataError, match=r"nothing to take back: step third .*\n.*steps that were run: third, trim"):
        undo(dataset, step="third")


def test_an_edit_on_top_of_one_that_is_taken_back_no_longer_applies(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", RECORDS)
    run_steps(dataset, [TRIM, SHOUT])
    undo(dataset, step="trim")
    finish(dataset)
    assert answers(dataset)[0] == "answer 0 "
    assert dataset.state["counts"]["void_edits"] == 10
    undo(dataset, step="shout")
    finish(dataset)
    assert dataset.state["counts"]["void_edits"] == 0


def test_undo_of_one_example(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", RECORDS)
    run_steps(dataset, [TRIM, THIRD])
    wanted = next(entry.record for entry in drop_third([e for b in make(RECORDS) for e in b]))
    undo(dataset, record=wanted[:8])
    assert answers(dataset)[3] == "answer 3 " and answers(dataset)[4] == "answer 4"
    story = why(dataset, wanted[:8])
    assert [(d.made.step, d.entry.action, d.retracted) for d in story.decisions] == [
        ("trim", "edit", True), ("third", "drop", True), ("undo", "undo", False), ("undo", "undo", False),
    ]  # fmt: skip
    assert story.now.out is None


def make(records: list[Record]) -> list[list[Example]]:
    return [[Example(row.id, record, row.source) for row, record in zip(stored(records), records, strict=True)]]


def test_why_needs_one_id(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", RECORDS)
    with pytest.raises(DataError, match="no example has an id that begins with zz"):
        why(dataset, "zz")
    with pytest.raises(DataError, match="10 examples have ids that begin with"):
        why(dataset, "")


def test_quarantined_rows_are_kept_and_counted(tmp_path: Path) -> None:
    bad = Stored("f" * 20, "rows.jsonl", "rows.jsonl:11", QUARANTINED, json.dumps({"line": "{broken"}))
    dataset = make_dataset(tmp_path / "d", [*stored(RECORDS), bad])
    dataset.add("read", 1, {}, [Entry(bad.id, "drop", "broken line", detail="at column 2")])
    finish(dataset)
    assert dataset.state["counts"]["out"] == {"broken line": 1}
    assert dataset.state["counts"]["rows_in"] == 11
    assert why(dataset, "f").now.example is None


def test_a_row_without_a_reason_is_never_passed_over(tmp_path: Path) -> None:
    bad = Stored("f" * 20, "rows.jsonl", "rows.jsonl:11", QUARANTINED, "{}")
    with pytest.raises(AssertionError):
        materialise(make_dataset(tmp_path / "d", [*stored(RECORDS), bad]))


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.curate.folder.BATCH", 4)
    made = []
    for workers in (1, 2):
        dataset = make_dataset(tmp_path / str(workers), RECORDS)
        assert len(dataset.view.batches) == 3
        run_steps(dataset, [TRIM, THIRD], workers=workers)
        dataset.commit(materialise(dataset, workers=workers))
        made.append((files(dataset.path), [(dataset.path / p.file).read_bytes() for p in dataset.passes]))
    assert made[0] == made[1]


def test_a_step_that_takes_too_much_is_stopped(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", RECORDS)
    with pytest.raises(DataError, match=r"step most would take out 9 of 10 examples \(90 %\), more than the 20 %"):
        run_steps(dataset, [TRIM, MOST])
    assert [made.step for made in dataset.passes] == ["read"]
    run_steps(dataset, [MOST], budget=Budget(0.95, 1))
    assert len(answers(dataset)) == 1


def test_a_category_that_loses_too_much_is_stopped(tmp_path: Path) -> None:
    many = [talk(f"Question {number}?", f"answer {number}") for number in range(100)]
    rows = [*stored(many[:80], category="a"), *stored(many[80:], category="b", source="other")]
    gone = [Entry(row.id, "duplicate", "near duplicate") for row in rows[80:92]]
    dataset = make_dataset(tmp_path / "d", rows)
    with pytest.raises(DataError, match=r"12 of the 20 examples of category 'b' \(60 %\), more than the 50 %"):
        add_pass(dataset, "dedup", 1, {}, gone)
    add_pass(dataset, "dedup", 1, {}, gone[:10])
    assert len(answers(dataset)) == 90


def test_a_person_overrules_a_step() -> None:
    example = make(RECORDS)[0][0]
    drop, keep = Entry(example.id, "drop", "x"), Entry(example.id, "keep", REVIEWED)
    assert fold(example, [drop])[1] == drop
    assert fold(example, [drop, keep])[1] is None
    assert fold(example, [keep, drop])[1] is None
    final = Entry(example.id, "drop", REVIEWED)
    assert fold(example, [keep, drop, final])[1] == final


def test_a_side_is_never_changed_and_flags_add_up() -> None:
    example = make(RECORDS)[0][0]
    entries = [
        Entry(example.id, "split", "x", after="validation"), Entry(example.id, "split", "x", after="train"),
        Entry(example.id, "flag", "a"), Entry(example.id, "flag", "b"), Entry(example.id, "repeat", "x", score=2.5),
    ]  # fmt: skip
    after, out, void = fold(example, entries)
    assert (after.side, after.flags, after.repeats, out, void) == ("validation", {"a", "b"}, 2.5, None, 0)


def test_sides_and_all_kinds_are_written(tmp_path: Path) -> None:
    calls = Message("assistant", "", tool_calls='[{"arguments":{},"name":"f"}]')
    records = [
        RECORDS[0],
        Record((Message("user", "q"),), chosen=(Message("assistant", "a"),), rejected=(Message("assistant", "b"),)),
        Record((Message("user", "q"), Message("assistant", "a")), label=False),
        Record((Message("user", "q"), calls, Message("tool", "1", name="f"), Message("assistant", "a")), tools="[]"),
        Record(text="plain"),
    ]
    assert [record_from_json(record.as_json()) for record in records] == records
    dataset = make_dataset(tmp_path / "d", records)
    dataset.add("split", 1, {}, [Entry(row.id, "split", "held out", after="validation") for row in stored(records)[3:]])
    finish(dataset)
    train, held_out = (pq.read_table(data_path(dataset, side)).to_pylist() for side in ("train", "validation"))
    assert [row["label"] for row in train] == [None, None, False]
    assert train[1]["chosen"] == [{"role": "assistant", "content": "a", "tool_calls": None, "name": None}]
    assert held_out[0]["messages"][1]["tool_calls"] == calls.tool_calls and held_out[1]["text"] == "plain"


def test_diff_of_two_folders(tmp_path: Path) -> None:
    a, b = make_dataset(tmp_path / "a", RECORDS[:9]), make_dataset(tmp_path / "b", RECORDS[1:])
    run_steps(b, [THIRD], budget=Budget(1, 1))
    b.add("split", 1, {}, [Entry(stored(RECORDS)[4].id, "split", "held out", after="validation")])
    for dataset in (a, b):
        finish(dataset)
    made, ids = diff(a.path, b.path), [row.id for row in stored(RECORDS)]
    assert made.only_a == sorted([ids[0], ids[3]])
    assert made.only_b == [ids[9]]
    assert made.changed == {ids[4]: ["side"]}
    assert made.same == 6


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "no dataset folder"),
        ("{", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 99, "passes": []}', "written by a newer Luthier"),
    ],
)
def test_a_folder_that_cannot_be_opened(tmp_path: Path, state: str | None, message: str) -> None:
    if state is not None:
        (tmp_path / STATE).write_text(state)
    with pytest.raises(DataError, match=message):
        Dataset(tmp_path)


def test_what_an_interrupted_writer_left_is_not_part_of_the_dataset(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", RECORDS)
    run_steps(dataset, [TRIM])
    before = finish(dataset)
    run_steps(dataset, [THIRD])
    materialise(dataset)  # killed here: a pass and data files are written, the state is not
    again = Dataset(tmp_path / "d")
    assert [made.step for made in again.passes] == ["read", "trim"]
    again.remove_strays()
    assert files(again.path) == before
    assert sorted(file.name for file in (again.path / "ledger").iterdir()) == [
        "0001-read.parquet", "0002-trim.parquet",
    ]  # fmt: skip


def test_what_comes_back_is_caught_up_with(tmp_path: Path) -> None:
    """An example that was out when personal data were replaced does not come back with them."""
    records = [
        *RECORDS,
        talk("Where do I write to about number 3?", "To rosamund.pike@orchards-of-kent.co.uk, please."),
    ]
    dataset = make_dataset(tmp_path / "d", records)
    run_steps(dataset, [Step("third", 1, drop_mail), PERSONAL])
    before = dataset.categories()
    assert len(before) == 10
    undo(dataset, step="third")
    (made,) = catch_up(dataset, before)
    assert made.step == "personal"
    assert answers(dataset)[-1] == "To [EMAIL_1], please."
    undo(dataset, step="personal")
    assert catch_up(dataset, dataset.categories()) == []


def drop_mail(examples: Sequence[Example]) -> list[Entry]:
    return [Entry(example.id, "drop", "mail") for example in examples if "@" in example.answer]


def test_entries_find_their_batch_in_whatever_order_they_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.curate.folder.BATCH", 3)
    dataset = make_dataset(tmp_path / "d", RECORDS)
    ids = [row.id for row in stored(RECORDS)]
    dataset.add("first", 1, {}, [Entry(key, "flag", f"mark {number}") for number, key in enumerate(ids)][::-1])
    flags = [sorted(example.flags) for batch in dataset.map(list) for example in batch]
    assert flags == [[f"mark {number}"] for number in range(10)]
