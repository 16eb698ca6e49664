"""The data of a run as a table that adds up: rows read, rows left out and why, rows used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.core.readable import plural
from luthier.evaluate.event_values import mapping, number, text

PREFIXES = ("dropped: ", "skipped: ")  # said by the table already


@dataclass(frozen=True)
class Ledger:
    """Where the rows went.

    Attributes:
        rows_in: rows read; None if the run did not record it.
        left_out: (reason, rows) of what was not used.
        used: training plus held-out rows.
        added: rows that arose beyond those read (one conversation can become several rows).
        missing: rows that nothing accounts for; more than 0 is a fault, and the report says so.
        train_rows, val_rows, train_tokens, val_tokens, label_tokens, val_label_tokens: as recorded, None if not.
        changed: (what, how often) of rows that were used but altered.
        sources: one line a data file: path, format, rows.
        notes: what else was noticed on the way.
    """

    rows_in: float | None
    left_out: tuple[tuple[str, float], ...]
    used: float
    added: float
    missing: float
    train_rows: float | None
    val_rows: float | None
    train_tokens: float | None
    val_tokens: float | None
    label_tokens: float | None
    val_label_tokens: float | None
    changed: tuple[tuple[str, float], ...]
    sources: tuple[str, ...]
    notes: tuple[str, ...]


def ledger(data: Mapping[str, Any]) -> Ledger | None:
    """The ledger of a start event's `data`, or None if it says nothing about rows."""
    left_out, changed = _counts(data, "dropped"), _counts(data, "changed")
    rows_in, train, val = (number(data, name) for name in ("rows_in", "train_rows", "val_rows"))
    if train is None and rows_in is None:
        return None
    used = (train or 0) + (val or 0)
    difference = 0 if rows_in is None else rows_in - sum(found for _, found in left_out) - used
    return Ledger(
        rows_in=rows_in,
        left_out=left_out,
        used=used,
        added=max(0, -difference),
        missing=max(0, difference),
        train_rows=train,
        val_rows=val,
        train_tokens=number(data, "train_tokens"),
        val_tokens=number(data, "val_tokens"),
        label_tokens=number(data, "label_tokens"),
        val_label_tokens=number(data, "val_label_tokens"),
        changed=changed,
        sources=tuple(_source(mapping(source)) for source in data.get("sources") or []),
        notes=tuple(map(text, data.get("notes") or [])),
    )


def _counts(data: Mapping[str, Any], name: str) -> tuple[tuple[str, float], ...]:
    """(reason, rows), the largest first."""
    counts = mapping(data.get(name))
    known = [(_without_prefix(reason), found) for reason in counts if (found := number(counts, reason))]
    return tuple(sorted(known, key=lambda item: -item[1]))


def _without_prefix(reason: str) -> str:
    return next((reason.removeprefix(prefix) for prefix in PREFIXES if reason.startswith(prefix)), reason)


def _source(source: Mapping[str, Any]) -> str:
    rows = number(source, "rows")
    parts = [text(source.get("path")), text(source.get("format")), plural(rows, "row") if rows is not None else ""]
    return ", ".join(part for part in parts if part)
