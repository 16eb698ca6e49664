"""Rows as a report needs them: as read, as they are now, and every decision with the number of its pass."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from luthier.curate.example import Entry, Example
from luthier.curate.fold import fold
from luthier.curate.folder import QUARANTINED, Dataset, Stored, View, record_of


@dataclass(slots=True)
class Row:
    """A row that was read. Nobody changes one; it is not frozen because that makes it slow to make.

    Attributes:
        stored: as it stands in the records.
        original, example: as read, and after everything that was decided; None for a quarantined row.
        decided: (number of the pass, entry) of all that holds for it, in order.
        out, out_pass: what takes it out, and in which pass; None and 0 while it is in the dataset.
        void: edits that no longer apply.
    """

    stored: Stored
    original: Example | None
    example: Example | None
    decided: tuple[tuple[int, Entry], ...]
    out: Entry | None
    out_pass: int
    void: int


def rows_of(view: View, index: int, only: Collection[str] | None = None) -> list[Row]:
    """Batch `index`, every row of it, or only those with these ids."""
    entries = view.entries(index, records=only)
    return [_row(row, tuple(entries.get(row.id, ()))) for row in view.stored(index, records=only)]


def _row(stored: Stored, decided: tuple[tuple[int, Entry], ...]) -> Row:
    if stored.kind == QUARANTINED:
        # An unusable row is out whatever was decided: with the reader's reason, or with none should that be missing.
        number, out = decided[0] if decided else (0, Entry(stored.id, "drop", "quarantined"))
        return Row(stored, None, None, decided, out, number, 0)
    original = Example(stored.id, record_of(stored), stored.source, stored.category)
    example, out, void = fold(original, [entry for _, entry in decided])
    number = 0 if out is None else next(number for number, entry in decided if entry is out)
    return Row(stored, original, example, decided, out, number, void)


def fetch_rows(dataset: Dataset, ids: Collection[str], *, workers: int = 1) -> dict[str, Row]:
    """The rows with these ids, wherever they stand; ids that no row has are left out."""
    make = partial(_among, frozenset(ids))
    return {row.stored.id: row for rows in dataset.map_batches(make, list, workers, None) for row in rows}


def _among(ids: frozenset[str], view: View, index: int) -> list[Row]:
    here = ids.intersection(view.table(index, ["id"])["id"].to_pylist())
    return rows_of(view, index, here) if here else []
