"""The rows that are embedded in a report, as plain JSON: what was decided about each, its texts, and its counterpart.

Personal data are masked in every text that is shown, also where the step that replaces them has not been at work (a row
that was taken out before it, the text before an edit). A text that is masked or cut cannot be edited in the page.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from luthier.curate.example import Entry, fields_of
from luthier.curate.folder import Pass
from luthier.curate.report_diff import Part, clip, compare, edit_parts, marked
from luthier.curate.report_rows import Row
from luthier.curate.report_summary import OUT, SHOWN, USED, Group, Summary, groups_of

MOST_ROWS: Final = 3_000
MOST_BYTES: Final = 3_500_000  # of the JSON in the page: it opens at once, and goes through a mail server
Hide = Callable[[str], Sequence[tuple[int, int, str]]]  # the (start, end, kind) in a text that may not be shown
_TOLD: Final = ("edit", "flag", "keep", "drop", "duplicate", "score")  # actions that a card tells


@dataclass(frozen=True, slots=True)
class Cards:
    """`rows` for the page; `shown` says of each group how many of its rows are among them."""

    rows: list[dict[str, Any]]
    groups: list[Group]
    shown: Mapping[Group, int]


def choose(summary: Summary) -> list[str]:
    """Ids of rows to show: the first of each group, then the second of each, up to MOST_ROWS.

    Within each round come first those that were taken out, for the most frequent reason first.
    """
    chosen: dict[str, None] = {}
    order = sorted(summary.picks, key=lambda group: (_RANK.get(group[1], 1), -summary.groups[group], group))
    for place in range(max((len(ids) for ids in summary.picks.values()), default=0)):
        for group in order:
            if place < len(summary.picks[group]):
                chosen.setdefault(summary.picks[group][place])
    return list(chosen)[:MOST_ROWS]


_RANK: Final = {OUT: 0, USED: 2}


def counterparts(rows: Mapping[str, Row]) -> set[str]:
    """Ids of the other examples that these rows' decisions name."""
    return {entry.counterpart for row in rows.values() for _, entry in row.decided if entry.counterpart}


def make_cards(
    order: Sequence[str], rows: Mapping[str, Row], passes: Sequence[Pass], hide: Hide, most_bytes: int = MOST_BYTES
) -> Cards:
    """Cards of the rows in this order, until the page is full.

    Args:
        order: ids.
        rows: those rows and their counterparts, by id.
        passes: all passes of the dataset.
        hide: finds what may not be shown.
    """
    cards, groups, shown, size = [], {}, {}, 0
    for name in order:
        row = rows[name]
        card = _card(row, rows, passes, hide)
        size += len(json.dumps(card, ensure_ascii=False).encode("utf-8"))
        if size > most_bytes:
            break
        mine = sorted(group for group in groups_of(row) if group[1] in (OUT, USED, *SHOWN))
        for group in mine:
            groups.setdefault(group, len(groups))
            shown[group] = shown.get(group, 0) + 1
        cards.append(card | {"groups": [groups[group] for group in mine]})
    return Cards(cards, list(groups), shown)


def _card(row: Row, rows: Mapping[str, Row], passes: Sequence[Pass], hide: Hide) -> dict[str, Any]:
    stored, example = row.stored, row.example
    told = [(number, entry) for number, entry in row.decided if entry.action in _TOLD]
    other = _counterpart(row, rows)
    texts = _texts(row, hide)
    card: dict[str, Any] = {
        "id": stored.id,
        "where": stored.where or stored.source,
        "category": stored.category if example is None else example.category,
        "state": "unreadable" if example is None else "out" if row.out is not None else example.side or "used",
        "events": [_event(entry, passes[number - 1].step, entry is row.out) for number, entry in told],
    }
    if other is not None:
        theirs = _texts(other, hide)
        _mark_differences(texts, theirs)
        card["other"] = {
            "id": other.stored.id,
            "where": other.stored.where or other.stored.source,
            "state": "out" if other.out is not None else other.example.side or "used",
            "texts": [_finished(text) for text in theirs],
        }
    elif example is not None:
        _mark_evidence(texts, row, hide)
    card["texts"] = [_finished(text) for text in texts]
    return card | ({"edits": edits} if (edits := _edits(told, passes, hide)) else {})


def _event(entry: Entry, step: str, out: bool) -> dict[str, Any]:
    """What was decided; empty things are left out."""
    told = {"step": step, "action": entry.action, "reason": entry.reason, "field": entry.field}
    # The details of replaced personal data tell the ends of the values: enough for the owner, too much for a page.
    told |= {"detail": "" if step == "personal" else entry.detail[:600], "other": entry.counterpart}
    made: dict[str, Any] = {name: value for name, value in told.items() if value}
    if entry.score is not None:
        made["score"] = round(entry.score, 4)
    return made | ({"out": True} if out else {})


