"""Tool calls in the ways files write them become one form; calls and results are held to belong together."""

import json
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.data.formats import detect, leftovers, parse
from luthier.data.formats_values import JOINED_CALLS, PYTHON_CALL, SORTED_RESULTS, TRAILING_RESULT
from luthier.data.records import Message

WEATHER = {"name": "weather", "description": "Tells it", "parameters": {"type": "object", "properties": {}}}
CALL = '[{"name":"weather","arguments":{"city":"Łódź","days":2}}]'
TURNS = (
    Message("user", "Ask"),
    Message("assistant", "", CALL),
    Message("tool", "rain", "", "weather"),
    Message("assistant", "It rains."),
)
ARGUMENTS = {"city": "Łódź", "days": 2}


def openai(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Ask"}, *turns], **more}


def called(*names: str, ids: bool = True) -> dict[str, Any]:
    calls = [{"function": {"name": name, "arguments": "{}"}, "type": "function"} for name in names]
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [call | ({"id": f"c{number}"} if ids else {}) for number, call in enumerate(calls)],
    }


def result(content: str, **more: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


END = {"role": "assistant", "content": "It rains."}
FUNCTION = {"name": "weather", "arguments": json.dumps(ARGUMENTS)}
SHAREGPT = [
    {"from": "human", "value": "Ask"},
    {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS}, indent=1)},
    {"from": "observation", "value": "rain"},
    {"from": "gpt", "value": "It rains."},
]
LAYOUTS: dict[str, dict[str, Any]] = {
    "sharegpt": {"conversations": SHAREGPT, "tools": json.dumps([WEATHER])},
    "sharegpt list of calls": {
        "conversations": [
            SHAREGPT[0],
            {"from": "function_call", "value": json.dumps([{"name": "weather", "arguments": ARGUMENTS}])},
            *SHAREGPT[2:],
        ],
        "tools": json.dumps([{"type": "function", "function": WEATHER}]),
    },
    "openai": openai(
        {"role": "assistant", "tool_calls": [{"id": "call_x", "type": "function", "function": FUNCTION}]},
        result("rain", tool_call_id="call_x"),
        END,
        tools=[{"type": "function", "function": WEATHER}],
    ),
    "openai, arguments as an object": openai(
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": ARGUMENTS}}]},
        result("rain", name="weather"),
        END,
        tools=[WEATHER],
    ),
    "openai functions": openai(
        {"role": "assistant", "content": None, "function_call": FUNCTION},
        {"role": "function", "name": "weather", "content": "rain"},
        END,
        functions=[WEATHER],
    ),
    "columns of a table": openai(
        {"role": "assistant", "content": "", "tool_calls": CALL, "name": None},
        {"role": "tool", "content": "rain", "tool_calls": None, "name": "weather"},
        END,
        tools=json.dumps([WEATHER]),
        chosen=[],
    ),
    "prompt and completion": {
        "prompt": openai(called("x"))["messages"][:1],
        "completion": [
            {"role": "assistant", "tool_calls": [{"function": FUNCTION}]},
            result("rain"),
            END,
        ],
        "tools": [WEATHER],
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_way_to_write_a_call_gives_the_same_record(name: str) -> None:
    row = LAYOUTS[name]
    record, repairs = parse(row, detect(row)[0], "f:1")
    assert record.messages == TURNS
    assert json.loads(record.tools) == [WEATHER]
    assert list(json.loads(record.tools)[0]) == list(WEATHER)  # the order of keys is the file's
    assert (repairs, leftovers(row, detect(row)[0])) == ([], {})


def test_results_follow_the_order_of_their_calls() -> None:
    row = openai(called("a", "b"), result("two", tool_call_id="c1"), result("one", tool_call_id="c0"), END)
    record, repairs = parse(row, "messages", "")
    assert [(turn.name, turn.content) for turn in record.messages[2:4]] == [("a", "one"), ("b", "two")]
    assert [repair.reason for repair in repairs] == [SORTED_RESULTS]
    by_name = openai(called("a", "b", ids=False), result("two", name="b"), result("one", name="a"), END)
    assert parse(by_name, "messages", "")[0] == record


def test_one_result_for_several_calls_where_the_file_has_no_ids() -> None:
    row = {"conversations": [SHAREGPT[0], {"from": "function_call", "value": "[" + CALL[1:-1] + "," + CALL[1:]}]}
    row["conversations"] += SHAREGPT[2:]
    record, _ = parse(row, "sharegpt", "")
    assert len(json.loads(record.messages[1].tool_calls)) == 2
    assert record.messages[2] == Message("tool", "rain")


REPAIRED = {
    "calls in turns of their own": (
        [SHAREGPT[0], SHAREGPT[1], SHAREGPT[1], SHAREGPT[2], SHAREGPT[2], SHAREGPT[3]],
        JOINED_CALLS,
        ["user", "assistant", "tool", "tool", "assistant"],
    ),
    "words, then a call": (
        [SHAREGPT[0], {"from": "gpt", "value": "Let me see."}, *SHAREGPT[1:]],
        JOINED_CALLS,
        ["user", "assistant", "tool", "assistant"],
    ),
    "a result at the end": (SHAREGPT[:3], TRAILING_RESULT, ["user", "assistant"]),
    "a call as Python": (
        [SHAREGPT[0], {"from": "function_call", "value": "{'name': 'weather', 'arguments': '{\"a\": 1}'}"}],
        PYTHON_CALL,
        ["user", "assistant"],
    ),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_repairs_are_named(name: str) -> None:
    turns, reason, roles = REPAIRED[name]
    record, repairs = parse({"conversations": turns}, "sharegpt", "")
    assert {repair.reason for repair in repairs} == {reason}
    assert [turn.role for turn in record.messages] == roles
    assert all(repair.before or repair.detail for repair in repairs)


def test_a_call_as_python_is_read_and_never_run() -> None:
    turns = [SHAREGPT[0], {"from": "function_call", "value": "{'name': 'weather', 'arguments': '{\"a\": 1}'}"}]
    record, _ = parse({"conversations": turns}, "sharegpt", "")
    assert record.messages[1].tool_calls == '[{"name":"weather","arguments":{"a":1}}]'
    turns[1] = {"from": "function_call", "value": "__import__('os').getcwd()"}
    with pytest.raises(DataError, match="broken tool call"):
        parse({"conversations": turns}, "sharegpt", "")


def test_a_conversation_may_end_with_a_call_and_begin_with_several() -> None:
    record, repairs = parse(openai(called("a", "b")), "messages", "")
    assert (len(record.messages), repairs) == (2, [])
    assert record.messages[1].content == ""
