"""Where each layout keeps its turns: the columns, their spellings, and the turns read from them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.data.formats_turns import Turn, turn_list
from luthier.data.formats_values import Repair, text_of

# Each tuple: the column's spellings, first one present wins.
INSTRUCTION: Final = ("instruction",)
INPUT: Final = ("input", "context")
OUTPUT: Final = ("output", "response")
PROMPT: Final = ("prompt", "question")
COMPLETION: Final = ("completion", "response", "answer", "output")
TURN_LISTS: Final = {"sharegpt": ("conversations", "conversation"), "messages": ("messages",)}

CONVERSATIONS: Final = ("messages", "sharegpt", "alpaca", "prompt_completion")  # in the order they are tried


def key_of(row: Mapping[str, Any], spellings: tuple[str, ...]) -> str | None:
    """The first spelling that the row has, or None."""
    return _key_of(tuple(row), spellings)


@lru_cache(maxsize=1024)  # rows of a file have the same columns, and every row is asked for a dozen
def _key_of(columns: tuple[str, ...], spellings: tuple[str, ...]) -> str | None:
    return next((name for name in spellings if name in columns), None)


def is_filled(row: Mapping[str, Any], key: str) -> bool:
    """Whether a column has a value: tables of mixed rows have null, an empty list or no text in the others' columns."""
    value = row.get(key)
    return value not in (None, []) and not (key == "text" and value == "")


def needed_keys(row: Mapping[str, Any], format: str) -> tuple[str, ...]:
    """The columns that make a row this conversation format, or text; empty when it is not."""
    return _needed_keys(tuple(row), format)


@lru_cache(maxsize=1024)
def _needed_keys(columns: tuple[str, ...], format: str) -> tuple[str, ...]:
    match format:
        case "sharegpt" | "messages":
            needed = (_key_of(columns, TURN_LISTS[format]),)
        case "alpaca":
            needed = (_key_of(columns, INSTRUCTION), _key_of(columns, OUTPUT))
        case "prompt_completion":
            needed = (_key_of(columns, PROMPT), _key_of(columns, COMPLETION))
        case _:
            needed = (_key_of(columns, ("text",)),)
    return tuple(key for key in needed if key is not None) if None not in needed else ()


def system_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The system column as a turn, if it is filled."""
    return [Turn("system", text_of(row["system"], "system"))] if row.get("system") not in (None, "") else []


def conversation_turns(row: Mapping[str, Any], format: str, repairs: list[Repair]) -> list[Turn]:
    """The turns of a row that has the columns of `format`, one of `CONVERSATIONS`, not yet checked for order.

    Raises:
        DataError: a column does not hold what it should.
    """
    if format in TURN_LISTS:
        (key,) = needed_keys(row, format)
        return system_turns(row) + turn_list(row[key], key, repairs)
    if format == "prompt_completion":
        prompt, completion = needed_keys(row, format)
        return [
            *system_turns(row),
            *text_or_turns(row[prompt], prompt, "user", repairs),
            *text_or_turns(row[completion], completion, "assistant", repairs),
        ]
    output = key_of(row, OUTPUT)
    assert output is not None
    return [*alpaca_prompt(row), Turn("assistant", text_of(row[output], output))]


def text_or_turns(value: Any, key: str, role: str, repairs: list[Repair]) -> list[Turn]:
    """A column that holds either one text or a list of turns."""
    parts = isinstance(value, list) and value and isinstance(value[0], dict) and "text" in value[0]
    if isinstance(value, list) and value and not parts:
        return turn_list(value, key, repairs)
    return [Turn(role, text_of(value, key))]


def alpaca_prompt(row: Mapping[str, Any]) -> list[Turn]:
    """System, history, and what is asked, of a row with an instruction."""
    turns = system_turns(row)
    history = row.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise DataError("history is not pairs: each entry is [what the user said, what the assistant said]")
        turns.append(Turn("user", text_of(pair[0], "history")))
        turns.append(Turn("assistant", text_of(pair[1], "history")))
    extra = key_of(row, INPUT)
    asked = [text_of(row["instruction"] or "", "instruction")]
    if extra is not None and row[extra] is not None:
        asked.append(text_of(row[extra], extra))
    turns.append(Turn("user", "\n\n".join(part for part in asked if part.strip())))
    return turns
