"""Files become stored rows in one order, with ids that stay, and with an account of every row that does not fit."""

import gzip
import json
import tempfile
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_records import FAST, ODD_ROW, records
from luthier.core.errors import DataError
from luthier.core.files import canonical_json, hash_file, hash_json
from luthier.curate.example import Entry
from luthier.curate.folder import QUARANTINED, Stored, create, example_id
from luthier.curate.intake import Intake, read_sources
from luthier.curate.materialise import data_path
from luthier.curate.stored import content_of
from luthier.curate.work import finish
from luthier.curate.workers import open_pool, ordered
from luthier.data.records import KINDS, Message, Record

QA = {"prompt": "Ask", "completion": "Answer"}
CONTENT = '{"messages":[{"content":"Ask","role":"user"},{"content":"Answer","role":"assistant"}]}'


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(*paths: Path, **options: Any) -> tuple[list[Stored], Intake]:
    intake = read_sources(paths, **options)
    return list(intake.rows), intake


def test_a_row_is_stored_with_its_place_and_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "", QA | {"group": 3, "meta": {"url": "u"}, "score": 2, "none": None})
    (row,), intake = read(path)
    name = "a.jsonl"
    assert row == Stored(
        id=example_id(CONTENT, name, 0),
        source=name,
        where="a.jsonl:2",
        kind="conversation",
        content=CONTENT,
        group="3",
        meta='{"score":2,"url":"u"}',
    )
    assert intake.sources == [{"name": name, "sha256": hash_file(path), "rows": 1}]
    assert intake.entries == []


def test_copies_of_a_row_have_ids_of_their_own(tmp_path: Path) -> None:
    rows, _ = read(write(tmp_path / "a.jsonl", QA, {"instruction": "Ask", "output": "Answer"}, QA))
    name = "a.jsonl"
    assert [row.id for row in rows] == [example_id(CONTENT, name, copy) for copy in range(3)]


def test_the_order_of_the_files_changes_nothing(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "b.jsonl", QA, "{", QA),
        write(tmp_path / "folder" / "z.csv", "prompt,completion", "Ask,Answer"),
        write(tmp_path / "folder" / "a" / "a.txt", "some text"),
        write(tmp_path / "a.json", json.dumps([QA, 3])),
    ]
    first, one = read(paths[0], tmp_path / "folder", paths[3])
    again, other = read(paths[3], paths[0], tmp_path / "folder")
    assert (first, one.sources, one.entries) == (again, other.sources, other.entries)
    assert [source["name"] for source in one.sources] == ["a.json", "b.jsonl", "folder/a/a.txt", "folder/z.csv"]
    assert [source["rows"] for source in one.sources] == [2, 3, 1, 1]


def test_sources_have_the_same_names_wherever_the_data_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for home in ("here", "there/and/deep"):
        write(tmp_path / home / "data" / "in" / "a.jsonl", QA)
        monkeypatch.chdir(tmp_path / home)
        made += [read(Path("data"))[0], read(tmp_path / home / "data")[0]]
    assert made[0] == made[1] == made[2] == made[3]
    assert (made[0][0].source, made[0][0].where) == ("data/in/a.jsonl", "data/in/a.jsonl:1")


def test_files_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    paths = [write(tmp_path / name / "a.jsonl", QA) for name in ("x/one", "y/one", "two")]
    rows, _ = read(*paths)
    assert [row.source for row in rows] == ["two/a.jsonl", "x/one/a.jsonl", "y/one/a.jsonl"]


@pytest.mark.parametrize("how", ["twice", "in a folder", "linked"])
def test_one_file_is_given_once(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "folder" / "a.jsonl", QA)
    (tmp_path / "b.jsonl").symlink_to(path)
    other = {"twice": path, "in a folder": path.parent, "linked": tmp_path / "b.jsonl"}[how]
    with pytest.raises(DataError, match="the same file as"):
        read(path, other)


def test_rows_of_several_formats_may_share_a_file(tmp_path: Path) -> None:
    pair = {"prompt": "Ask", "chosen": "Good", "rejected": "Bad"}
    rows, _ = read(write(tmp_path / "a.jsonl", QA, pair, {"text": "t"}, QA | {"label": False}))
    assert [row.kind for row in rows] == ["conversation", "preference", "text", "labelled"]


def test_a_named_format_is_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", QA | {"text": "plain"}, QA)
    rows, intake = read(path, format="text")
    assert [row.kind for row in rows] == ["text", QUARANTINED]
    assert json.loads(rows[0].meta) == QA
    assert intake.entries[0].detail.startswith("not text: the keys are prompt, completion\n")
    with pytest.raises(DataError, match="unknown format 'txt'"):
        read(path, format="txt")


