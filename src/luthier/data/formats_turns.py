"""Turns as files write them, and the order that makes them a conversation.

An optional system turn, then: the user; the assistant; and so on in alternation, ending with the assistant. Where the
assistant calls tools, the results follow, one for each call, and then the assistant again.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.data.formats_tools import calls_json, read_calls
from luthier.data.formats_values import (
    JOINED_CALLS,
    SORTED_RESULTS,
    TRAILING_RESULT,
    TRAILING_USER,
    Repair,
    keys_of,
    kind_name,
    text_of,
)
from luthier.data.records import ROLES, Message

_ROLE_NAMES: Final = {
    **{"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"},
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
_SUGGESTED: Final = ("system", "user", "human", "assistant", "gpt", "tool", "observation", "function_call")
TURN_KEYS: Final = frozenset({"role", "content", "from", "value", "tool_calls", "function_call", "tool_call_id"})
_CALLED: Final = ("tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn on its way to a `Message`: calls are still values, with the ids that link results to them."""

    role: str
    content: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    name: str = ""
    call_id: str = ""

    def message(self) -> Message:
        """The turn as records hold it."""
        return Message(self.role, self.content, calls_json(self.calls) if self.calls else "", self.name)


def turn_list(value: Any, key: str, repairs: list[Repair]) -> list[Turn]:
    """The turns of a list of {role, content} or {from, value} objects, not yet checked for order.

    Raises:
        DataError: not such a list, an unknown role, content that is not text, or a broken tool call.
    """
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise DataError(f"{key} is not a list of turns: each is an object with a role and a content")
    return [read_turn(turn, repairs) for turn in value]


def speaker_of(turn: Mapping[str, Any]) -> Any:
    """The role as the turn names it, None where it does not."""
    role = turn.get("role")
    return turn.get("from") if role is None else role


def read_turn(turn: Mapping[str, Any], repairs: list[Repair]) -> Turn:
    """One turn of a list. Raises: as `turn_list`."""
    name = speaker_of(turn)
    content_key = "value" if turn.get("content") is None and "value" in turn else "content"
    calling = next((key for key in _CALLED if turn.get(key)), None)
    if name is None or not (content_key in turn or calling):
        raise DataError(f"turn without role or content: its keys are {keys_of(turn)}")
    if not isinstance(name, str):
        raise DataError(f"unknown role: {kind_name(name)}", fix="a role is a name, like user")
    role = _ROLE_NAMES.get(name)
    if role is None:
        near = difflib.get_close_matches(name.lower(), _SUGGESTED, n=1)
        raise DataError(
            f"unknown role: {name!r}",
            fix=f"did you mean {near[0]!r}?" if near else f"roles are {', '.join(ROLES)} and tool, or human and gpt",
        )
    # Training on a turn that the file marks as not to be trained on would be worse than refusing it.
    if turn.get("weight") not in (None, 1) or turn.get("train") not in (None, True):
        raise DataError(
            "turn weights are not supported yet: a turn has weight or train", fix="remove the key or the row"
        )
    if calling:
        if role != "assistant":
            raise DataError(f"tool call outside an answer: a turn of {role} has {calling}")
        content = turn.get(content_key)
        said = "" if content is None else text_of(content, content_key)
        return Turn("assistant", said, read_calls(turn[calling], repairs))
    if role == "call":
        value = turn[content_key]
        called = value if isinstance(value, dict | list) else text_of(value, content_key)
        return Turn("assistant", "", read_calls(called, repairs))
    content = text_of(turn[content_key], content_key)
    if role != "tool":
        return Turn(role, content)
    called = (turn.get("name"), turn.get("tool_call_id"))
    return Turn(role, content, [], *(item if isinstance(item, str) else "" for item in called))


def join_calls(turns: list[Turn], repairs: list[Repair]) -> list[Turn]:
    """A call that stands in a turn of its own beside the words or calls of the same answer, joined with them."""
    if not any(turn.calls for turn in turns):
        return turns
    joined: list[Turn] = []
    for number, turn in enumerate(turns, 1):
        if turn.calls and not turn.content and joined and joined[-1].role == "assistant":
            joined[-1] = replace(joined[-1], calls=joined[-1].calls + turn.calls)
            repairs.append(Repair(JOINED_CALLS, detail=f"turn {number} was joined to the one before it"))
        else:
            joined.append(turn)
    return joined


