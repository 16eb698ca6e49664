"""The split: every record gets the side of its group, once and for all.

A group is decided by the hash of a name, as in `data.split`: the smallest group name in it, or else the smallest id of
a content. The side is an entry of the ledger, so it is frozen: data that is added later takes the side of what it is
tied to and moves nothing. The share is of groups. The shares of records and of text differ from it where groups have
different sizes, and `side_counts` says by how much.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from luthier.curate.clusters import Components
from luthier.curate.example import Entry, Example
from luthier.curate.folder import Dataset
from luthier.curate.groups import BOTH, Ties, read_ties
from luthier.data.split import Key, fraction, held_out

SPLIT: Final = "by group"
JOINED: Final = "side of its group"
VERSION: Final = 1
TRAIN, VALIDATION = "train", "validation"


def split_sides(dataset: Dataset, *, val_size: float, seed: int, workers: int = 1) -> list[Entry]:
    """An entry with a side for every record that has none, those that were taken out included.

    A new record that would tie a group of training to one of validation gets no side: it is dropped, and the entry
    names a record of each. Of several such records the one with the greater id is dropped.

    Args:
        val_size: share of groups held out, 0 ≤ share < 1. On the first split neither side is left empty where there are
            two groups or more.
        seed: another seed is another split.
        workers: processes.
    """
    assert 0 <= val_size < 1, val_size
    ties = read_ties(dataset, workers=workers)
    entries, groups, sided = _joined(ties)
    members: dict[int, list[int]] = {}
    for row, root in groups.items():
        members.setdefault(root, []).append(row)
    names = {root: min(ties.keys[row] for row in rows) for root, rows in members.items() if root not in sided}
    alive = {names[root] for root, rows in members.items() if root in names and any(ties.live[row] for row in rows)}
    held = _held_out(names, alive, any(ties.sides), val_size, seed)
    for root, rows in members.items():
        if root in sided:
            side, through = next(iter(sided[root].items()))
            reason, detail = JOINED, f"tied to {ties.ids[through]}"
        else:
            side = VALIDATION if names[root] in held else TRAIN
            reason, detail = SPLIT, f"group of {len(rows)}: {names[root][1]}" if len(rows) > 1 else ""
        entries += [Entry(ties.ids[row], "split", reason, after=side, detail=detail) for row in rows]
    return sorted(entries, key=lambda entry: entry.record)


def _held_out(names: dict[int, Key], alive: set[Key], again: bool, val_size: float, seed: int) -> set[Key]:
    if val_size == 0:
        return set()
    if again:
        return {name for name in names.values() if fraction(seed, name) < val_size}
    gone = set(names.values()) - alive
    return held_out(alive, val_set_size=val_size, seed=seed) | {
        name for name in gone if fraction(seed, name) < val_size
    }


def _joined(ties: Ties) -> tuple[list[Entry], dict[int, int], dict[int, dict[str, int]]]:
    """Join rows to groups, those with a side first, then the others by id.

    Returns:
        drops of rows that would join both sides; new row → its group; group → side → a row that has that side.
    """
    number = len(ties.ids)
    groups = Components(number + (int(ties.names[:, 1].max()) + 1 if len(ties.names) else 0))
    near: dict[int, list[int]] = {}
    for row, name in ties.names.tolist():
        near.setdefault(row, []).append(number + name)
    for one, other in ties.pairs.tolist():
        near.setdefault(one, []).append(other)
        near.setdefault(other, []).append(one)
    old = [row for row in range(number) if ties.sides[row]]
    for row in old:
        for other in near.get(row, ()):
            if other >= number or ties.sides[other]:
                groups.join(row, other)
    sided: dict[int, dict[str, int]] = {}
    for row in old:
        sided.setdefault(groups.find(row), {}).setdefault(ties.sides[row], row)
    drops, new, dropped = [], [], set()
    for row in range(number):
        if ties.sides[row]:
            continue
        others = [other for other in near.get(row, ()) if other not in dropped]
        found: dict[str, int] = {}
        for root in {groups.find(other) for other in [row, *others]}:
            for side, through in sided.get(root, {}).items():
                found[side] = min(through, found.get(side, through))
        if len(found) > 1:
            dropped.add(row)
            train, validation = ties.ids[found[TRAIN]], ties.ids[found[VALIDATION]]
            detail = f"would tie {train} (train) to {validation} (validation)"
            drops.append(Entry(ties.ids[row], "drop", BOTH, counterpart=validation, detail=detail))
            continue
        for other in others:
            sided.pop(groups.find(other), None)
            groups.join(row, other)
        if found:
            sided[groups.find(row)] = found
        new.append(row)
    return drops, {row: groups.find(row) for row in new}, sided


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