def test_lines_that_are_no_rows_are_kept_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [b'{"prompt": "caf\xe9"}', b'{"prompt": ', b"[1]", b'{"a": "\x00"}']
    path.write_bytes(b"\n".join(lines))
    rows, intake = read(path)
    kept = [json.loads(row.content)["line"].encode("utf-8", "surrogateescape") for row in rows]
    assert kept == lines
    assert [(entry.record, entry.action, entry.reason) for entry in intake.entries] == [
        (row.id, "drop", reason)
        for row, reason in zip(rows, ["not UTF-8", "broken line", "not an object", "NUL byte"], strict=True)
    ]
    assert "on_bad_row" not in intake.entries[0].detail


def test_rows_of_tables_and_lists_that_are_no_rows(tmp_path: Path) -> None:
    rows, intake = read(write(tmp_path / "a.csv", "prompt,completion", "a", "b,c"), write(tmp_path / "b.json", "[[1]]"))
    assert [json.loads(row.content) for row in rows if row.kind == QUARANTINED] == [{"row": ["a"]}, {"row": [1]}]
    assert [entry.reason for entry in intake.entries] == ["wrong number of columns", "not an object"]


def test_a_repair_is_an_entry_with_what_was_cut(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Answer"}]
    path = write(tmp_path / "a.jsonl", {"messages": [*turns, {"role": "user", "content": "And?"}]})
    (row,), intake = read(path)
    assert row.content == CONTENT
    assert intake.entries == [
        Entry(row.id, "flag", "trailing user turn cut", before="And?", detail="turn 3 has no answer")
    ]


CATEGORIES = [
    ({"category": "maths"}, None, "maths", {}),
    ({"category": 3}, None, "", {"category": 3}),
    ({"meta": {"category": "maths", "n": 1}}, None, "maths", {"category": "maths", "n": 1}),
    ({"category": "a", "meta": {"category": "b"}}, None, "a", {"category": "b"}),
    ({"topic": "maths", "category": "x"}, "topic", "maths", {"category": "x"}),
    ({"topic": 3}, "topic", "3", {"topic": 3}),
    ({"meta": {"topic": "maths"}}, "topic", "maths", {"topic": "maths"}),
    ({"group": "g"}, "group", "g", {}),
]


@pytest.mark.parametrize(("more", "column", "category", "meta"), CATEGORIES)
def test_categories(tmp_path: Path, more: dict[str, Any], column: str | None, category: str, meta: Any) -> None:
    (row,), _ = read(write(tmp_path / "a.jsonl", QA | more), category=column)
    assert (row.category, json.loads(row.meta)) == (category, meta)


def test_a_category_column_that_no_row_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row has the column 'topic'"):
        read(write(tmp_path / "a.jsonl", QA), category="topic")


def test_what_turns_carry_is_kept(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Ask", "name": "Ann"}, {"role": "assistant", "content": "Answer", "id": None}]
    (row,), _ = read(write(tmp_path / "a.jsonl", {"messages": turns, "meta": {"a": 1}, "a": 2}))
    assert json.loads(row.meta) == {"a": 1, "a (column)": 2, "turns": {"messages.0": {"name": "Ann"}}}


def test_values_that_json_has_no_form_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([QA | {"day": date(2024, 5, 1), "raw": b"\xff"}]), path)
    (row,), _ = read(path)
    assert json.loads(row.meta) == {"day": "2024-05-01", "raw": "/w=="}


def test_damage_stops(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(QA) + "\n").encode() * 100)[:-12])
    with pytest.raises(DataError, match="cut short"):
        read(path)
    with pytest.raises(DataError, match="holds no rows"):
        read(write(tmp_path / "b.jsonl"))
    with pytest.raises(DataError, match="did you mean"):
        read(tmp_path / "c.jsonl")


@pytest.mark.parametrize(("depth", "reason"), [(90, "no known format"), (101, "broken line"), (991, "broken line")])
def test_what_is_read_can_be_written_again(tmp_path: Path, depth: int, reason: str) -> None:
    nested = '{"x":' * depth + "1" + "}" * depth
    path = tmp_path / "a.jsonl"
    path.write_text(nested + "\n")
    _, intake = read(path)
    assert [entry.reason for entry in intake.entries] == [reason]
    path = tmp_path / "a.json"
    path.write_text(f"[{nested}]")
    if depth > 100:
        with pytest.raises(DataError, match="nested too deeply"):
            read(path)
    else:
        read(path)


def test_a_dataset_folder_is_no_data_file(tmp_path: Path) -> None:
    write(tmp_path / "dataset.json", {})
    with pytest.raises(DataError, match="is a dataset folder"):
        read(tmp_path)