def _counterpart(row: Row, rows: Mapping[str, Row]) -> Row | None:
    """The readable counterpart of what takes the row out, else of the last decision that has one."""
    named = [entry.counterpart for _, entry in row.decided if entry.counterpart and entry.action in _TOLD]
    if row.out is not None and row.out.counterpart:
        named.append(row.out.counterpart)
    found = (rows[name] for name in reversed(named) if name in rows and name != row.stored.id)
    return next((other for other in found if other.example is not None), None)


def _texts(row: Row, hide: Hide) -> list[dict[str, Any]]:
    """The texts of a row as it is now: field, role, the masked text, and whether a person may edit it."""
    if row.example is None:
        read = json.loads(row.stored.content)
        content = read["line"] if isinstance(read.get("line"), str) else json.dumps(read, indent=1, ensure_ascii=False)
        content = content.encode("utf-8", "replace").decode()  # bytes that are no text came as halves of surrogates
        return [{"field": "", "role": "as read", "text": masked(content, hide)[0], "whole": False}]
    made = []
    for field, text, turn in fields_of(row.example.record):
        role = "text" if turn is None else turn.role + (f" ({turn.name})" if turn.name else "")
        if field.startswith(("chosen", "rejected")):
            role = f"{role}, {field.partition('.')[0]}"
        shown, _ = masked(text, hide)
        made.append({"field": field, "role": role, "text": shown, "whole": shown == text})
        if turn is not None and turn.tool_calls:
            calls, _ = masked(turn.tool_calls, hide)
            made.append({"field": "", "role": f"{role}, calls", "text": calls, "whole": False})
    if row.example.record.tools:
        made.append({"field": "", "role": "tools", "text": masked(row.example.record.tools, hide)[0], "whole": False})
    return made


def masked(text: str, hide: Hide, veil: str = "[{kind}]") -> tuple[str, Callable[[int], int]]:
    """The text with a placeholder for everything that may not be shown, and where a character of it went."""
    pieces, ends, shifts, at, shift = [], [], [], 0, 0
    for start, end, kind in hide(text):
        placeholder = veil.format(kind=kind)
        pieces += [text[at:start], placeholder]
        shift += len(placeholder) - (end - start)
        at = end
        ends.append(end)
        shifts.append(shift)
    pieces.append(text[at:])

    def place(index: int) -> int:
        done = bisect_right(ends, index)
        return index + (shifts[done - 1] if done else 0)

    return "".join(pieces), place


def _mark_differences(texts: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> None:
    """Compare the texts that have the same field; the others stay unmarked."""
    by_field = {text["field"]: text for text in theirs if text["field"]}
    for text in texts:
        if other := by_field.get(text["field"]):
            text["parts"], other["parts"] = compare(text["text"], other["text"])


def _mark_evidence(texts: Sequence[dict[str, Any]], row: Row, hide: Hide) -> None:
    """Mark the characters that a decision named, where their text has not been edited since."""
    edited = {entry.field: number for number, entry in row.decided if entry.action == "edit"}
    by_field = {text["field"]: text for text in texts if text["field"]}
    raw = {field: text for field, text, _ in fields_of(row.example.record)}
    for number, entry in row.decided:
        if entry.action in ("edit", "score") or entry.end <= entry.start or edited.get(entry.field, 0) > number:
            continue
        if text := by_field.get(entry.field):
            _, place = masked(raw[entry.field], hide)
            text["parts"] = marked(text["text"], place(entry.start), place(entry.end))


def _finished(text: Mapping[str, Any]) -> dict[str, Any]:
    """For the page: role, parts, and the field if it may be edited."""
    parts: list[Part] = clip(text.get("parts") or [["", text["text"]]])
    whole = text["whole"] and "".join(part for _, part in parts) == text["text"]
    return {"role": text["role"], "parts": parts} | ({"field": text["field"]} if whole else {})


def _edits(told: Sequence[tuple[int, Entry]], passes: Sequence[Pass], hide: Hide) -> list[dict[str, Any]]:
    made = []
    for number, entry in told:
        if entry.action == "edit":
            before, after = (masked(text, hide, "•••")[0] for text in (entry.before, entry.after))
            parts = edit_parts(before, after)
            made.append({"step": passes[number - 1].step, "reason": entry.reason, "field": entry.field, "parts": parts})
    return made
