"""The row layouts that datasets come in, how one is told from another, and how a row becomes a `Record`.

A `DataError` raised here says its reason first, then ": " and the details; `reason_of` gives the reason alone, which
is what skipped rows are counted under.
"""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.data.records import ROLES, Message, Record

FORMATS: Final = ("alpaca", "sharegpt", "messages", "prompt_completion", "text")
TRAILING_USER: Final = "trailing user turn cut"

_NEEDS: Final = {
    "alpaca": "the keys instruction and output (input, system and history are optional)",
    "sharegpt": "the key conversations: a list of {from, value}",
    "messages": "the key messages: a list of {role, content}",
    "prompt_completion": "the keys prompt and completion, or question and answer",
    "text": "the key text",
}
_ROLE_NAMES: Final = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_TOOL_ROLES: Final = {"tool", "function", "observation", "function_call", "tool_call", "function_response", "ipython"}
_TURN_KEYS: Final = {"role", "content", "from", "value"}
# Each tuple: the key's spellings, first one present wins.
_INSTRUCTION: Final = ("instruction",)
_INPUT: Final = ("input", "context")
_OUTPUT: Final = ("output", "response")
_PROMPT: Final = ("prompt", "question")
_COMPLETION: Final = ("completion", "response", "answer", "output")
_TURN_LISTS: Final = {"sharegpt": ("conversations", "conversation"), "messages": ("messages",)}


def reason_of(error: DataError) -> str:
    """The reason of a row's error without its details: what skipped rows are counted under."""
    return error.what.partition(":")[0]


def _key(row: Mapping[str, Any], spellings: Sequence[str]) -> str | None:
    """The first spelling that the row has, or None."""
    return next((name for name in spellings if name in row), None)


def _used_keys(row: Mapping[str, Any], format: str) -> tuple[str, ...]:
    """The keys of the row that make it this format; empty when it is not this format."""
    match format:
        case "sharegpt" | "messages":
            needed = (_key(row, _TURN_LISTS[format]),)
        case "alpaca":
            needed = (_key(row, _INSTRUCTION), _key(row, _OUTPUT))
        case "prompt_completion":
            needed = (_key(row, _PROMPT), _key(row, _COMPLETION))
        case _:
            needed = (_key(row, ("text",)),)
    return tuple(key for key in needed if key is not None) if None not in needed else ()


def detect(row: Mapping[str, Any]) -> tuple[str, str]:
    """The format of a row and why, as in ("alpaca", "alpaca: has the keys instruction and output").

    Raises:
        DataError: no format fits; the text lists the keys seen and what each format needs.
    """
    for format in ("messages", "sharegpt", "alpaca", "prompt_completion", "text"):
        if keys := _used_keys(row, format):
            return format, f"{format}: has the key{'s' if len(keys) > 1 else ''} {' and '.join(keys)}"
    if "chosen" in row and "rejected" in row:
        raise DataError(
            "preference pairs (the keys chosen and rejected) are not supported yet",
            fix="give demonstrations: one good answer a prompt",
        )
    seen = ", ".join(map(str, row)) if row else "none"
    needs = "".join(f"\n      {format}: {need}" for format, need in _NEEDS.items())
    raise DataError(
        f"no known format: the keys are {seen}",
        fix=f"rename the keys so that one of these fits, or set `type` to the one you meant{needs}",
    )


def to_record(row: Mapping[str, Any], format: str, where: str, *, repairs: Counter[str] | None = None) -> Record:
    """Read one row as `format`, one of `FORMATS`. Contents are kept as they are, to the character.

    A conversation has an optional system turn, then user and assistant turns in alternation, starting with the user
    and ending with the assistant. A last turn of the user has no answer to train on: it is cut, and counted in
    `repairs` under `TRAILING_USER`. "group" (text or whole number) and "meta" (an object) are kept.

    Raises:
        DataError: the row does not fit; see `reason_of`.
    """
    assert format in FORMATS, format
    try:
        group, meta = _group(row), row.get("meta")
        meta = meta if isinstance(meta, dict) else {}
        if not _used_keys(row, format):
            raise DataError(
                f"not {format}: the keys are {', '.join(map(str, row)) or 'none'}",
                fix=f"{format} needs {_NEEDS[format]}",
            )
        if format == "text":
            text = _text(row["text"], "text")
            if not text.strip():
                raise DataError("empty text")
            return Record(text=text, where=where, group=group, meta=meta)
        messages, cut = _check_turns(_turns(row, format))
    except DataError as error:
        raise DataError(error.what, where=where, fix=error.fix) from None
    if cut and repairs is not None:
        repairs[TRAILING_USER] += 1
    return Record(messages=messages, where=where, group=group, meta=meta)


def ignored_keys(row: Mapping[str, Any], format: str) -> set[str]:
    """The keys with a value that `to_record` does not look at; those inside a turn are written "turn.KEY"."""
    used = {*_used_keys(row, format), "group", "meta" if isinstance(row.get("meta"), dict) else ""}
    if format != "text":
        used |= {"system", "tools"}
    if format == "alpaca":
        used |= {_key(row, _INPUT) or "", "history"}
    ignored = {str(key) for key, value in row.items() if key not in used and value is not None}
    for key in used & {"messages", "conversations", "conversation"}:
        turns = row[key] if isinstance(row[key], list) else []
        extra = (name for turn in turns if isinstance(turn, dict) for name, value in turn.items() if value is not None)
        ignored |= {f"turn.{name}" for name in extra if name not in _TURN_KEYS}
    return ignored