def test_a_folder_made_of_it_gives_the_records_back(tmp_path: Path) -> None:
    odd = '{"prompt": "half \\ud83d", "completion": "b"}'
    intake = read_sources([write(tmp_path / "a.jsonl", QA | {"category": "c", "extra": "\ud800"}, odd, "{")])
    (tmp_path / "out").mkdir()
    dataset = create(tmp_path / "out", intake.rows, intake.sources, "1")
    dataset.add("read", 1, {}, intake.entries)
    (examples,) = dataset.map(list)
    (folded,) = dataset.map_folded(list)
    assert [example.record for example in examples] == [
        Record(
            messages=(Message("user", "Ask"), Message("assistant", "Answer")),
            where="a.jsonl:1",
            meta={"extra": "\ud800"},
        )
    ]
    assert examples[0].category == "c"
    assert [made.out.reason if made.out else "" for made in folded] == ["", "broken Unicode", "broken line"]
    assert dataset.state["sources"][0]["rows"] == 3


LINE = st.binary(max_size=40).filter(lambda line: b"\n" not in line) | ODD_ROW.map(lambda row: json.dumps(row).encode())


@FAST
@given(st.lists(LINE, min_size=1, max_size=8))
def test_every_line_is_stored_once(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(b'{"text": "a"}\n' + b"\n".join(lines))
        rows, intake = read(path)
    filled = [line for line in lines if line.removesuffix(b"\r").strip()]
    assert len(rows) == 1 + len(filled) == intake.sources[0]["rows"]
    assert len({row.id for row in rows}) == len(rows)
    drops = [entry.record for entry in intake.entries if entry.action == "drop"]
    assert drops == [row.id for row in rows if row.kind == QUARANTINED]
    for row in rows:
        "".join([row.content, row.meta, row.group, row.category]).encode("utf-8")
        json.loads(row.content)
    for entry in intake.entries:
        (entry.before + entry.detail).encode("utf-8")


def odd_files(folder: Path) -> list[Path]:
    """Files of all kinds, with copies, rows that no format fits, and more lines than one portion."""
    many = [QA | {"completion": f"Answer {number % 7}", "n": number} for number in range(9)]
    lines = write(folder / "a.jsonl", QA, "{", "", *many, {"odd": 1}, QA, "[1]", QA | {"category": "c"})
    pressed = folder / "b.jsonl.gz"
    pressed.write_bytes(gzip.compress(lines.read_bytes()))
    table = folder / "c.csv"
    table.write_text("prompt,completion\n" + "Ask,Answer\n" * 5 + "a\n")
    listed = folder / "d.json"
    listed.write_text(json.dumps([QA, 3, QA, *many]))
    dated = folder / "e.parquet"
    pq.write_table(pa.table({"prompt": ["x"] * 7, "completion": ["y"] * 7, "at": [date(2020, 1, 1)] * 7}), dated)
    return [lines, pressed, table, listed, dated]


def test_portions_in_other_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.curate.intake.PORTION", 4)
    files = odd_files(tmp_path)
    rows, intake = read(*files)
    with open_pool(2) as pool:
        run = partial(ordered, pool, workers=2)
        others, other = read(*reversed(files), run=run)
    monkeypatch.setattr("luthier.curate.intake.PORTION", 1000)
    assert (rows, intake.entries, intake.sources) == (others, other.entries, other.sources)
    whole, one = read(*files)
    assert (rows, intake.entries, intake.sources) == (whole, one.entries, one.sources)
    ids = [row.id for row in rows if row.source == "c.csv"]
    assert ids[:5] == [example_id(CONTENT, "c.csv", copy) for copy in range(5)]


@FAST
@given(st.text(), st.text(), st.integers(0, 3))
def test_an_id_is_the_hash_of_a_json_list(content: str, source: str, copy: int) -> None:
    assert example_id(content, source, copy) == hash_json([content, source, copy])[:20]


@FAST
@given(st.sampled_from(KINDS).flatmap(records))
def test_content_is_canonical_json(record: Record) -> None:
    assert content_of(record) == canonical_json(record.as_json())


def test_text_that_utf8_cannot_hold_is_written_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(QA | {"extra": "\ud800"}).encode() + b'\n{"prompt": "\xff"}\n')
    intake = read_sources([path])
    (tmp_path / "out").mkdir()
    dataset = create(tmp_path / "out", intake.rows, intake.sources, "1")
    dataset.add("read", 1, {}, intake.entries)
    finish(dataset)
    used = data_path(dataset, "train")
    assert used is not None
    assert json.loads(pq.read_table(used)["meta"][0].as_py()) == {"extra": "\ud800"}
    assert "not UTF-8" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
