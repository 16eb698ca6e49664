"""Looking back: why an example is as it is, taking decisions back, and what differs between two datasets."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from luthier.core.errors import DataError
from luthier.curate.example import Entry
from luthier.curate.folder import Dataset, Folded, Pass, Stored
from luthier.curate.ledger import UNDO, read_pass, to_entries
from luthier.curate.materialise import data_path


@dataclass(frozen=True, slots=True)
class Decision:
    """An entry of an example, the pass it was made in, and whether it was taken back."""

    made: Pass
    entry: Entry
    retracted: bool


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of an example: as it was read, every decision, and what it is now."""

    stored: Stored
    decisions: list[Decision]
    now: Folded


def find_id(dataset: Dataset, prefix: str) -> str:
    """The full id of the example whose id begins with `prefix`.

    Raises:
        DataError: there is none, or more than one.
    """
    found = sorted(row for row in dataset.ids() if row.startswith(prefix))
    if not found:
        raise DataError(f"no example has an id that begins with {prefix}", where=str(dataset.path))
    if len(found) > 1:
        shown = ", ".join(found[:3])
        raise DataError(f"{len(found)} examples have ids that begin with {prefix}: {shown} …", fix="write more of it")
    return found[0]


def why(dataset: Dataset, prefix: str) -> Story:
    """Everything about one example, which may be named by the beginning of its id.

    Raises:
        DataError: see `find_id`.
    """
    wanted = find_id(dataset, prefix)
    view = dataset.view
    gone = view.retracted()
    decisions = []
    for made in dataset.passes:
        for entry in _entries_of(dataset, made, wanted):
            taken_back = made.number in gone and (gone[made.number] is None or wanted in gone[made.number])
            decisions.append(Decision(made, entry, made.step != UNDO and taken_back))
    now = next(row for index in range(len(view.batches)) for row in view.folded(index, only=wanted))
    return Story(now.stored, decisions, now)


def _entries_of(dataset: Dataset, made: Pass, record: str) -> Iterator[Entry]:
    import pyarrow.compute as pc

    table = read_pass(dataset.path / made.file)
    yield from to_entries(table.filter(pc.equal(table["record"], record)))


def undo(dataset: Dataset, *, step: str | None = None, record: str | None = None) -> list[Pass]:
    """Take back every pass of a step, or all that was decided about one example, or what a step decided about one.

    Only the ledger grows: what was decided stays readable. Edits that were made on top of an edit that is taken back no
    longer apply and are counted as such when the dataset is written.

    Returns:
        the passes concerned.

    Raises:
        DataError: nothing of the kind was done, or was taken back already.
    """
    assert step or record
    wanted = find_id(dataset, record) if record else ""
    gone = dataset.view.retracted()
    passes = [
        made
        for made in dataset.passes
        if made.step not in (UNDO, "read")
        and (step is None or made.step == step)
        and not (made.number in gone and (gone[made.number] is None or wanted in gone[made.number]))
        and (not wanted or any(True for _ in _entries_of(dataset, made, wanted)))
    ]
    if not passes:
        done = sorted({made.step for made in dataset.passes} - {UNDO, "read"})
        what = f"step {step}" if step else "any step"
        raise DataError(
            f"nothing to take back: {what} has decided nothing{f' about {wanted}' if wanted else ''} that still holds",
            where=str(dataset.path),
            fix=f"steps that were run: {', '.join(done) or 'none'}",
        )
    entries = [Entry(wanted, "undo", f"{made.step} taken back", counterpart=str(made.number)) for made in passes]
    dataset.add(UNDO, 1, {"step": step or "", "record": wanted}, entries)
    return passes


def active(dataset: Dataset) -> set[str]:
    """The steps of which a pass holds."""
    return {made.step for made, _ in dataset.view.holding()}


@dataclass(frozen=True)
class Difference:
    """What one dataset has and the other does not; the same example is told by its id."""

    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)  # id → the columns that differ
    same: int = 0


def diff(a: Path, b: Path) -> Difference:
    """Compare what two dataset folders hold now: which examples, on which side, with what content.

    Raises:
        DataError: one of them is no dataset folder.
    """
    left, right = (_rows(Dataset(path)) for path in (a, b))
    both = sorted(left.keys() & right.keys())
    changed = {}
    for key in both:
        names = sorted(left[key].keys() | right[key].keys())
        if different := [name for name in names if left[key].get(name) != right[key].get(name)]:
            changed[key] = different
    return Difference(
        sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys()), changed, len(both) - len(changed)
    )


def _rows(dataset: Dataset) -> dict[str, dict[str, object]]:
    import pyarrow.parquet as pq

    rows: dict[str, dict[str, object]] = {}
    for side in ("train", "validation"):
        if path := data_path(dataset, side):
            rows |= {row["id"]: row | {"side": side} for row in pq.read_table(path).to_pylist()}
    return rows
