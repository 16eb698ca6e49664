"""Decisions made in the report: they come back as entries, and a file that does not fit is refused with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers_curate_report import EVIL, answer_of, mixed
from luthier.core.errors import DataError
from luthier.curate.apply import FORMAT, KIND, fingerprint, read_decisions
from luthier.curate.example import Entry
from luthier.curate.fold import REVIEWED
from luthier.curate.folder import Dataset, Stored

FIELD = "messages.1.content"


@pytest.fixture
def made(tmp_path: Path) -> tuple[Dataset, list[Stored]]:
    return mixed(tmp_path / "set")


def saved(dataset: Dataset, decisions: list[Any], changed: dict[str, Any] | None = None) -> Path:
    """A file as the page writes it."""
    head = {"format": FORMAT, "kind": KIND, "dataset": fingerprint(dataset), "records": 1}
    path = dataset.path.parent / "decisions.json"
    content = head | {"passes": len(dataset.passes), "decisions": decisions} | (changed or {})
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def test_decisions_come_back_as_entries_that_hold(made: tuple[Dataset, list[Stored]]) -> None:
    dataset, rows = made
    dropped, kept, edited = rows[10].id, rows[1].id, rows[11]
    entries = read_decisions(
        saved(
            dataset,
            [
                {"id": kept, "action": "keep"},
                {"id": dropped, "action": "drop"},
                {"id": edited.id, "action": "edit", "field": FIELD, "before": answer_of(edited), "after": EVIL},
            ],
        ),
        dataset,
    )
    assert entries[0] == Entry(edited.id, "edit", REVIEWED, FIELD, before=answer_of(edited), after=EVIL)
    assert {(entry.record, entry.action, entry.reason) for entry in entries[1:]} == {
        (kept, "keep", REVIEWED),
        (dropped, "drop", REVIEWED),
    }
    dataset.add("review", 1, {}, entries)
    now = {row.stored.id: row for row in dataset.view.folded(0)}
    assert now[kept].out is None and now[dropped].out is not None
    assert now[edited.id].example.answer == EVIL  # type: ignore[union-attr]


def test_the_order_in_the_file_does_not_matter(made: tuple[Dataset, list[Stored]]) -> None:
    dataset, rows = made
    decisions = [{"id": row.id, "action": "drop"} for row in rows[10:16]]
    assert read_decisions(saved(dataset, decisions), dataset) == read_decisions(
        saved(dataset, decisions[::-1]), dataset
    )


def test_later_passes_do_not_make_a_review_void(made: tuple[Dataset, list[Stored]]) -> None:
    dataset, rows = made
    path = saved(dataset, [{"id": rows[10].id, "action": "drop"}])
    dataset.add("slop", 1, {}, [])
    assert len(read_decisions(path, dataset)) == 1


def test_an_edit_of_what_is_out_needs_a_keep(made: tuple[Dataset, list[Stored]]) -> None:
    dataset, rows = made
    edit = {"id": rows[1].id, "action": "edit", "field": FIELD, "before": answer_of(rows[1]), "after": "Whole."}
    with pytest.raises(DataError, match=r"edited but not in the dataset \(truncated\)"):
        read_decisions(saved(dataset, [edit]), dataset)
    assert len(read_decisions(saved(dataset, [edit, {"id": rows[1].id, "action": "keep"}]), dataset)) == 2


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ([], "no decisions"),
        ([17], "decision 1.*not a decision: 17"),
        ([{"id": "@11", "action": "delete"}], "decision 1.*not a decision"),
        ([{"id": "@11", "action": ["drop"]}], "decision 1.*not a decision"),
        ([{"id": "@11"}], "not a decision"),
        ([{"id": 11, "action": "drop"}], "not a decision"),
        ([{"id": "@11", "action": "drop", "reason": "x"}], "not a decision"),
        ([{"id": "@11", "action": "edit", "field": FIELD, "after": "x"}], "not a decision"),
        ([{"id": "f" * 20, "action": "drop"}], "1 of the ids are not in this dataset, first ffff"),
        ([{"id": "@11", "action": "drop"}, {"id": "@11", "action": "keep"}], "two decisions about .*: drop and keep"),
        ([{"id": "@11", "action": "drop"}, {"id": "@11", "action": "drop"}], "two decisions about"),
        ([{"id": "@20", "action": "keep"}], "could not be read and cannot be decided about"),
        (
            [{"id": "@11", "action": "edit", "field": FIELD, "before": "@", "after": n} for n in ("x", "y")],
            r"two decisions about .*: field messages.1.content",
        ),
        (
            [
                {"id": "@11", "action": "edit", "field": FIELD, "before": "@", "after": "x"},
                {"id": "@11", "action": "drop"},
            ],
            "both dropped and edited",
        ),
        ([{"id": "@11", "action": "edit", "field": FIELD, "before": "@", "after": "@"}], "changes nothing"),
        ([{"id": "@11", "action": "edit", "field": FIELD, "before": "old", "after": "x"}], "no longer the text"),
        ([{"id": "@11", "action": "edit", "field": "messages.1.role", "before": "a", "after": "x"}], "has no text"),
        ([{"id": "@11", "action": "edit", "field": "messages.7.content", "before": "", "after": "x"}], "has no text"),
        ([{"id": "@5", "action": "edit", "field": FIELD, "before": "@", "after": "x"}], "no longer the text"),
    ],
)
def test_wrong_decisions_are_refused(made: tuple[Dataset, list[Stored]], decisions: list[Any], message: str) -> None:
    """In the cases "@11" stands for the id of row 11, and "@" for its answer as read."""
    dataset, rows = made
    real = []
    for item in decisions:
        if isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"].startswith("@"):
            row = rows[int(item["id"][1:])]
            item = item | {"id": row.id}
            item |= {key: answer_of(row) for key in ("before", "after") if item.get(key) == "@"}
        real.append(item)
    with pytest.raises(DataError, match=message):
        read_decisions(saved(dataset, real), dataset)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "newer Luthier"),
        ({"format": 0}, "damaged"),
        ({"format": True}, "damaged: format"),
        ({"kind": "else"}, "not a file of decisions"),
        ({"kind": None}, "not a file of decisions"),
        ({"dataset": "0" * 16}, "made on another dataset"),
        ({"passes": 99}, "made on another dataset"),
        ({"passes": 2}, "made on another dataset"),
        ({"passes": -1}, "damaged"),
        ({"records": 2}, "made on another dataset"),
        ({"records": "1"}, "damaged: records"),
        ({"decisions": {}}, "damaged: decisions"),
        ({"passes": None}, "damaged: passes"),
        ({"more": 1}, "damaged: more"),
    ],
)
def test_a_wrong_head_is_refused(made: tuple[Dataset, list[Stored]], changed: dict[str, Any], message: str) -> None:
    dataset, rows = made
    with pytest.raises(DataError, match=message):
        read_decisions(saved(dataset, [{"id": rows[11].id, "action": "drop"}], changed), dataset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a file of decisions"),
        (b"\xff\xfe", "not a file"),
        (b"[]", "not a file"),
        (b"[" * 99999, "not a file"),
    ],
)
def test_a_damaged_file_is_refused(made: tuple[Dataset, list[Stored]], content: bytes, message: str) -> None:
    path = made[0].path.parent / "decisions.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_decisions(path, made[0])


def test_a_missing_file_is_named(made: tuple[Dataset, list[Stored]]) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_decisions(made[0].path / "none.json", made[0])
