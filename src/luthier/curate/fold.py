"""What an example is after everything that was decided about it."""

from collections.abc import Sequence

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
    if not entries:
        return example, None, 0
    record, category, side, flags = example.record, example.category, example.side, example.flags
    repeats, void = example.repeats, 0
    for entry in entries:
        match entry.action:
            case "edit":
                if get_field(record, entry.field) == entry.before:
                    record = set_field(record, entry.field, entry.after)
                else:
                    void += 1
            case "flag":
                flags = flags | {entry.reason}
            case "split":
                side = side or entry.after
            case "repeat":
                repeats = entry.score
            case "category":
                category = entry.after
    return Example(example.id, record, example.source, category, side, flags, repeats), outcome(entries), void


REVIEWED = "reviewed"  # the reason of what a person decided
