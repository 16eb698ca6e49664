"""Rows of every format read back as the record they were made from; what a format cannot hold is left out and named."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_records import FAST, records
from luthier.core.errors import DataError
from luthier.curate import convert_rows
from luthier.curate.convert import NOT_THE_SAME, convert, convert_dataset, convert_files
from luthier.curate.convert_rows import TARGETS
from luthier.curate.convert_write import write_rows
from luthier.curate.example import Example
from luthier.curate.folder import create
from luthier.curate.intake import read_sources
from luthier.data.dataset_folder import is_dataset_folder
from luthier.data.formats import detect, parse
from luthier.data.records import Message, Record

ASK, ANSWER = Message("user", "Ask"), Message("assistant", "Answer")
CALL = Message("assistant", "", '[{"name":"f","arguments":{"a":1}}]')
CALLS = Message("assistant", "", '[{"name":"f","arguments":{}},{"name":"g","arguments":{}}]')
RESULT = Message("tool", "rain", "", "f")
TOOLS = '[{"name":"f","parameters":{}}]'
BRIEF = Message("system", "Brief")


def rows_of(*made: Record, to: str, left_out: Counter[str] | None = None) -> list[dict[str, Any]]:
    return list(convert([Example("id", record) for record in made], to, left_out))


TALK = Record(messages=(BRIEF, ASK, ANSWER, ASK, ANSWER))
TOOL_TALK = Record(messages=(ASK, CALL, RESULT, ANSWER), tools=TOOLS)
PAIR = Record(messages=(ASK,), chosen=(ANSWER,), rejected=(Message("assistant", "Bad"),))
OPENAI_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
}
QUESTION, REPLY = {"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Answer"}
ROWS = [
    ("alpaca", Record(messages=(ASK, ANSWER)), {"instruction": "Ask", "input": "", "output": "Answer"}),
    (
        "alpaca",
        TALK,
        {"instruction": "Ask", "input": "", "output": "Answer", "system": "Brief", "history": [["Ask", "Answer"]]},
    ),
    (
        "sharegpt",
        TOOL_TALK,
        {
            "conversations": [
                {"from": "human", "value": "Ask"},
                {"from": "function_call", "value": '{"name":"f","arguments":{"a":1}}'},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "Answer"},
            ],
            "tools": TOOLS,
        },
    ),
    (
        "messages",
        TOOL_TALK,
        {
            "messages": [
                QUESTION,
                OPENAI_CALL,
                {"role": "tool", "content": "rain", "name": "f", "tool_call_id": "call_1"},
                REPLY,
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        },
    ),
    ("prompt_completion", Record(messages=(ASK, ANSWER)), {"prompt": "Ask", "completion": "Answer"}),
    (
        "preference",
        PAIR,
        {"prompt": [QUESTION], "chosen": [REPLY], "rejected": [{"role": "assistant", "content": "Bad"}]},
    ),
    (
        "preference-sharegpt",
        PAIR,
        {
            "conversations": [{"from": "human", "value": "Ask"}],
            "chosen": {"from": "gpt", "value": "Answer"},
            "rejected": {"from": "gpt", "value": "Bad"},
        },
    ),
    ("kto", Record(messages=(ASK, ANSWER), label=False), {"prompt": [QUESTION], "completion": [REPLY], "label": False}),
    ("kto_messages", Record(messages=(ASK, ANSWER), label=True), {"messages": [QUESTION, REPLY], "label": True}),
    ("text", Record(text="Once"), {"text": "Once"}),
]


@pytest.mark.parametrize(("to", "record", "row"), ROWS)
def test_rows_are_what_the_format_says(to: str, record: Record, row: dict[str, Any]) -> None:
    assert rows_of(record, to=to) == [row]


def test_group_category_and_meta_go_along() -> None:
    record = Record(messages=(ASK, ANSWER), group="g", meta={"n": 1})
    (row,) = convert([Example("id", record, category="maths")], "prompt_completion")
    assert row == {"prompt": "Ask", "completion": "Answer", "group": "g", "category": "maths", "meta": {"n": 1}}


LEFT_OUT = [
    ("alpaca", TOOL_TALK, "tool calls"),
    ("alpaca", Record(messages=(ASK, ANSWER), tools=TOOLS), "tool calls"),
    ("alpaca", Record(messages=(Message("system", ""), ASK, ANSWER)), "empty system turn"),
    ("alpaca", PAIR, "preference pair"),
    ("sharegpt", Record(messages=(ASK, Message("assistant", "Hm.", CALL.tool_calls))), "words beside a tool call"),
    (
        "sharegpt",
        Record(messages=(ASK, CALLS, RESULT, Message("tool", "r", "", "g"), ANSWER)),
        "several tool results in a row",
    ),
    (
        "messages",
        Record(messages=(ASK, CALLS, Message("tool", "r"), ANSWER)),
        "one tool result for several calls",
    ),
    ("messages", Record(messages=(ASK, ANSWER), label=True), "labelled answer"),
    ("messages", Record(text="Once"), "plain text"),
    ("prompt_completion", TALK, "system turn"),
    ("prompt_completion", Record(messages=TALK.messages[1:]), "more than one round"),
    ("preference", Record(messages=(ASK, ANSWER)), "conversation"),
    (
        "preference_sharegpt",
        Record(messages=(ASK,), chosen=(ANSWER, ASK, ANSWER), rejected=(ANSWER,)),
        "chosen or rejected of more than one turn",
    ),
    ("text", TALK, "conversation"),
    ("messages", Record(messages=(ASK, Message("assistant", " "))), NOT_THE_SAME),  # an edit can leave this behind
    ("alpaca", Record(messages=(Message("user", " "), ANSWER)), NOT_THE_SAME),
    ("messages", Record(messages=(ASK, ANSWER, ASK)), NOT_THE_SAME),
    ("alpaca", Record(messages=(ANSWER, ASK)), NOT_THE_SAME),
]


@pytest.mark.parametrize(("to", "record", "reason"), LEFT_OUT)
def test_what_a_format_cannot_hold_is_counted(to: str, record: Record, reason: str) -> None:
    left_out: Counter[str] = Counter()
    assert rows_of(record, to=to, left_out=left_out) == []
    assert left_out == {reason: 1}


REASONS = {
    convert_rows.TOOL_CALLS,
    convert_rows.SYSTEM,
    convert_rows.EMPTY_SYSTEM,
    convert_rows.ROUNDS,
    convert_rows.WORDS,
    convert_rows.RESULTS,
    convert_rows.LONG_SIDE,
}


@pytest.mark.parametrize("to", TARGETS)
def test_reading_what_was_written_gives_the_record(to: str) -> None:
    kind, format, _ = TARGETS[to]

    @FAST
    @given(records(kind))
    def check(record: Record) -> None:
        left_out: Counter[str] = Counter()
        rows = rows_of(record, to=to, left_out=left_out)
        if not rows:
            assert set(left_out) <= REASONS
            return
        row = json.loads(json.dumps(rows[0]))
        assert detect(row)[0] == format
        assert parse(row, format, "") == (record, [])

    check()


@pytest.mark.parametrize("to", ["messages", "preference", "alpaca"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_files_give_the_records_back(to: str, suffix: str) -> None:
    @settings(FAST, max_examples=15)
    @given(st.lists(records(TARGETS[to][0]), min_size=1, max_size=3))
    def check(made: list[Record]) -> None:
        rows = rows_of(*made, to=to)
        if not rows:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a{suffix}"
            assert write_rows(path, rows) == len(rows)
            intake = read_sources([path])
            stored = list(intake.rows)
            assert [item.name for item in Path(folder).iterdir()] == [path.name]
        assert intake.entries == []
        assert [json.loads(row.content) for row in stored] == [
            parse(row, TARGETS[to][1], "")[0].as_json() for row in rows
        ]
        assert [json.loads(row.meta) for row in stored] == [row.get("meta", {}) for row in rows]

    check()


def test_a_table_has_only_the_columns_its_rows_need(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", rows_of(TALK, to="messages"))
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert str(schema.field("messages").type) == "list<element: struct<role: string, content: string>>"
    write_rows(tmp_path / "b.parquet", rows_of(TALK, TOOL_TALK, to="messages"))
    assert pq.read_schema(tmp_path / "b.parquet").names == ["messages", "tools"]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_files_are_converted_with_an_account_of_every_row(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.jsonl",
        {"instruction": "Ask", "input": "this", "output": "Answer", "category": "c", "id": 7},
        {"messages": [QUESTION, REPLY, QUESTION]},
        {"messages": [{"role": "system", "content": "Brief"}, QUESTION, REPLY]},
        {"text": "Once"},
        {"title": "x"},
        "{",
    )
    out = tmp_path / "out" / "b.jsonl"
    done = convert_files([source], out, "prompt-completion")
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"prompt": "Ask\n\nthis", "completion": "Answer", "category": "c", "meta": {"id": 7}},
        {"prompt": "Ask", "completion": "Answer"},
    ]
    assert (done.rows_in, done.rows_out) == (6, 2)
    assert done.left_out == {"system turn": 1, "plain text": 1}
    assert done.unread == {"no known format": 1, "broken line": 1}
    assert done.repaired == {"trailing user turn cut": 1}


def test_a_dataset_folder_is_converted_as_it_stands(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"prompt": "Ask", "completion": "Answer"}, {"text": "Once"}, "{")
    intake = read_sources([source])
    (tmp_path / "set").mkdir()
    dataset = create(tmp_path / "set", intake.rows, intake.sources, "1")
    dataset.add("read", 1, {}, intake.entries)
    dataset.commit({})
    assert is_dataset_folder(tmp_path / "set") and not is_dataset_folder(tmp_path)
    done = convert_dataset(tmp_path / "set", tmp_path / "b.json", "messages")
    assert json.loads((tmp_path / "b.json").read_text()) == [{"messages": [QUESTION, REPLY]}]
    assert (done.rows_in, done.rows_out, done.left_out) == (2, 1, {"plain text": 1})
    with pytest.raises(DataError, match="no row was read"):
        convert_dataset(tmp_path / "set", tmp_path / "c.json", "messages", side="validation")


def test_a_file_that_cannot_be_written_is_not_begun(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"text": "Once"})
    with pytest.raises(DataError, match=r"alpaca can hold none of the rows: plain text \(1\)"):
        convert_files([source], tmp_path / "b.jsonl", "alpaca")
    with pytest.raises(DataError, match="unknown kind of file"):
        convert_files([source], tmp_path / "b.csv", "text")
    with pytest.raises(DataError, match="did you mean sharegpt"):
        convert_files([source], tmp_path / "b.jsonl", "share-gpt")
    assert list(tmp_path.iterdir()) == [source]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    def rows() -> Any:
        yield {"text": "new"}
        raise KeyboardInterrupt

    for name in ("a.jsonl", "a.json", "a.parquet"):
        path = tmp_path / name
        path.write_text("old")
        with pytest.raises(KeyboardInterrupt):
            write_rows(path, rows())
        assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3
