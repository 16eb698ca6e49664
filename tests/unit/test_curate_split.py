"""A split keeps together what belongs together, and moves nothing once it is made."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from luthier.core.files import canonical_json
from luthier.curate.example import Entry
from luthier.curate.folder import Dataset, Stored, create, example_id
from luthier.curate.groups import BOTH
from luthier.curate.sides import JOINED, side_counts, split_sides
from luthier.data.records import Message, Record
from luthier.data.split import split


def talk(at: int, prompt: str = "", answer: str = "", group: str = "", **meta: object) -> Record:
    turns = (Message("user", prompt or f"question number {at} of all"), Message("assistant", answer or f"answer {at}"))
    return Record(turns, group=group, meta=meta)


def stored(records: Sequence[Record], source: str = "s", category: str = "") -> list[Stored]:
    rows = []
    for record in records:
        content = canonical_json(record.as_json())
        name = example_id(content, source, len(rows))
        meta = canonical_json(dict(record.meta))
        rows.append(Stored(name, source, "", record.kind, content, record.group, category, meta))
    return rows


def folder_of(path: Path, rows: Sequence[Stored]) -> Dataset:
    path.mkdir(parents=True)
    return create(path, rows, [], "0")


def sides_of(dataset: Dataset, val_size: float = 0.5, seed: int = 0) -> dict[str, Entry]:
    """Split, write the pass, and give the entry of each record."""
    entries = split_sides(dataset, val_size=val_size, seed=seed)
    dataset.add("split", 1, {}, entries)
    assert len({entry.record for entry in entries}) == len(entries)
    return {entry.record: entry for entry in entries}


def together(path: Path, one: Record, other: Record, *entries: Entry) -> bool:
    """Whether two records among others are on one side whatever the seed."""
    rows = stored([one, other, *(talk(at) for at in range(100, 106))])
    dataset = folder_of(path, rows)
    if entries:
        names = {"one": rows[0].id, "other": rows[1].id}
        dataset.add(
            "dedup",
            1,
            {},
            [Entry(names[e.record], e.action, e.reason, counterpart=names[e.counterpart]) for e in entries],
        )
    sides = []
    for seed in range(12):
        made = {entry.record: entry.after for entry in split_sides(dataset, val_size=0.5, seed=seed)}
        assert made.keys() == {row.id for row in rows}
        sides.append(made[rows[0].id] == made[rows[1].id])
    return all(sides)


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"


@pytest.mark.parametrize(
    ("one", "other", "tied"),
    [
        (talk(1), talk(2), False),
        (talk(1, group="g"), talk(2, group="g"), True),
        (talk(1, group="g"), talk(2, group="h"), False),
        (talk(1, document="a.pdf"), talk(2, document="a.pdf"), True),
        (talk(1, parent_id="1" * 19 + "2"), talk(2, parent_id=int("1" * 19 + "2")), True),
        (talk(1, parent_id="1" * 19 + "2"), talk(2, parent_id="1" * 19 + "3"), False),
        (talk(1, conversation="7"), talk(2, conversation_id="7"), True),
        (talk(1, document="7"), talk(2, conversation="7"), False),
        (talk(1, parent="p"), talk(2, parent_id="p"), True),
        (talk(1, id="p"), talk(2, parent="p"), True),
        (talk(1, id=3), talk(2, parent=3), True),
        (talk(1, seed="task 4"), talk(2, seed="task 4"), True),
        (talk(1, seed=42), talk(2, seed=42), False),  # a random seed
        (talk(1, "What is a lute made of?", "Wood"), talk(2, "what is a lute made of", "Maple"), True),
        (talk(1, "Go on"), talk(2, "go on"), False),
        (talk(1, answer=LONG), talk(2, answer=LONG.upper()), True),
        (talk(1, answer="yes"), talk(2, answer="yes"), False),
        (Record(text="A text of some words."), Record(text="a text of some words"), True),
    ],
)
def test_what_is_tied(tmp_path: Path, one: Record, other: Record, tied: bool) -> None:
    assert together(tmp_path / "d", one, other) is tied


@pytest.mark.parametrize(
    ("action", "reason", "tied"),
    [
        ("duplicate", "near duplicate", True),
        ("flag", "near duplicate", True),
        ("drop", "leak: validation", False),
    ],
)
def test_what_the_ledger_ties(tmp_path: Path, action: str, reason: str, tied: bool) -> None:
    assert together(tmp_path / "d", talk(1), talk(2), Entry("one", action, reason, counterpart="other")) is tied


def test_a_parent_is_an_example_id_too(tmp_path: Path) -> None:
    one = talk(1)
    assert together(tmp_path / "d", one, talk(2, parent=stored([one])[0].id))


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_taken_back_ties_nothing(tmp_path: Path, whole: bool) -> None:
    rows = stored([talk(at) for at in range(8)])
    dataset = folder_of(tmp_path / "d", rows)
    entry = Entry(rows[0].id, "duplicate", "near duplicate", counterpart=rows[1].id)
    made = dataset.add("dedup", 1, {}, [entry])
    dataset.add("undo", 1, {}, [Entry("" if whole else rows[0].id, "undo", "undone", counterpart=str(made.number))])
    sides = [{e.record: e.after for e in split_sides(dataset, val_size=0.5, seed=seed)} for seed in range(12)]
    assert any(side[rows[0].id] != side[rows[1].id] for side in sides)


def test_a_chain_of_ties_is_one_group_and_its_name_decides(tmp_path: Path) -> None:
    records = [talk(1, group="b", document="x"), talk(2, group="a", document="x"), talk(3, group="a")]
    dataset = folder_of(tmp_path / "d", stored([*records, *(talk(at) for at in range(10, 40))]))
    for seed in range(8):
        made = {e.record: e for e in split_sides(dataset, val_size=0.4, seed=seed)}
        sides = {made[row.id].after for row in stored(records)}
        held = split([talk(0, group="a"), *(talk(at) for at in range(10, 40))], val_set_size=0.4, seed=seed)[1]
        assert sides == {"validation" if any(record.group == "a" for record in held) else "train"}
        assert made[stored(records)[2].id].detail == "group of 3: a"


def test_records_without_ties_are_split_as_plain_files_are(tmp_path: Path) -> None:
    records = [talk(at) for at in range(300)]
    rows = stored(records)
    made = sides_of(folder_of(tmp_path / "d", rows), val_size=0.2, seed=3)
    held = {record.id for record in split(records, val_set_size=0.2, seed=3)[1]}
    assert {record.id for row, record in zip(rows, records, strict=True) if made[row.id].after == "validation"} == held


def test_order_and_workers_change_nothing(tmp_path: Path) -> None:
    records = [talk(at, group=str(at // 3) if at % 2 else "", document=str(at // 7)) for at in range(200)]
    rows = stored(records)
    mixed = random.Random(1).sample(rows, len(rows))
    one, other = (folder_of(tmp_path / name, part) for name, part in (("a", rows), ("b", mixed)))
    assert split_sides(one, val_size=0.3, seed=0) == split_sides(other, val_size=0.3, seed=0, workers=2)


def test_a_form_that_many_share_ties_nothing(tmp_path: Path) -> None:
    rows = stored([talk(at, "Write one more short poem") for at in range(60)])
    made = sides_of(folder_of(tmp_path / "d", rows))
    assert {entry.after for entry in made.values()} == {"train", "validation"}


def test_neither_side_is_empty(tmp_path: Path) -> None:
    rows = stored([talk(at) for at in range(5)])
    dataset = folder_of(tmp_path / "d", rows)
    for share in (0.0001, 0.9999):
        assert {e.after for e in split_sides(dataset, val_size=share, seed=0)} == {"train", "validation"}
    assert {e.after for e in split_sides(dataset, val_size=0, seed=0)} == {"train"}
    # What was taken out fills no side.
    dataset.add("defects", 1, {}, [Entry(row.id, "drop", "empty answer") for row in rows[2:]])
    made = {e.record: e.after for e in split_sides(dataset, val_size=0.0001, seed=0)}
    assert made.keys() == {row.id for row in rows} and {made[rows[0].id], made[rows[1].id]} == {"train", "validation"}


# Later records


@pytest.mark.parametrize("seed", range(6))
def test_adding_records_moves_none(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)

    def some(first: int, number: int) -> list[Record]:
        return [talk(at, group=source.choice(["", "", *"abcdef"]), document=source.choice(["", *"uvwxyz123"]))
                for at in range(first, first + number)]  # fmt: skip

    dataset = folder_of(tmp_path / "d", stored(some(0, 30), "first"))
    before = sides_of(dataset)
    later = stored(some(30, 40), "later")
    dataset.add_records(later, [])
    after = sides_of(dataset, val_size=0.9, seed=seed + 1)
    assert after.keys() == {row.id for row in later}
    now = {example.id: example for part in dataset.map(list) for example in part}
    assert all(now[name].side == entry.after for name, entry in before.items())
    groups: dict[tuple[str, object], set[str]] = {}
    for example in now.values():
        for name in (("group", example.record.group), ("document", example.record.meta["document"])):
            if name[1]:
                groups.setdefault(name, set()).add(example.side)
    assert all(len(sides) == 1 for sides in groups.values())
    assert split_sides(dataset, val_size=0.9, seed=9) == []


def split_by_hand(path: Path) -> tuple[Dataset, list[Stored]]:
    """Two records, the group "t" in training and "v" in validation."""
    rows = stored([talk(1, group="t"), talk(2, group="v")])
    dataset = folder_of(path, rows)
    sides = zip(rows, ("train", "validation"), strict=True)
    dataset.add("split", 1, {}, [Entry(row.id, "split", "by hand", after=side) for row, side in sides])
    return dataset, rows


def test_a_new_record_joins_its_group(tmp_path: Path) -> None:
    dataset, rows = split_by_hand(tmp_path / "d")
    later = stored([talk(3, group="t"), talk(4, group="v"), talk(5, parent=rows[1].id), talk(6, document="x")], "later")
    dataset.add_records(later, [])
    made = sides_of(dataset, val_size=0)
    assert [(made[row.id].reason, made[row.id].after) for row in later] == [
        (JOINED, "train"), (JOINED, "validation"), (JOINED, "validation"), ("by group", "train"),
    ]  # fmt: skip
    assert made[later[0].id].detail == f"tied to {rows[0].id}"


def test_a_record_that_ties_both_sides_is_dropped_with_both_named(tmp_path: Path) -> None:
    dataset, rows = split_by_hand(tmp_path / "d")
    later = stored([talk(3, group="t", parent=rows[1].id), talk(4, parent=rows[1].id)], "later")
    dataset.add_records(later, [])
    made = sides_of(dataset)
    entry = made[later[0].id]
    assert (entry.action, entry.reason, entry.counterpart) == ("drop", BOTH, rows[1].id)
    assert rows[0].id in entry.detail and rows[1].id in entry.detail
    assert made[later[1].id].after == "validation"


def test_of_a_chain_that_ties_both_sides_one_record_is_dropped(tmp_path: Path) -> None:
    dataset, _ = split_by_hand(tmp_path / "d")
    later = stored(
        [
            talk(3, group="t", document="x"),
            talk(4, document="x", conversation="y"),
            talk(5, group="v", conversation="y"),
        ],
        "later",
    )
    dataset.add_records(later, [])
    made = sides_of(dataset)
    assert sorted(entry.action for entry in made.values()) == ["drop", "split", "split"]
    assert made[max(made)].action == "drop"


# Counts


def test_counts_tell_categories_that_validation_lacks(tmp_path: Path) -> None:
    rows = [*stored([talk(1), talk(2)], "a", "maths"), *stored([talk(3)], "b", "code"), *stored([talk(4)], "c")]
    dataset = folder_of(tmp_path / "d", rows)
    sides = ("train", "validation", "train", "train")
    dataset.add("split", 1, {}, [Entry(r.id, "split", "s", after=s) for r, s in zip(rows, sides, strict=True)])
    counts = side_counts(dataset)
    assert counts.records == {"train": 3, "validation": 1}
    assert counts.categories == {"train": {"": 1, "code": 1, "maths": 1}, "validation": {"maths": 1}}
    assert counts.missing == ["code"] and counts.characters["validation"] == len(
        "question number 2 of all" + "answer 2"
    )
