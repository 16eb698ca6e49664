"""The row layouts that datasets come in, how one is told from another, and how a row becomes a `Record`.

A `DataError` raised here says its reason first, then ": " and the details; `reason_of` gives the reason alone, which
is what skipped rows are counted under.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.data.formats_layouts import (
    CONVERSATIONS,
    INPUT,
    TURN_LISTS,
    conversation_turns,
    is_filled,
    key_of,
    needed_keys,
)
from luthier.data.formats_pairs import (
    LABEL,
    is_label,
    is_whole,
    labelled_keys,
    preference_keys,
    prompt_keys,
    read_labelled,
    read_preference,
)
from luthier.data.formats_tools import TOOLS, read_tools
from luthier.data.formats_turns import TURN_KEYS, check_turns, speaker_of
from luthier.data.formats_values import TRAILING_USER as TRAILING_USER
from luthier.data.formats_values import Repair, keys_of, parse_json, text_of
from luthier.data.records import Record

FORMATS: Final = ("alpaca", "sharegpt", "messages", "prompt_completion", "text")  # what training reads
READABLE: Final = (*FORMATS, "preference", "labelled")  # what curation reads

_NEEDS: Final = {
    "alpaca": "the keys instruction and output (input, system and history are optional)",
    "sharegpt": "the key conversations: a list of {from, value}",
    "messages": "the key messages: a list of {role, content}",
    "prompt_completion": "the keys prompt and completion, or question and answer",
    "text": "the key text",
    "preference": "the keys chosen and rejected, with a prompt or as whole conversations",
    "labelled": "the key label (true or false) beside those of a conversation",
}
_TOOL_ROLES: Final = ("tool", "function", "observation", "function_response", "ipython")
_LISTS: Final = (*TURN_LISTS["messages"], *TURN_LISTS["sharegpt"], "prompt", "completion", "chosen", "rejected")
_NEVER: Final = (None, "", "[]", [], {}, "{}")  # values of a column that say nothing


def reason_of(error: DataError) -> str:
    """The reason of a row's error without its details: what skipped rows are counted under."""
    return error.what.partition(":")[0]


def _used_keys(row: Mapping[str, Any], format: str) -> tuple[str, ...]:
    """The keys of the row that make it this format; empty when it is not this format."""
    match format:
        case "preference":
            return preference_keys(row)
        case "labelled":
            return labelled_keys(row)
        case _:
            return needed_keys(row, format)


def detect(row: Mapping[str, Any]) -> tuple[str, str]:
    """The format of a row and why, as in ("alpaca", "alpaca: has the keys instruction and output").

    Raises:
        DataError: no format fits; the text lists the keys seen and what each format needs.
    """
    fitting: list[tuple[str, tuple[str, ...]]] = []
    if keys := preference_keys(row):
        return "preference", _why("preference", keys)
    if any(key in row for key in LABEL) and (keys := labelled_keys(row)) and is_label(row[keys[-1]]):
        fitting.append(("labelled", keys))
    for format, keys in _layouts(tuple(row)):
        fitting.append((format, keys))
        if all(is_filled(row, key) for key in keys):
            break
    if fitting:
        # A file of mixed rows has the columns of all of them: what is filled decides.
        format, keys = next(
            (fit for fit in fitting if fit[0] == "labelled" or all(is_filled(row, key) for key in fit[1])), fitting[0]
        )
        return format, _why(format, keys)
    needs = "".join(f"\n      {format}: {need}" for format, need in _NEEDS.items())
    raise DataError(
        f"no known format: the keys are {keys_of(row)}",
        fix=f"rename the keys so that one of these fits, or set `type` to the one you meant{needs}",
    )


