"""Values of an event, read without trusting that they are there or of the right kind."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def number(fields: Mapping[str, Any], name: str) -> float | None:
    """The field as a finite number, or None if it is missing or something else."""
    value = fields.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def pair(value: Any) -> tuple[float, float] | None:
    """Two numbers, or None."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(item, int | float) for item in value):
        return (float(value[0]), float(value[1]))
    return None


def numbers(value: Any) -> tuple[float, ...]:
    """The numbers of a list; empty if it is no list, or one of them is no finite number."""
    if not isinstance(value, list | tuple):
        return ()
    known = tuple(number({"": item}, "") for item in value)
    return () if None in known else known  # type: ignore[return-value]


def items(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def mapping(value: Any) -> Mapping[str, Any]:
    """An object, or an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """Text as it is; a conversation turn by turn; nothing as ""."""
    if isinstance(value, list):
        return "\n\n".join(map(text, value))
    if isinstance(value, dict) and "content" in value:
        return f"{value.get('role', '')}: {value['content']}"
    return "" if value is None else str(value)


def time(event: Mapping[str, Any]) -> datetime | None:
    """When the event was written, or None if it does not say."""
    value = event.get("time")
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
