"""Values of a row as text and as JSON, checked; and what a reader says when it repairs something."""

import json
from dataclasses import dataclass
from typing import Any, Final

from luthier.core.errors import DataError

DEPTH: Final = 100  # of lists and objects in one another; json itself gives up at some 900, depending on the caller
TOO_DEEP: Final = "nested too deeply"
TRAILING_USER: Final = "trailing user turn cut"
TRAILING_RESULT: Final = "trailing tool result cut"
JOINED_CALLS: Final = "tool calls of one turn joined"
SORTED_RESULTS: Final = "tool results put in the order of their calls"
PYTHON_CALL: Final = "tool call written as Python read as JSON"


@dataclass(frozen=True, slots=True)
class Repair:
    """A change that made a row usable.

    Attributes:
        reason: one of the texts above: what repairs of its kind are counted under.
        before: the text that was cut or written otherwise.
        detail: which turn, for people.
    """

    reason: str
    before: str = ""
    detail: str = ""


def text_of(value: Any, key: str) -> str:
    """The value as text. A list of {"type": "text", "text": ...} parts is joined without a separator.

    Raises:
        DataError: null, not text, or text that UTF-8 cannot hold.
    """
    if (
        isinstance(value, list)
        and value
        and all(isinstance(part, dict) and part.get("type") == "text" for part in value)
    ):
        value = "".join(text_of(part.get("text"), key) for part in value)
    if value is None:
        raise DataError(f"null content: {key} is null")
    if not isinstance(value, str):
        raise DataError(f"content is not text: {key} is {kind_name(value)}", fix="only text can be trained on")
    if "\0" in value:
        raise DataError(f"NUL character: in {key}", fix="remove it; it is the mark of a damaged or binary file")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"broken Unicode: {key} holds half of a surrogate pair at character {error.start}"
            ) from None
    return value


def kind_name(value: Any) -> str:
    """What a value is, for people."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if value is None or isinstance(value, str):
        return "null" if value is None else "a text"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__


def keys_of(row: Any) -> str:
    """The keys of an object, for people."""
    return ", ".join(map(str, row)) or "none"


def compact(value: Any) -> str:
    """JSON on one line with the keys in the order they came in, which is the order a model would write them in."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def parse_json(text: str) -> tuple[Any, str]:
    """(value, "") or (None, why it is not JSON, or nested more deeply than `DEPTH`)."""
    try:
        value = json.loads(text)
        deep = text.count("[") + text.count("{") > DEPTH and is_deep(value)
        return (None, TOO_DEEP) if deep else (value, "")
    except json.JSONDecodeError as error:
        return None, f"{error.msg} at column {error.colno}"
    except ValueError as error:  # a number with thousands of digits
        return None, str(error)
    except RecursionError:
        return None, TOO_DEEP


def is_deep(value: Any) -> bool:
    """Whether lists and objects are nested more deeply than `DEPTH`: what is read has to be written again."""
    level, depth = [value], 0
    while level and depth <= DEPTH:
        level = [
            item
            for inner in level
            if isinstance(inner, list | dict)
            for item in (inner.values() if isinstance(inner, dict) else inner)
        ]
        depth += 1
    return bool(level)
