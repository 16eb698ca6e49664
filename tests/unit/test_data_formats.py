"""Every format becomes the record it says, detection explains itself, and every bad row names its reason."""

from collections import Counter
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.data.formats import FORMATS, detect, ignored_keys, reason_of, to_record
from luthier.data.formats_values import TRAILING_USER
from luthier.data.records import Message, Record


def turns(record: Record) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in record.messages]


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"{role} says"} for role in roles]}


QA = [("user", "Ask"), ("assistant", "Answer")]

ALPACA = "alpaca: has the keys instruction and output"
COMPLETION = "prompt_completion: has the keys prompt and completion"
LAYOUTS = [
    ({"instruction": "Ask", "output": "Answer"}, "alpaca", QA, ALPACA),
    ({"instruction": "Ask", "input": "", "output": "Answer"}, "alpaca", QA, ALPACA),
    (
        {"instruction": "Ask", "context": "this", "response": "Answer"},
        "alpaca",
        [("user", "Ask\n\nthis"), ("assistant", "Answer")],
        "alpaca: has the keys instruction and response",
    ),
    (
        {"system": "Be brief", "instruction": "Ask", "input": None, "output": "Answer", "history": [["a", "b"]]},
        "alpaca",
        [("system", "Be brief"), ("user", "a"), ("assistant", "b"), *QA],
        ALPACA,
    ),
    (
        {"conversations": [{"from": "human", "value": "Ask"}, {"from": "gpt", "value": "Answer"}]},
        "sharegpt",
        QA,
        "sharegpt: has the key conversations",
    ),
    (
        {
            "system": "Be brief",
            "conversations": [{"from": "user", "value": "Ask"}, {"from": "assistant", "value": "Answer"}],
        },
        "sharegpt",
        [("system", "Be brief"), *QA],
        "sharegpt: has the key conversations",
    ),
    (
        {"messages": [{"role": "system", "content": ""}, *({"role": role, "content": text} for role, text in QA)]},
        "messages",
        [("system", ""), *QA],
        "messages: has the key messages",
    ),
    ({"prompt": "Ask", "completion": "Answer"}, "prompt_completion", QA, COMPLETION),
    (
        {"question": "Ask", "answer": "Answer"},
        "prompt_completion",
        QA,
        "prompt_completion: has the keys question and answer",
    ),
    (
        {"prompt": [{"role": "user", "content": "Ask"}], "completion": [{"role": "assistant", "content": "Answer"}]},
        "prompt_completion",
        QA,
        COMPLETION,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("row", "format", "expected", "why"), LAYOUTS)
def test_layouts(row: dict[str, Any], format: str, expected: list[tuple[str, str]], why: str) -> None:
    assert detect(row) == (format, why)
    assert turns(to_record(row, format, "f:1")) == expected


def test_plain_text() -> None:
    assert detect({"text": " a\n"}) == ("text", "text: has the key text")
    record = to_record({"text": " a\n"}, "text", "f:1")
    assert (record.text, record.messages) == (" a\n", ())


def test_contents_group_and_meta_are_kept_as_they_are() -> None:
    content = "  two  spaces\r\n\ttab <|im_end|> \u00e9 "
    row = {"prompt": content, "completion": content, "group": 7, "meta": {"a": [1, None]}}
    record = to_record(row, "prompt_completion", "f:1")
    assert record.messages == (Message("user", content), Message("assistant", content))
    assert (record.group, record.meta, record.where) == ("7", {"a": [1, None]}, "f:1")


def test_text_parts_are_joined() -> None:
    row = chat("user", "assistant")
    row["messages"][0]["content"] = [{"type": "text", "text": "one, "}, {"type": "text", "text": "two"}]
    assert turns(to_record(row, "messages", "")) == [("user", "one, two"), ("assistant", "assistant says")]


def test_a_last_user_turn_is_cut_and_counted() -> None:
    repairs: Counter[str] = Counter()
    record = to_record(chat("user", "assistant", "user"), "messages", "", repairs=repairs)
    assert [message.role for message in record.messages] == ["user", "assistant"]
    to_record(chat("user", "assistant"), "messages", "", repairs=repairs)
    assert repairs == {TRAILING_USER: 1}


def with_turn(**turn: Any) -> dict[str, Any]:
    return {"messages": [*chat("user", "assistant")["messages"], turn]}


BAD = [
    (chat("user"), "messages", "no assistant turn"),
    ({"messages": []}, "messages", "no assistant turn"),
    (chat("system", "user", "user"), "messages", "no assistant turn"),
    (chat("assistant", "user"), "messages", "roles out of order"),
    (chat("user", "user", "assistant"), "messages", "roles out of order"),
    (chat("user", "assistant", "assistant"), "messages", "roles out of order"),
    (chat("user", "assistant", "user", "user"), "messages", "roles out of order"),
    (chat("user", "system", "assistant"), "messages", "roles out of order"),
    (chat("user", "assisstant"), "messages", "unknown role"),
    (with_turn(role=["user"], content="a"), "messages", "unknown role"),
    (with_turn(role="user", content=None), "messages", "null content"),
    (with_turn(role="user", content=3), "messages", "content is not text"),
    (with_turn(role="user", content=True), "messages", "content is not text"),
    (with_turn(role="user", content=[{"type": "image"}]), "messages", "content is not text"),
    (with_turn(role="user", content=[]), "messages", "content is not text"),
    (with_turn(role="user", content="a\0b"), "messages", "NUL character"),
    (with_turn(role="user", content="a\ud800b"), "messages", "broken Unicode"),
    (with_turn(role="user"), "messages", "turn without role or content"),
    (with_turn(content="a"), "messages", "turn without role or content"),
    (with_turn(role="user", content=" \n"), "messages", "empty user turn"),
    (with_turn(role="tool", content="a"), "messages", "tool result without a call"),
    (with_turn(role="assistant", content=None, tool_calls=[{}]), "messages", "broken tool call"),
    (with_turn(role="user", content="a", weight=0), "messages", "turn weights are not supported yet"),
    (with_turn(role="user", content="a", train=False), "messages", "turn weights are not supported yet"),
    ({**chat("user", "assistant"), "tools": [{"parameters": {}}]}, "messages", "broken tools"),
    ({"messages": "hello"}, "messages", "messages is not a list of turns"),
    ({"messages": ["hello"]}, "messages", "messages is not a list of turns"),
    ({"conversations": [{"from": "observation", "value": "a"}]}, "sharegpt", "no assistant turn"),
    ({"conversations": [{"from": "function_call", "value": "a"}]}, "sharegpt", "broken tool call"),
    ({"instruction": "a", "output": " "}, "alpaca", "empty answer"),
    ({"instruction": "a", "output": None}, "alpaca", "null content"),
    ({"instruction": "", "input": "", "output": "a"}, "alpaca", "empty user turn"),
    ({"instruction": "a", "output": "b", "history": [["only one"]]}, "alpaca", "history is not pairs"),
    ({"instruction": "a", "output": "b", "history": "a"}, "alpaca", "history is not pairs"),
    ({"instruction": "a", "output": "b", "history": 3}, "alpaca", "history is not pairs"),
    ({"instruction": "a", "output": "b", "group": 1.5}, "alpaca", "group is not text"),
    ({"instruction": "a"}, "alpaca", "not alpaca"),
    ({"text": "  "}, "text", "empty text"),
    ({"text": None}, "text", "null content"),
    ({}, "text", "not text"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "format", "reason"), BAD)
def test_bad_rows_name_their_reason_and_place(row: dict[str, Any], format: str, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        to_record(row, format, "data.jsonl:17")
    assert reason_of(caught.value) == reason
    assert caught.value.where == "data.jsonl:17"


def test_an_unknown_role_suggests_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'assistant'"):
        to_record(chat("user", "assisstant"), "messages", "")


def test_detection_that_fails_lists_the_keys_and_what_each_format_needs() -> None:
    with pytest.raises(DataError) as caught:
        detect({"title": 1, "body": 2})
    text = str(caught.value)
    assert "the keys are title, body" in text
    assert all(f"{format}: " in text for format in FORMATS)


def test_keys_that_are_not_used_are_known() -> None:
    row = {
        "instruction": "a",
        "input": "b",
        "output": "c",
        "group": "g",
        "meta": {},
        "system": "s",
        "id": 4,
        "empty": None,
    }
    assert ignored_keys(row, "alpaca") == {"id"}
    row = {**with_turn(role="user", content="a", name="Ann"), "meta": "no object"}
    assert ignored_keys(row, "messages") == {"turn.name", "meta"}


def test_ids_are_of_the_content_alone() -> None:
    one = to_record({"prompt": "a", "completion": "b"}, "prompt_completion", "x:1")
    same = to_record({"instruction": "a", "output": "b", "group": "g", "meta": {"k": 1}}, "alpaca", "y:2")
    other = to_record({"instruction": "a", "output": "c"}, "alpaca", "y:2")
    assert one.id == same.id != other.id
    assert len(one.id) == 16
