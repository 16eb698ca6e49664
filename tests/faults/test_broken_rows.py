"""Rows that are wrong, one by one, and what a person is told about each."""

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.curate.folder import QUARANTINED
from luthier.curate.intake import read_sources
from luthier.data.formats import detect, parse, reason_of


def user(content: Any = "Ask") -> dict[str, Any]:
    return {"role": "user", "content": content}


def bot(content: Any = "Answer") -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def tool(content: Any = "rain", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


def call(*names: str, **more: Any) -> dict[str, Any]:
    calls = [
        {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": "{}"} | more}
        for number, name in enumerate(names)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def chat(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


def pair(**more: Any) -> dict[str, Any]:
    return {"prompt": "Ask", "chosen": "Good", "rejected": "Bad"} | more


def share(role: Any, value: Any) -> dict[str, Any]:
    return {"from": role, "value": value}


HUMAN = share("human", "Ask")

# (row, format: "" to tell it from the keys, the whole message)
BROKEN: dict[str, tuple[Any, str, str]] = {
    # no format
    "no keys": ({}, "", "no known format: the keys are none"),
    "other keys": ({"title": "a", "body": "b"}, "", "no known format: the keys are title, body"),
    "one half of a pair": ({"prompt": "a", "chosen": "b"}, "", "no known format: the keys are prompt, chosen"),
    "another format than the named": ({"text": "a"}, "messages", "not messages: the keys are text"),
    "a pair that is named and is none": (chat(user(), bot()), "preference", "not preference: the keys are messages"),
    "a label without a conversation": (
        {"label": True, "text": "a"},
        "labelled",
        "not labelled: the keys are label, text",
    ),
    # turns
    "turns that are a text": (
        chat() | {"messages": "hi"},
        "",
        "messages is not a list of turns: each is an object with a role and a content",
    ),
    "a turn that is a text": (
        chat("hi"),
        "",
        "messages is not a list of turns: each is an object with a role and a content",
    ),
    "a turn without a role": (chat({"content": "a"}), "", "turn without role or content: its keys are content"),
    "a turn without content": (chat({"role": "user"}), "", "turn without role or content: its keys are role"),
    "an unknown role": (chat(user(), {"role": "asistant", "content": "a"}), "", "unknown role: 'asistant'"),
    "a role that is a number": (chat({"role": 1, "content": "a"}), "", "unknown role: the number 1"),
    "null content": (chat(user(None), bot()), "", "null content: content is null"),
    "content that is a number": (chat(user(3.5), bot()), "", "content is not text: content is the number 3.5"),
    "an image": (chat(user([{"type": "image_url"}]), bot()), "", "content is not text: content is a list"),
    "NUL": (chat(user("a\0"), bot()), "", "NUL character: in content"),
    "half a surrogate pair": (
        chat(user("ab\ud83d"), bot()),
        "",
        "broken Unicode: content holds half of a surrogate pair at character 2",
    ),
    "a masked turn": (
        chat(user(), bot() | {"weight": 0}),
        "",
        "turn weights are not supported yet: a turn has weight or train",
    ),
    # order
    "no turns": (chat(), "", "no assistant turn: there is nothing to learn from"),
    "no answer": (chat(user()), "", "no assistant turn: there is nothing to learn from"),
    "the answer first": (chat(bot(), user()), "", "roles out of order: turn 1 is assistant, expected user"),
    "two questions": (chat(user(), user(), bot()), "", "roles out of order: turn 2 is user, expected assistant"),
    "two answers": (chat(user(), bot(), bot()), "", "roles out of order: turn 3 is assistant, expected user"),
    "a late system turn": (
        chat(user(), {"role": "system", "content": "a"}, bot()),
        "",
        "roles out of order: turn 2 is system, expected assistant",
    ),
    "two system turns": (
        chat({"role": "system", "content": "a"}, user(), bot(), system="b"),
        "",
        "roles out of order: turn 2 is system, expected user",
    ),
    "an empty question": (chat(user(" "), bot()), "", "empty user turn"),
    "an empty answer": (chat(user(), bot("\n")), "", "empty answer"),
    # columns
    "history that is no pairs": (
        {"instruction": "a", "output": "b", "history": [["a"]]},
        "",
        "history is not pairs: each entry is [what the user said, what the assistant said]",
    ),
    "an empty instruction": ({"instruction": " ", "input": "", "output": "b"}, "", "empty user turn"),
    "null output": ({"instruction": "a", "output": None}, "", "null content: output is null"),
    "a group that is a list": (
        {"prompt": "a", "completion": "b", "group": []},
        "",
        "group is not text: a group is a name or a whole number",
    ),
    "blank text": ({"text": "\n"}, "", "empty text"),
    # tools
    "tools that are no JSON": (
        chat(user(), bot(), tools="[{"),
        "",
        "broken tools: Expecting property name enclosed in double quotes at column 3",
    ),
    "tools that are a number": (chat(user(), bot(), tools=3), "", "broken tools: they are the number 3"),
    "a tool without a name": (
        chat(user(), bot(), tools=[{"description": "a"}]),
        "",
        "broken tools: tool 1 has no name",
    ),
    "a call that is no JSON": (
        {"conversations": [HUMAN, share("function_call", "weather(now)")]},
        "",
        "broken tool call: Expecting value at column 1",
    ),
    "a call that is a list of texts": (
        {"conversations": [HUMAN, share("function_call", '["a"]')]},
        "",
        "broken tool call: it is a text",
    ),
    "a call without a name": (
        {"conversations": [HUMAN, share("function_call", '{"arguments": {}}')]},
        "",
        "broken tool call: it has no name",
    ),
    "no calls": (
        {"conversations": [HUMAN, share("function_call", "[]")]},
        "",
        "broken tool call: the list of calls is empty",
    ),
    "arguments that are a list": (
        chat(user(), call("f", arguments="[1]")),
        "",
        "broken tool call: the arguments of f are a list",
    ),
    "arguments that are cut": (
        chat(user(), call("f", arguments='{"a": ')),
        "",
        "broken tool call: Expecting value at column 7",
    ),
    "a call by the user": (
        chat(user() | {"tool_calls": [{"name": "f"}]}, bot()),
        "",
        "tool call outside an answer: a turn of user has tool_calls",
    ),
    "a result nobody asked for": (chat(user(), tool(), bot()), "", "tool result without a call: turn 2"),
    "two results of one call": (
        chat(user(), call("f"), tool(), tool(), bot()),
        "",
        "tool result without a call: 2 results after turn 2, 1 calls",
    ),
    "a call without a result": (
        chat(user(), call("f"), user(), bot()),
        "",
        "tool call without a result: turn 2 calls, turn 3 is user",
    ),
    "a result that is missing": (
        chat(user(), call("f", "g"), tool(tool_call_id="c1"), bot()),
        "",
        "tool call without a result: 2 calls in turn 2, 1 results",
    ),
    "a result of another call": (
        chat(user(), call("f"), tool(tool_call_id="c9"), bot()),
        "",
        "tool result of an unknown call: 'c9'",
    ),
    "a result twice": (
        chat(user(), call("f", "g"), tool(tool_call_id="c1"), tool(tool_call_id="c1"), bot()),
        "",
        "two results of one tool call: after turn 2",
    ),
    "a result of another tool": (
        chat(user(), call("f"), tool(name="g"), bot()),
        "",
        "tool result of another tool: 'g' answers a call of 'f'",
    ),
    "no answer to a result": (
        chat(user(), call("f"), tool(), user(), bot()),
        "",
        "roles out of order: turn 4 is user, expected tool or assistant",
    ),
    # pairs
    "a side that is null": (pair(rejected=None), "", "null content: rejected is null"),
    "a side that is empty": (pair(rejected=""), "", "empty answer"),
    "a side of no turns": (pair(rejected=[]), "", "no answer: rejected has no turns"),
    "sides that are the same": (pair(rejected="Good"), "", "chosen and rejected are the same"),
    "a pair without a prompt": (
        {"chosen": "a", "rejected": "b"},
        "",
        "no prompt: chosen and rejected stand alone and are no whole conversations",
    ),
    "a prompt of no turns": (
        pair(prompt=[], chosen=[bot()]),
        "",
        "no prompt: chosen and rejected stand alone and are no whole conversations",
    ),
    "a prompt that ends with an answer": (
        pair(prompt=[user(), bot()]),
        "",
        "roles out of order: the prompt ends with assistant, expected user or tool",
    ),
    "a side that begins with a tool": (
        pair(chosen=[tool()]),
        "",
        "roles out of order: chosen begins with tool, expected assistant",
    ),
    "conversations that share nothing": (
        {"chosen": [user("a"), bot()], "rejected": [user("b"), bot()]},
        "",
        "no common beginning: chosen and rejected start with different turns",
    ),
    "one whole conversation": (
        {"chosen": [user("a"), bot()], "rejected": "b"},
        "",
        "no common beginning: rejected is not a whole conversation as the other is",
    ),
    "a prompt that is not in them": (
        pair(chosen=[user("a"), bot("b")], rejected=[user("a"), bot("c")]),
        "",
        "prompt is not the beginning: no turn that chosen and rejected begin with has its text",
    ),
    "a prompt of other turns": (
        pair(prompt=[user("x")], chosen=[user("a"), bot("b")], rejected=[user("a"), bot("c")]),
        "",
        "prompt is not the beginning: chosen or rejected begins with other turns",
    ),
    "answers without ratings": (
        {"instruction": "a", "completions": [{"response": "b"}]},
        "",
        "completions without ratings: each has a response and an overall_score, rating or score",
    ),
    "a rating that is a word": (
        {"instruction": "a", "completions": [{"response": "b", "rating": "N/A"}]},
        "",
        "completions without ratings: rating is a text",
    ),
    "answers rated the same": (
        {"instruction": "a", "completions": [{"response": "b", "rating": 1}] * 2},
        "",
        "no preference: all completions have the same rating",
    ),
    # labels
    "a label that is missing": (chat(user(), bot(), label=None), "", "no label: label is null"),
    "a label that is a word": (chat(user(), bot(), label="spam"), "labelled", "no label: label is a text"),
    "a label without an answer": (chat(user(), label=True), "", "no assistant turn: there is nothing to learn from"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_says_what_is_wrong(name: str) -> None:
    row, format, message = BROKEN[name]
    with pytest.raises(DataError) as caught:
        parse(row, format or detect(row)[0], "data.jsonl:17")
    assert caught.value.what == message
    assert caught.value.where in ("data.jsonl:17", "")  # "" where the format could not be told


def test_the_fix_of_a_call_shows_one() -> None:
    with pytest.raises(DataError, match=r'a call is \{"name"'):
        parse({"conversations": [HUMAN, share("function_call", "x")]}, "sharegpt", "")


def test_none_of_them_is_lost(tmp_path: Path) -> None:
    rows = [row for row, format, _ in BROKEN.values() if not format]
    messages = [message for _, format, message in BROKEN.values() if not format]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    intake = read_sources([path])
    stored = list(intake.rows)
    assert [row.kind for row in stored] == [QUARANTINED] * len(rows)
    assert [json.loads(row.content) for row in stored] == [{"row": row} for row in rows]
    assert [entry.record for entry in intake.entries] == [row.id for row in stored]
    assert [entry.reason for entry in intake.entries] == [reason_of(DataError(message)) for message in messages]
    assert [entry.detail.partition("\n")[0] for entry in intake.entries] == messages
    assert {entry.action for entry in intake.entries} == {"drop"}