def _group(row: Mapping[str, Any]) -> str:
    group = row.get("group")
    if group is None:
        return ""
    if isinstance(group, bool) or not isinstance(group, str | int):
        raise DataError("group is not text: a group is a name or a whole number")
    return str(group)


def _turns(row: Mapping[str, Any], format: str) -> list[Message]:
    """The row's turns with our role names, in the file's order, not yet checked for order."""
    if row.get("tools") not in (None, "", "[]", []):
        raise _tools_error()
    turns: list[Message] = []
    if row.get("system") not in (None, ""):
        turns.append(Message("system", _text(row["system"], "system")))
    if format in _TURN_LISTS:
        key = _key(row, _TURN_LISTS[format])
        assert key is not None
        return turns + _turn_list(row[key], key)
    if format == "prompt_completion":
        prompt, completion = _key(row, _PROMPT), _key(row, _COMPLETION)
        assert prompt is not None and completion is not None
        for key, role in ((prompt, "user"), (completion, "assistant")):
            if isinstance(row[key], list) and row[key]:
                turns += _turn_list(row[key], key)
            else:
                turns.append(Message(role, _text(row[key], key)))
        return turns
    history = row.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise DataError("history is not pairs: each entry is [what the user said, what the assistant said]")
        turns.append(Message("user", _text(pair[0], "history")))
        turns.append(Message("assistant", _text(pair[1], "history")))
    extra, output = _key(row, _INPUT), _key(row, _OUTPUT)
    assert output is not None
    asked = [_text(row["instruction"] or "", "instruction")]
    if extra is not None and row[extra] is not None:
        asked.append(_text(row[extra], extra))
    turns.append(Message("user", "\n\n".join(part for part in asked if part.strip())))
    turns.append(Message("assistant", _text(row[output], output)))
    return turns


def _turn_list(value: Any, key: str) -> list[Message]:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise DataError(f"{key} is not a list of turns: each is an object with a role and a content")
    return [_turn(turn) for turn in value]


def _turn(turn: Mapping[str, Any]) -> Message:
    name, content_key = turn.get("role", turn.get("from")), "content" if "content" in turn else "value"
    if name is None or content_key not in turn:
        raise DataError(f"turn without role or content: its keys are {', '.join(map(str, turn)) or 'none'}")
    if not isinstance(name, str):
        raise DataError(f"unknown role: {_kind(name)}", fix="a role is a name, like user")
    if name in _TOOL_ROLES or turn.get("tool_calls") or turn.get("function_call"):
        raise _tools_error()
    if name not in _ROLE_NAMES:
        near = difflib.get_close_matches(name.lower(), _ROLE_NAMES, n=1)
        raise DataError(
            f"unknown role: {name!r}",
            fix=f"did you mean {near[0]!r}?" if near else f"roles are {', '.join(ROLES)}, or human and gpt",
        )
    # Training on a turn that the file marks as not to be trained on would be worse than refusing it.
    if turn.get("weight") not in (None, 1) or turn.get("train") not in (None, True):
        raise DataError(
            "turn weights are not supported yet: a turn has weight or train", fix="remove the key or the row"
        )
    return Message(_ROLE_NAMES[name], _text(turn[content_key], content_key))


def _tools_error() -> DataError:
    return DataError(
        "tool calls are not supported yet", fix="remove the row, or set on_bad_row: skip to leave such rows out"
    )


def _text(value: Any, key: str) -> str:
    """The value as text. A list of {"type": "text", "text": ...} parts is joined without a separator."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(part, dict) and part.get("type") == "text" for part in value)
    ):
        value = "".join(_text(part.get("text"), key) for part in value)
    if value is None:
        raise DataError(f"null content: {key} is null")
    if not isinstance(value, str):
        raise DataError(f"content is not text: {key} is {_kind(value)}", fix="only text can be trained on")
    if "\0" in value:
        raise DataError(f"NUL character: in {key}", fix="remove it; it is the mark of a damaged or binary file")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"broken Unicode: {key} holds half of a surrogate pair at character {error.start}") from None
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__


def _check_turns(turns: list[Message]) -> tuple[tuple[Message, ...], bool]:
    """The turns in a trainable order, and whether a last user turn was cut."""
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError("no assistant turn: there is nothing to learn from")
    start = 1 if turns[0].role == "system" else 0
    for position, turn in enumerate(turns[start:], start + 1):
        expected = "user" if (position - start) % 2 else "assistant"
        if turn.role != expected:
            raise DataError(f"roles out of order: turn {position} is {turn.role}, expected {expected}")
        if not turn.content.strip():
            raise DataError(
                "empty answer" if turn.role == "assistant" else "empty user turn", fix="fill it or remove the row"
            )
    cut = turns[-1].role == "user"
    return tuple(turns[:-1] if cut else turns), cut
