"""What a step has said already, so that a step that is run again adds only what is new to the ledger."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from luthier.curate.example import LEAVES, Entry
from luthier.curate.fold import REVIEWED

if TYPE_CHECKING:
    import pyarrow as pa

_AGAIN: Final = ("flag", "score", *LEAVES)  # actions that change nothing when they are said a second time
_KEY: Final = ("record", "action", "reason", "field", "start", "end", "counterpart")


def unsaid(before: Sequence[tuple["pa.Table", Collection[str]]], entries: Sequence[Entry]) -> list[Entry]:
    """The entries of a step that say something new.

    A flag or a drop is known where the step has an entry with the same reason, place and counterpart for the record;
    its score and detail may differ. A score is known where it is the last one that was measured. A drop of a record
    that a person keeps is said once, too. What a person decides is always new, since the last word counts.

    Args:
        before: the tables of the step's passes that hold, in order, each with the records it was taken back for.
    """
    asked = {entry.record for entry in entries if _may_be_known(entry)}
    if not before or not asked:
        return list(entries)
    known = _known(before, asked)
    if not known:
        return list(entries)
    return [entry for entry in entries if not (_may_be_known(entry) and _is_known(entry, known))]


def settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a pass without what it found (notes, tables), which are lists."""
    return {key: value for key, value in parameters.items() if not isinstance(value, list | tuple)}


def _may_be_known(entry: Entry) -> bool:
    return entry.action in _AGAIN and entry.reason != REVIEWED


def _is_known(entry: Entry, known: Mapping[tuple[Any, ...], float | None]) -> bool:
    key = tuple(getattr(entry, name) for name in _KEY)
    return key in known and (entry.action != "score" or known[key] == entry.score)


def _known(
    before: Sequence[tuple["pa.Table", Collection[str]]], asked: set[str]
) -> dict[tuple[Any, ...], float | None]:
    """Key of an entry about one of these records → its last score."""
    import pyarrow as pa
    import pyarrow.compute as pc

    actions, records = pa.array(_AGAIN, pa.string()), pa.array(sorted(asked), pa.string())
    known: dict[tuple[Any, ...], float | None] = {}
    for table, without in before:
        chosen = pc.and_(pc.is_in(table["action"], actions), pc.is_in(table["record"], records))
        found = table.select([*_KEY, "score"]).filter(chosen)
        columns = [found[name].to_pylist() for name in _KEY]
        for key, score in zip(zip(*columns, strict=True), found["score"].to_pylist(), strict=True):
            if key[0] not in without:
                known[key] = score
    return known
