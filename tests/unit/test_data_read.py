"""Good files of every kind are read completely, in order, with the place of every row."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.errors import DataError
from luthier.data.read import data_files, read_records, read_rows
from luthier.data.records import Record

ROWS = [{"prompt": f"ask {n}", "completion": f'line one\nline two, "{n}" é'} for n in range(3)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def rows(path: Path, on_bad_row: str = "stop") -> list[tuple[str, dict[str, Any]]]:
    return list(read_rows(path, on_bad_row=on_bad_row, counts=Counter()))


def csv_bytes(separator: str) -> bytes:
    lines = [["prompt", "completion"], *([row["prompt"], row["completion"]] for row in ROWS)]
    quoted = [separator.join('"' + field.replace('"', '""') + '"' for field in line) for line in lines]
    return ("\n".join(quoted) + "\n").encode()


FILES = {
    "a.jsonl": JSONL,
    "bom.jsonl": b"\xef\xbb\xbf" + JSONL,
    "crlf.jsonl": JSONL.replace(b"\n", b"\r\n"),
    "noend.jsonl": JSONL.rstrip(b"\n"),
    "a.jsonl.gz": gzip.compress(JSONL),
    "a.JSONL": JSONL,
    "list.json": json.dumps(ROWS).encode(),
    "indented.json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(),
    "data.json": json.dumps({"version": [1], "data": ROWS}).encode(),
    "one_list.json": json.dumps({"version": 1, "examples": ROWS}).encode(),
    "lines.json": JSONL,
    "list.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "a.csv": csv_bytes(","),
    "bom.csv": b"\xef\xbb\xbf" + csv_bytes(","),
    "a.tsv": csv_bytes("\t"),
    "a.csv.gz": gzip.compress(csv_bytes(",")),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    assert [row for _, row in rows(path)] == ROWS


def test_parquet_rows_come_in_batches_with_nested_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    many = [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "yes"}]}
        for n in range(1500)
    ]
    pq.write_table(pa.Table.from_pylist(many), path, row_group_size=700)
    result = read_records(path)
    assert [record.messages[0].content for record in result.records] == [str(n) for n in range(1500)]
    assert result.records[1499].where == f"{path}:row 1500"


def test_places_are_lines_of_the_file(tmp_path: Path) -> None:
    jsonl = tmp_path / "a.jsonl"
    jsonl.write_bytes(b"\n\n" + JSONL.replace(b"\n", b"\n \n"))
    assert [where for where, _ in rows(jsonl)] == [f"{jsonl}:{line}" for line in (3, 5, 7)]
    table = tmp_path / "a.csv"
    table.write_bytes(csv_bytes(","))
    assert [where for where, _ in rows(table)] == [f"{table}:{line}" for line in (2, 4, 6)]
    listed = tmp_path / "a.json"
    listed.write_text(json.dumps(ROWS))
    assert [where for where, _ in rows(listed)] == [f"{listed}:row {row}" for row in (1, 2, 3)]


def test_a_json_file_may_be_one_conversation(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}))
    assert len(read_records(path).records) == 1


def test_text_is_read_paragraph_by_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\r\none\r\ntwo\r\n\r\n \r\n\r\nthree\r\n")
    records = read_records(path).records
    assert records == [Record(text="one\ntwo", where=f"{path}:2"), Record(text="three", where=f"{path}:7")]


def test_a_folder_is_read_file_by_file_and_says_what_it_left(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.jsonl").write_bytes(JSONL)
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "README.md").write_text("# Read me")
    (tmp_path / ".hidden.jsonl").write_text("broken")
    files, notes = data_files(tmp_path)
    assert files == [tmp_path / "a.txt", tmp_path / "b" / "z.jsonl"]
    assert notes == ["not read, no data file: README.md"]
    result = read_records(tmp_path)
    assert result.format == "text + prompt_completion"
    assert result.why == "text: has the key text; prompt_completion: has the keys prompt and completion"
    assert [record.where.rpartition("/")[2] for record in result.records] == [
        "a.txt:1", "z.jsonl:1", "z.jsonl:2", "z.jsonl:3",
    ]  # fmt: skip
    assert notes[0] in result.notes


def test_everything_that_happens_to_a_row_is_counted(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [
        json.dumps({"messages": chat, "source": "x"}),
        json.dumps({"messages": [*chat, {"role": "user", "content": "c"}]}),
        json.dumps({"messages": [*chat, {"role": "tool", "content": "c"}]}),
        json.dumps({"messages": chat[::-1]}),
        json.dumps({"prompt": "a", "completion": "b"}),
        '{"messages": [',
        "[1, 2]",
        "",
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    result = read_records(path, on_bad_row="skip")
    assert result.rows_in == 7
    assert result.dropped == {
        "tool result without a call": 1,
        "roles out of order": 1,
        "not messages": 1,
        "broken line": 1,
        "not an object": 1,
    }
    assert result.repaired == {"trailing user turn cut": 1}
    assert result.counts == result.dropped + result.repaired
    assert len(result.records) == 2
    assert any("source (in 1)" in note for note in result.notes)


def test_a_later_row_of_another_format_stops_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a", "output": "b"}\n{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert caught.value.where == f"{path}:2"
    assert "not alpaca: the keys are prompt, completion" in str(caught.value)


def test_a_format_that_is_named_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a", "output": "b", "text": "plain"}\n')
    assert read_records(path).format == "alpaca"
    result = read_records(path, format="text")
    assert (result.records[0].text, result.format, result.why) == ("plain", "text", "text: as the recipe says")
    with pytest.raises(DataError, match="did you mean alpaca"):
        read_records(path, format="alpacca")


def test_a_table_of_mixed_rows_is_read_by_the_columns_that_are_filled(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": [], "text": "plain"}, {"messages": chat, "text": ""}, {"messages": chat, "text": None}]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    result = read_records(path)
    assert [record.kind for record in result.records] == ["text", "conversation", "conversation"]
    assert result.format == "text + messages"
