"""The split: every record gets the side of its group, once and for all.

A group is decided by the hash of a name, as in `data.split`: the smallest group name in it, or else the smallest id of
a content. The side is an entry of the ledger, so it is frozen: data that is added later takes the side of what it is
tied to and moves nothing. The share is of groups. The shares of records and of text differ from it where groups have
different sizes, and `side_counts` says by how much.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from luthier.curate.clusters import Components
from luthier.curate.example import SIDES, Entry, Example
from luthier.curate.folder import Dataset, Since
from luthier.curate.groups import BOTH, Read, Ties, read_ties
from luthier.curate.ledger import columns_table, to_entries, to_table
from luthier.data.split import Key, held_out

if TYPE_CHECKING:
    import pyarrow as pa

SPLIT: Final = "by group"
JOINED: Final = "side of its group"
VERSION: Final = 1
TRAIN, VALIDATION = SIDES


def split_sides(
    dataset: Dataset,
    *,
    val_size: float,
    seed: int,
    workers: int = 1,
    read: list[Read] | None = None,
    since: Since | None = None,
) -> list[Entry]:
    """The entries of `split_table`."""
    table = split_table(dataset, val_size=val_size, seed=seed, workers=workers, read=read, since=since)
    return list(to_entries(table))


def split_table(
    dataset: Dataset,
    *,
    val_size: float,
    seed: int,
    workers: int = 1,
    read: list[Read] | None = None,
    since: Since | None = None,
) -> "pa.Table":
    """An entry with a side for every record that has none, those that were taken out included.

    A new record that would tie a group of training to one of validation gets no side: it is dropped, and the entry
    names a record of each. Of several such records the one with the greater id is dropped. The entries are sorted by
    record, and made column by column: they are as many as the records.

    Args:
        val_size: share of groups held out, 0 ≤ share < 1. On the first split neither side is left empty where there are
            two groups or more.
        seed: another seed is another split.
        workers: processes.
        read, since: as for `groups.read_ties`.
    """
    import pyarrow as pa

    assert 0 <= val_size < 1, val_size
    ties = read_ties(dataset, seed=seed, workers=workers, read=read, since=since)
    drops, rows, roots, sided = _joined(ties)
    if not len(rows):
        return to_table(drops)
    roots, group, sizes = np.unique(roots, return_inverse=True, return_counts=True)
    members, ends = rows[np.argsort(group, kind="stable")], np.cumsum(sizes)
    live = np.logical_or.reduceat(ties.live[members], ends - sizes)
    # A group is decided by the least key in it. A group of one, as most are, has one key, and nothing to tell about it.
    least = members[ends - sizes]
    details = [""] * len(roots)
    for at in np.flatnonzero(sizes > 1).tolist():
        inside = members[ends[at] - sizes[at] : ends[at]].tolist()
        key, least[at] = min((ties.keys[row].as_py(), row) for row in inside)
        details[at] = f"group of {len(inside)}: {key[1:]}"
    free = ~np.isin(roots, np.fromiter(sided, np.int64, len(sided)))
    held = ties.fractions[least] < val_size
    held[free & live] = _held_out(ties, least[free & live], val_size, seed)
    sides, reasons = np.where(held, VALIDATION, TRAIN).tolist(), [SPLIT] * len(roots)
    for at in np.flatnonzero(~free).tolist():
        sides[at], through = next(iter(sided[int(roots[at])].items()))
        reasons[at], details[at] = JOINED, f"tied to {ties.ids[through].decode()}"
    told = {"reason": reasons, "after": sides, "detail": details}
    made = columns_table(
        len(rows),
        record=pa.array(ties.ids[rows]).cast(pa.string()),
        action=pa.repeat("split", len(rows)),
        **{name: pa.array(values, pa.string()).take(pa.array(group)) for name, values in told.items()},
    )
    return pa.concat_tables([made, to_table(drops)]).sort_by("record") if drops else made  # rows are sorted by id


def _held_out(ties: Ties, least: np.ndarray, val_size: float, seed: int) -> np.ndarray:
    """Which groups that have no side yet and are in the dataset are held out, given the row with the least key of each.

    On the first split neither side is left empty.
    """
    held = ties.fractions[least] < val_size
    if val_size == 0 or ties.sides.any() or 0 < held.sum() < len(held):
        return held
    keys: list[Key] = [("group" if key[0] == "g" else "record", key[1:]) for key in ties.keys.take(least).to_pylist()]
    chosen = held_out(keys, val_set_size=val_size, seed=seed)
    return np.array([key in chosen for key in keys], bool)


def _joined(ties: Ties) -> tuple[list[Entry], np.ndarray, np.ndarray, dict[int, dict[str, int]]]:
    """Join rows to groups, those with a side first, then the others by id.

    Returns:
        drops of rows that would join both sides; the new rows; the group of each; group → side → a row that has that
        side.
    """
    number = len(ties.ids)
    groups = Components(number + (int(ties.names[:, 1].max()) + 1 if len(ties.names) else 0))
    near: dict[int, list[int]] = {}
    for row, name in ties.names.tolist():
        near.setdefault(row, []).append(number + name)
    for one, other in ties.pairs.tolist():
        near.setdefault(one, []).append(other)
        near.setdefault(other, []).append(one)
    side_of = ties.sides.tolist()
    old = [row for row in sorted(near) if side_of[row]]  # rows that nothing ties are groups of their own
    for row in old:
        for other in near[row]:
            if other >= number or side_of[other]:
                groups.join(row, other)
    sided: dict[int, dict[str, int]] = {}
    for row in old:
        sided.setdefault(groups.find(row), {}).setdefault(SIDES[side_of[row] - 1], row)
    drops, dropped = [], set()
    for row in sorted(near):
        if side_of[row]:
            continue
        others = [other for other in near[row] if other not in dropped]
        found: dict[str, int] = {}
        for root in {groups.find(other) for other in [row, *others]}:
            for side, through in sided.get(root, {}).items():
                found[side] = min(through, found.get(side, through))
        if len(found) > 1:
            dropped.add(row)
            train, validation = ties.ids[found[TRAIN]].decode(), ties.ids[found[VALIDATION]].decode()
            detail = f"would tie {train} (train) to {validation} (validation)"
            drops.append(Entry(ties.ids[row].decode(), "drop", BOTH, counterpart=validation, detail=detail))
            continue
        for other in others:
            sided.pop(groups.find(other), None)
            groups.join(row, other)
        if found:
            sided[groups.find(row)] = found
    new = ties.sides == 0
    new[list(dropped)] = False
    rows = np.flatnonzero(new)
    return drops, rows, groups.roots(rows).astype(np.int64), sided


@dataclass(frozen=True)
class SideCounts:
    """How large the sides are.

    Attributes:
        records, characters: side → examples, and characters in their prompts and answers.
        categories: side → category → examples; "" are those without one.
        missing: categories of training that validation has no example of, most frequent first.
    """

    records: dict[str, int]
    characters: dict[str, int]
    categories: dict[str, dict[str, int]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def side_counts(dataset: Dataset, *, workers: int = 1) -> SideCounts:
    """Count the sides of the dataset as it stands."""
    records: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    categories: Counter[tuple[str, str]] = Counter()
    for made in dataset.map(_count, workers=workers):
        records.update(made[0])
        characters.update(made[1])
        categories.update(made[2])
    of: dict[str, dict[str, int]] = {side: {} for side in sorted(records)}
    for (side, category), number in sorted(categories.items(), key=lambda item: (-item[1], item[0])):
        of[side][category] = number
    held = of.get(VALIDATION, {})
    missing = [category for category in of.get(TRAIN, {}) if category and category not in held] if held else []
    return SideCounts(dict(records), dict(characters), of, missing)


def _count(examples: list[Example]) -> tuple[Counter[str], Counter[str], Counter[tuple[str, str]]]:
    records: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    categories: Counter[tuple[str, str]] = Counter()
    for example in examples:
        side = example.side or TRAIN
        records[side] += 1
        characters[side] += len(example.prompt) + len(example.answer)
        categories[side, example.category] += 1
    return records, characters, categories