@lru_cache(maxsize=1024)  # rows of a file have the same columns
def _layouts(columns: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The conversation formats and text that rows with these columns may be, each with the columns that say so."""
    row = dict.fromkeys(columns)
    found = ((format, needed_keys(row, format)) for format in (*CONVERSATIONS, "text"))
    return tuple((format, keys) for format, keys in found if keys)


@lru_cache(maxsize=1024)
def _why(format: str, keys: tuple[str, ...]) -> str:
    return f"{format}: has the key{'s' if len(keys) > 1 else ''} {' and '.join(keys)}"


def is_filled_as(row: Mapping[str, Any], format: str) -> bool:
    """Whether a row lacks the columns of a format or has values in all of them: nothing says it is another format."""
    return all(is_filled(row, key) for key in _used_keys(row, format))


def parse(row: Mapping[str, Any], format: str, where: str) -> tuple[Record, list[Repair]]:
    """Read one row as `format`, one of `READABLE`. Contents are kept as they are, to the character.

    A conversation has an optional system turn, then user and assistant turns in alternation, starting with the user
    and ending with the assistant; tool calls and their results stand inside an answer. "group" (text or whole number)
    and "meta" (an object) are kept.

    Returns:
        the record, and what had to be changed to make it one.

    Raises:
        DataError: the row does not fit; see `reason_of`.
    """
    assert format in READABLE, format
    repairs: list[Repair] = []
    try:
        fields: dict[str, Any] = {"where": where, "group": _group(row), "meta": meta_of(row) or {}}
        if not _used_keys(row, format):
            raise DataError(f"not {format}: the keys are {keys_of(row)}", fix=f"{format} needs {_NEEDS[format]}")
        if format == "text":
            text = text_of(row["text"], "text")
            if not text.strip():
                raise DataError("empty text")
            return Record(text=text, **fields), repairs
        fields["tools"] = read_tools(row)
        if format == "preference":
            messages, chosen, rejected = read_preference(row, repairs)
            record = Record(messages=messages, chosen=chosen, rejected=rejected, **fields)
        elif format == "labelled":
            messages, label = read_labelled(row, repairs)
            record = Record(messages=messages, label=label, **fields)
        else:
            record = Record(messages=check_turns(conversation_turns(row, format, repairs), repairs), **fields)
    except DataError as error:
        raise DataError(error.what, where=where, fix=error.fix) from None
    return record, list(dict.fromkeys(repairs)) if len(repairs) > 1 else repairs


def to_record(row: Mapping[str, Any], format: str, where: str, *, repairs: Counter[str] | None = None) -> Record:
    """The record of `parse`; what had to be changed is counted in `repairs` by reason, as under `TRAILING_USER`."""
    record, made = parse(row, format, where)
    if repairs is not None:
        repairs.update({repair.reason for repair in made})
    return record


def meta_of(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The "meta" of a row, an object or, as tables hold it, an object as JSON text; None when it is neither."""
    meta = row.get("meta")
    if isinstance(meta, str) and meta.startswith("{"):
        meta, _ = parse_json(meta)
    return meta if isinstance(meta, dict) else None


def _group(row: Mapping[str, Any]) -> str:
    group = row.get("group")
    if group is None:
        return ""
    if isinstance(group, bool) or not isinstance(group, str | int):
        raise DataError("group is not text: a group is a name or a whole number")
    return text_of(str(group), "group")


def _read_keys(row: Mapping[str, Any], format: str) -> set[str]:
    """The columns that `parse` looks at."""
    used = {*_used_keys(row, format), "group"}
    if meta_of(row) is not None:
        used.add("meta")
    if format != "text":
        used |= {"system", *TOOLS}
    match format:
        case "alpaca":
            used |= {key_of(row, INPUT) or "", "history"}
        case "labelled" if "instruction" in used:
            used |= {key_of(row, INPUT) or "", "history"}
        case "preference" if "completions" in used:
            used -= {"completions"}  # two of them are read; the rest is not to be lost
            used |= {key_of(row, INPUT) or "", "history"}
        case "preference":
            used |= set(prompt_keys(row))
            if is_whole(row) and row.get("messages") == row.get("chosen"):
                used.add("messages")  # UltraFeedback repeats the chosen conversation
    return used


def _turn_extras(row: Mapping[str, Any], used: set[str]) -> dict[str, dict[str, Any]]:
    """What turns carry besides what is read: "messages.0" → its other keys."""
    extras: dict[str, dict[str, Any]] = {}
    if not any(isinstance(value, list | dict) for value in row.values()):
        return extras
    for key in _LISTS:
        if key not in used or not isinstance(value := row.get(key), list | dict):
            continue
        for index, turn in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(turn, dict) and not turn.keys() <= TURN_KEYS:
                named = speaker_of(turn) in _TOOL_ROLES
                extra = {
                    str(name): item
                    for name, item in turn.items()
                    if name not in TURN_KEYS and item is not None and not (named and name == "name")
                }
                if extra:
                    extras[f"{key}.{index}"] = extra
    return extras


def leftovers(row: Mapping[str, Any], format: str) -> dict[str, Any]:
    """The columns with a value that `parse` does not look at; what it leaves in turns is under "turns"."""
    used = _read_keys(row, format)
    left = {str(key): value for key, value in row.items() if key not in used and value not in _NEVER}
    if extras := _turn_extras(row, used):
        left["turns" if "turns" not in left else "turns (keys)"] = extras
    return left


def ignored_keys(row: Mapping[str, Any], format: str) -> set[str]:
    """The keys with a value that `parse` does not look at; those inside a turn are written "turn.KEY"."""
    used = _read_keys(row, format)
    ignored = {str(key) for key, value in row.items() if key not in used and value is not None}
    return ignored | {f"turn.{name}" for extra in _turn_extras(row, used).values() for name in extra}
