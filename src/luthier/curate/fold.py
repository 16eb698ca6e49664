"""What an example is after everything that was decided about it."""

from collections.abc import Sequence
from dataclasses import replace

from luthier.curate.example import LEAVES, Entry, Example, get_field, set_field


def fold(example: Example, entries: Sequence[Entry]) -> tuple[Example, Entry | None, int]:
    """Apply entries in the order they were made.

    An edit applies to the very text it was made for: where an earlier edit was taken back, the ones built on it no
    longer apply and are counted. The first side an example is put on is the one it stays on. A "keep" overrules every
    drop before and after it, until a later person's drop (`reason` "reviewed").

    Returns:
        the example; the entry that takes it out, or None while it is in; the number of edits that no longer apply.
    """
    out: Entry | None = None
    kept, void = False, 0
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
            case "keep":
                kept, out = True, None
            case action if action in LEAVES:
                if entry.reason == REVIEWED:
                    kept, out = False, entry
                elif not kept and out is None:
                    out = entry
    return example, out, void


REVIEWED = "reviewed"  # the reason of what a person decided
