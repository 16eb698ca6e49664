"""Damaged, wrong and missing data files: each gives one clear error, or is skipped and counted."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.errors import DataError
from luthier.data.read import read_records

GOOD = b'{"prompt": "a", "completion": "b"}\n'


def refused(path: Path, **options: str) -> DataError:
    with pytest.raises(DataError) as caught:
        read_records(path, **options)
    assert str(path.parent) in caught.value.where
    return caught.value


BROKEN_LINES = {
    "cut": (b'{"prompt": "a", "comp', "broken line"),
    "two values": (b'{"prompt": "a", "completion": "b"} {}', "broken line"),
    "no object": (b"[1, 2]", "not an object"),
    "null": (b"null", "not an object"),
    "nul byte": (b'{"prompt": "a\x00", "completion": "b"}', "NUL byte"),
    "latin-1": (b'{"prompt": "caf\xe9", "completion": "b"}', "not UTF-8"),
    "deep": (b"[" * 200_000, "broken line"),
    "huge number": (b'{"prompt": ' + b"9" * 5000 + b"}", "broken line"),
}


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_a_broken_line_stops_with_its_number_or_is_counted(tmp_path: Path, name: str) -> None:
    line, reason = BROKEN_LINES[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + line + b"\r\n" + GOOD)
    error = refused(path)
    assert error.where == f"{path}:2"
    assert error.what.startswith(reason)
    assert "on_bad_row: skip" in error.fix
    result = read_records(path, on_bad_row="skip")
    assert (len(result.records), result.rows_in, result.dropped) == (2, 3, {reason: 1})


def test_bytes_that_are_not_utf8_are_located(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b'{"prompt": "caf\xe9"}')
    assert refused(path).what == "not UTF-8: byte 16 of the line is 0xe9"
    text = tmp_path / "a.txt"
    text.write_bytes(b"one\n\xff\n")
    assert refused(text, on_bad_row="skip").where == f"{text}:2"
    wide = tmp_path / "wide.jsonl"
    wide.write_bytes(GOOD.decode().encode("utf-16"))
    assert "UTF-16" in refused(wide).what


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"\n \r\n\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_file_without_rows(tmp_path: Path, name: str, content: bytes, on_bad_row: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert refused(path, on_bad_row=on_bad_row).what == "the file holds no rows"


@pytest.mark.parametrize("content", [b"[]", b'{"data": []}', b"{}", b"3", b'"text"'])
def test_json_without_usable_rows(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    refused(path)


def test_skipping_everything_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{\n" * 3 + b'{"prompt": "a", "completion": ""}\n')
    assert refused(path, on_bad_row="skip").what == (
        "none of its 4 rows can be used: broken line (3), empty answer (1)"
    )


# Damage to a whole file stops under both policies: the number of lost rows is unknown.
DAMAGED = {
    "garbage.json": (b'[{"prompt": "a", "completion": "b"}] x', "something follows the end"),
    "cut.json": (b'[{"prompt": "a", "completion": "b"},', "broken JSON"),
    "deep.json": (b"[" * 200_000, "nested too deeply"),
    "nul.json": (b'[{"prompt": "a\x00"}]', "NUL byte"),
    "binary.txt": (b"some\x00thing", "NUL byte"),
    "quotes.csv": (b'prompt,completion\na,b\nc,"d\ne,f\n', "broken CSV"),
    "header.csv": (b"prompt,prompt\na,b\n", "empty or repeated column names"),
    "nul.csv": (b"prompt,completion\na,b\x00\n", "NUL byte"),
    "cut.jsonl.gz": (gzip.compress(GOOD * 500)[:-12], "cut short"),
    "bits.jsonl.gz": (gzip.compress(GOOD * 500)[:10] + b"\xff" * 40, "damaged gzip"),
    "checksum.jsonl.gz": (gzip.compress(GOOD * 500)[:-8] + bytes(8), "damaged gzip"),
    "not.jsonl.gz": (GOOD, "damaged gzip"),
    "not.parquet": (GOOD, "damaged Parquet"),
    "empty.parquet": (b"", "damaged Parquet"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_damaged_file_stops(tmp_path: Path, name: str, on_bad_row: str) -> None:
    content, words = DAMAGED[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert words in refused(path, on_bad_row=on_bad_row).what


def test_a_cut_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": "a", "completion": "b"}] * 100), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "damaged Parquet" in refused(path).what


def test_csv_rows_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\na,b\nc\nd,e,f\n\ng,h\n")
    error = refused(path)
    assert (error.where, error.what) == (f"{path}:3", "wrong number of columns: 1, the header has 2")
    result = read_records(path, on_bad_row="skip")
    assert (len(result.records), result.rows_in, result.dropped) == (2, 4, {"wrong number of columns": 2})


def test_csv_without_the_needed_columns_lists_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("title,body\na,b\n")
    error = refused(path, on_bad_row="skip")
    assert (error.where, error.what) == (f"{path}:2", "no known format: the keys are title, body")


def test_a_missing_file_suggests_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "support_chats.jsonl").write_bytes(GOOD)
    assert refused(tmp_path / "suport_chats.json").fix == f"did you mean {tmp_path / 'support_chats.jsonl'}?"
    assert "does not exist either" in refused(tmp_path / "nowhere" / "a.jsonl").fix


def test_unknown_kinds_of_file(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK")
    assert "'.xlsx'" in refused(path).what
    assert ".jsonl" in refused(path).fix
    assert refused(tmp_path).what == "the folder holds no data file"


def test_one_bad_file_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl").write_bytes(b"")
    assert refused(tmp_path, on_bad_row="skip").where == str(tmp_path / "b.jsonl")


TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
UNTRAINABLE = {
    "preference pairs are not supported yet": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "labelled answers are not supported yet": {"prompt": "a", "completion": "b", "label": True},
    "tool calls are not supported yet": {
        "messages": [*TALK[:1], {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]
    },
}


@pytest.mark.parametrize("reason", UNTRAINABLE)
def test_what_cannot_be_trained_yet_is_refused_by_name_and_place(tmp_path: Path, reason: str) -> None:
    only = tmp_path / "only.jsonl"
    only.write_text(json.dumps(UNTRAINABLE[reason]) + "\n")
    error = refused(only)
    assert (error.where, error.what.partition(":")[0]) == (f"{only}:1", reason)
    assert "on_bad_row: skip" in error.fix
    assert refused(only, on_bad_row="skip").what == f"none of its 1 rows can be used: {reason} (1)"


def test_tools_without_calls_are_refused_too(tmp_path: Path) -> None:
    rows = [{"messages": TALK}, {"messages": TALK, "tools": [{"name": "f", "parameters": {}}]}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    error = refused(path)
    assert (error.where, error.what.partition(":")[0]) == (f"{path}:row 2", "tool calls are not supported yet")
    assert read_records(path, on_bad_row="skip").dropped == {"tool calls are not supported yet": 1}
