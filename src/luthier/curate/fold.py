"""What an example is after everything that was decided about it."""

from collections.abc import Sequence
from dataclasses import replace

from luthier.curate.example import LEAVES, Entry, Example, get_field, set_field


def outcome(entries: Sequence[Entry]) -> Entry | None:
    """The entry that takes an example out, or None while it is in.

    A "keep" overrules every drop before and after it, until a later person's drop (`reason` "reviewed").
    """
    out: Entry | None = None
    kept = False
    for entry in entries:
        if entry.action == "keep":
            kept, out = True, None
        elif entry.action in LEAVES:
            if entry.reason == REVIEWED:
                kept, out = False, entry
            elif not kept and out is None:
                out = entry
    return out


def fold(example: Example, entries: Sequence[Entry]) -> tuple[Example, Entry | None, int]:
    """Apply entries in the order they were made.

    An edit applies to the very text it was made for: where an earlier edit was taken back, the ones built on it no
    longer apply and are counted. The first side an example is put on is the one it stays on.

    Returns:
        the example; what takes it out (`outcome`); the number of edits that no longer apply.
    """
    void = 0
    for entry in entries:
        match entry.action:
            case "edit":
                if get_field(example.record, entry.field) == entry.before:
                    example = replace(example, record=set_field(example.record, entry.field, entry.after))
                else:
                    void += 1
            case "flag":
                example = replace(example, flags=example.flags | {entry.reason})
            case "split":
                if not example.side:
                    example = replace(example, side=entry.after)
            case "repeat":
                example = replace(example, repeats=entry.score)
            case "category":
                example = replace(example, category=entry.after)
    return example, outcome(entries), void


REVIEWED = "reviewed"  # the reason of what a person decided