# What may follow what; "call" is an assistant turn that calls tools.
_NEXT: Final = {
    "start": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}


def check_turns(turns: list[Turn], repairs: list[Repair]) -> tuple[Message, ...]:
    """The turns in a trainable order, as messages.

    A last turn of the user or of a tool has no answer to train on: it is cut, and said in `repairs`.

    Raises:
        DataError: no answer, roles out of order, an empty turn, or calls and results that do not fit each other.
    """
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError("no assistant turn: there is nothing to learn from")
    if any(turn.calls or turn.role == "tool" for turn in turns):
        turns = _linked(join_calls(turns, repairs), repairs)
    before = "start"
    for position, turn in enumerate(turns, 1):
        role = turn.role
        if role == "system" and position == 1:
            continue
        if role not in _NEXT[before]:
            expected = " or ".join(_NEXT[before])
            raise DataError(f"roles out of order: turn {position} is {role}, expected {expected}")
        if role != "tool" and not turn.calls and not turn.content.strip():
            what = "empty answer" if role == "assistant" else "empty user turn"
            raise DataError(what, fix="fill it or remove the row")
        before = "call" if turn.calls else role
    end = len(turns)
    if turns[-1].role == "user":
        end -= 1
        repairs.append(Repair(TRAILING_USER, turns[-1].content, f"turn {end + 1} has no answer"))
    while turns[end - 1].role == "tool":
        end -= 1
        repairs.append(Repair(TRAILING_RESULT, turns[end].content, f"turn {end + 1} has no answer"))
    return tuple(turn.message() for turn in turns[:end])


def _linked(turns: list[Turn], repairs: list[Repair]) -> list[Turn]:
    """The turns with every result behind the call it belongs to, and under the name of the tool."""
    linked: list[Turn] = []
    position = 0
    while position < len(turns):
        turn = turns[position]
        if turn.role == "tool":
            raise DataError(f"tool result without a call: turn {position + 1}")
        linked.append(turn)
        position += 1
        if turn.calls:
            end = position
            while end < len(turns) and turns[end].role == "tool":
                end += 1
            results = turns[position:end]
            if end < len(turns) and not results:
                raise DataError(
                    f"tool call without a result: turn {position} calls, turn {end + 1} is {turns[end].role}"
                )
            linked += _results(turn.calls, results, position, end < len(turns), repairs)
            position = end
    return linked


def _results(
    calls: list[dict[str, Any]], results: list[Turn], position: int, goes_on: bool, repairs: list[Repair]
) -> list[Turn]:
    """The results of the calls of one turn, in the order of the calls.

    Ids say which result is which, or else names that are all different, or else the order. A file without ids may give
    one result for several calls; with ids every call has its own.
    """
    if len(results) > len(calls):
        raise DataError(f"tool result without a call: {len(results)} results after turn {position}, {len(calls)} calls")
    names = [call["name"] for call in calls]
    ids = [call["id"] for call in calls]
    if all(ids) and len(set(ids)) == len(ids) and results and all(turn.call_id for turn in results):
        places = [ids.index(turn.call_id) if turn.call_id in ids else -1 for turn in results]
        if -1 in places:
            raise DataError(f"tool result of an unknown call: {results[places.index(-1)].call_id!r}")
        if len(set(places)) < len(places):
            raise DataError(f"two results of one tool call: after turn {position}")
        if goes_on and len(places) < len(calls):
            raise DataError(f"tool call without a result: {len(calls)} calls in turn {position}, {len(places)} results")
    elif len(set(names)) == len(names) and sorted(turn.name for turn in results) == sorted(names):
        places = [names.index(turn.name) for turn in results]
    else:
        places = list(range(len(results)))
    if places != sorted(places):
        repairs.append(Repair(SORTED_RESULTS, detail=f"the results after turn {position}"))
    ordered = [turn for _, turn in sorted(zip(places, results, strict=True), key=lambda pair: pair[0])]
    if len(results) < len(calls):
        return ordered
    for turn, name in zip(ordered, names, strict=True):
        if turn.name not in ("", name):
            raise DataError(f"tool result of another tool: {turn.name!r} answers a call of {name!r}")
    return [replace(turn, name=name) for turn, name in zip(ordered, names, strict=True)]
