"""A record as a row of another format, or the reason why that format cannot hold it.

alpaca               instruction, input, output, and system and history where there are any
sharegpt             conversations of {from, value}, calls as function_call and results as observation turns; tools
messages             messages of {role, content}, calls and results as OpenAI writes them; tools
prompt_completion    prompt and completion, two texts
preference           prompt, chosen and rejected, each a list of {role, content} (TRL); tools
preference_sharegpt  conversations, and chosen and rejected as one turn each (LLaMA-Factory); tools
kto                  prompt and completion as lists of {role, content}, and a label (TRL); tools
kto_messages         messages and a label (LLaMA-Factory); tools
text                 text
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from luthier.data.formats_tools import wrapped
from luthier.data.formats_values import compact
from luthier.data.records import Message, Record

Row = dict[str, Any]

TOOL_CALLS = "tool calls"
SYSTEM = "system turn"
EMPTY_SYSTEM = "empty system turn"
ROUNDS = "more than one round"
WORDS = "words beside a tool call"
RESULTS = "several tool results in a row"
SHARED_RESULT = "one tool result for several calls"
LONG_SIDE = "chosen or rejected of more than one turn"
_KINDS: Final = {
    "conversation": "conversation",
    "preference": "preference pair",
    "labelled": "labelled answer",
    "text": "plain text",
}
_SHAREGPT: Final = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


class CannotHold(Exception):
    """The format has no place for something in the record; the text is the reason it is counted under."""


def _alpaca(record: Record) -> Row:
    _without_tools(record)
    turns = list(record.messages)
    row: Row = {"instruction": turns[-2].content, "input": "", "output": turns[-1].content}
    if turns[0].role == "system":
        if not turns[0].content:
            raise CannotHold(EMPTY_SYSTEM)
        row["system"] = turns.pop(0).content
    if rounds := turns[:-2]:
        row["history"] = [[one.content, other.content] for one, other in zip(rounds[::2], rounds[1::2], strict=True)]
    return row


def _prompt_completion(record: Record) -> Row:
    _without_tools(record)
    if record.messages[0].role == "system":
        raise CannotHold(SYSTEM)
    if len(record.messages) > 2:
        raise CannotHold(ROUNDS)
    return {"prompt": record.messages[0].content, "completion": record.messages[1].content}


def _without_tools(record: Record) -> None:
    if record.tools or any(turn.tool_calls or turn.role == "tool" for turn in record.messages):
        raise CannotHold(TOOL_CALLS)


def _sharegpt(record: Record) -> Row:
    return {"conversations": _share(record.messages)} | _share_tools(record)


def _preference_sharegpt(record: Record) -> Row:
    if len(record.chosen) != 1 or len(record.rejected) != 1:
        raise CannotHold(LONG_SIDE)
    row: Row = {"conversations": _share(record.messages)}
    return row | {"chosen": _share(record.chosen)[0], "rejected": _share(record.rejected)[0]} | _share_tools(record)


def _share(turns: Sequence[Message]) -> list[Row]:
    shared: list[Row] = []
    for index, turn in enumerate(turns):
        if turn.tool_calls:
            if turn.content:
                raise CannotHold(WORDS)
            calls = json.loads(turn.tool_calls)
            shared.append({"from": "function_call", "value": compact(calls[0] if len(calls) == 1 else calls)})
            continue
        if turn.role == "tool" and index and turns[index - 1].role == "tool":
            raise CannotHold(RESULTS)
        shared.append({"from": _SHAREGPT[turn.role], "value": turn.content})
    return shared


def _share_tools(record: Record) -> Row:
    return {"tools": record.tools} if record.tools else {}


def _messages(record: Record) -> Row:
    return {"messages": _Openai().turns(record.messages)} | _openai_tools(record)


def _kto_messages(record: Record) -> Row:
    return _messages(record) | {"label": record.label}


def _kto(record: Record) -> Row:
    turns = _Openai().turns(record.messages)
    return {"prompt": turns[:-1], "completion": turns[-1:], "label": record.label} | _openai_tools(record)


def _preference(record: Record) -> Row:
    prompt = _Openai()
    row: Row = {"prompt": prompt.turns(record.messages)}
    return row | {
        "chosen": _Openai(prompt.calls).turns(record.chosen),
        "rejected": _Openai(prompt.calls).turns(record.rejected),
        **_openai_tools(record),
    }


class _Openai:
    """Turns with calls as OpenAI writes them: numbered, arguments as JSON in a text, each result with its call's id."""

    def __init__(self, calls: int = 0) -> None:
        self.calls = calls  # numbered so far
        self.open: list[str] = []  # ids whose results are due

    def turns(self, turns: Sequence[Message]) -> list[Row]:
        return [self._turn(turn, turns[index + 1 : index + 2]) for index, turn in enumerate(turns)]

    def _turn(self, turn: Message, following: Sequence[Message]) -> Row:
        row: Row = {"role": turn.role, "content": turn.content}
        if turn.role == "tool":
            if len(self.open) > 1 and not (following and following[0].role == "tool"):
                raise CannotHold(SHARED_RESULT)
            if turn.name:
                row["name"] = turn.name
            if self.open:  # none, where the call is in another part of the row
                row["tool_call_id"] = self.open.pop(0)
        elif turn.tool_calls:
            row["tool_calls"] = [self._call(call) for call in json.loads(turn.tool_calls)]
            self.open = [call["id"] for call in row["tool_calls"]]
        return row

    def _call(self, call: Row) -> Row:
        self.calls += 1
        function = {"name": call["name"], "arguments": compact(call["arguments"])}
        return {"id": f"call_{self.calls}", "type": "function", "function": function}


def _openai_tools(record: Record) -> Row:
    return {"tools": [wrapped(tool) for tool in json.loads(record.tools)]} if record.tools else {}


def _text(record: Record) -> Row:
    return {"text": record.text}


# Target → (the kind of record it holds, the format it is read as, how a row is made).
TARGETS: Final[dict[str, tuple[str, str, Callable[[Record], Row]]]] = {
    "alpaca": ("conversation", "alpaca", _alpaca),
    "sharegpt": ("conversation", "sharegpt", _sharegpt),
    "messages": ("conversation", "messages", _messages),
    "prompt_completion": ("conversation", "prompt_completion", _prompt_completion),
    "preference": ("preference", "preference", _preference),
    "preference_sharegpt": ("preference", "preference", _preference_sharegpt),
    "kto": ("labelled", "labelled", _kto),
    "kto_messages": ("labelled", "labelled", _kto_messages),
    "text": ("text", "text", _text),
}


def row_of(record: Record, to: str) -> Row:
    """The content of a record as a row of a target.

    Raises:
        CannotHold: the target has no place for it.
    """
    kind, _, make = TARGETS[to]
    if record.kind != kind:
        raise CannotHold(_KINDS[record.kind])
    return make(record)
