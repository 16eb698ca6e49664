"""What happened to a dataset, in numbers: one pass over every row that was ever read.

A row counts once: it is used, or it is out for the one reason that holds now. Lengths and stock phrases are measured
before (as read) and after (as used); a text that did not change is measured once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil, fsum
from typing import Final

from luthier.curate.example import Example
from luthier.curate.folder import Dataset
from luthier.curate.language import languages
from luthier.curate.measure import Cell, Measured, Measures, add_up, marginals, measure_batch
from luthier.curate.personal import personal_counts
from luthier.curate.report_rows import Row, rows_of
from luthier.curate.tokens import estimate

PICKED: Final = 400  # rows of a group that a reviewer may see: those with the smallest ids, which is a random sample
PICKED_USED: Final = 100  # of the rows that nothing was decided about
MEASURED: Final = 20_000  # rows measured; of a larger dataset a random sample of about so many
OUT, USED = "out", "used"
SHOWN: Final = ("edit", "flag", "keep")  # actions that make a group of their own
COUNTED: Final = (*SHOWN, "split", "repeat", "category", "score")

Group = tuple[int, str, str]  # number of the pass, OUT or an action, reason; (0, USED, "") where nothing was decided


@dataclass(slots=True)
class Tally:
    """Rows, and the tokens in them that bear loss (estimated), as read and as used; two can be added.

    `weights` holds tokens by how often they are trained on in an epoch.
    """

    rows_in: int = 0
    rows_used: int = 0
    tokens_in: int = 0
    weights: Counter[float] = field(default_factory=Counter)

    def __iadd__(self, other: "Tally") -> "Tally":
        self.rows_in += other.rows_in
        self.rows_used += other.rows_used
        self.tokens_in += other.tokens_in
        self.weights.update(other.weights)
        return self

    @property
    def tokens_used(self) -> float:
        """Tokens of an epoch: each as often as it is trained on."""
        return fsum(repeats * tokens for repeats, tokens in sorted(self.weights.items()))


@dataclass(frozen=True, slots=True)
class Summary:
    """The dataset as it stands.

    Attributes:
        rows_in, rows_used, quarantined: rows read; in the dataset; that no format fits.
        sides: rows in the dataset by side ("" before it is split).
        groups: rows by what was decided about them, taken back decisions left out.
        picks: ids of some rows of each group, in order.
        sources, categories: tallies; a quarantined row has a source but no tokens.
        before, after: measures of rows as read, and as used.
        languages: language of the answer → (rows as read, rows as used), of the rows measured; "code" for code, ""
            where it cannot be told.
        personal: places at which personal data or secrets were replaced in rows that are used, by kind.
        measured: rows that were measured; `rows_in` unless the dataset is large.
        void: edits that no longer apply, because one they were built on was taken back.
    """

    rows_in: int
    rows_used: int
    quarantined: int
    sides: Mapping[str, int]
    groups: Mapping[Group, int]
    picks: Mapping[Group, tuple[str, ...]]
    sources: Mapping[str, Tally]
    categories: Mapping[str, Tally]
    before: Measured
    after: Measured
    languages: Mapping[str, tuple[int, int]]
    personal: Mapping[str, int]
    measured: int
    void: int

    @property
    def total(self) -> Tally:
        """Of everything."""
        return _sum(self.sources.values())

    def count(self, what: str, number: int | None = None) -> int:
        """Entries' rows of one kind (OUT, "edit" …), of one pass or of all. A row can count in several passes."""
        return sum(n for (made, kind, _), n in self.groups.items() if kind == what and number in (None, made))


@dataclass(slots=True)
class _Part:
    """What a worker finds in a batch."""

    rows: int = 0
    used: int = 0
    quarantined: int = 0
    void: int = 0
    measured: int = 0
    sides: Counter[str] = field(default_factory=Counter)
    groups: Counter[Group] = field(default_factory=Counter)
    picks: dict[Group, list[str]] = field(default_factory=dict)
    languages_in: Counter[str] = field(default_factory=Counter)
    languages_used: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    tallies: dict[Cell, Tally] = field(default_factory=dict)
    before: list[dict[Cell, Measures]] = field(default_factory=list)
    after: list[dict[Cell, Measures]] = field(default_factory=list)


def summarise(dataset: Dataset, *, workers: int = 1) -> Summary:
    """Count everything in one pass over the rows. Checks that rows_in = rows_used + Σ reasons."""
    counting = Counting(dataset)
    for part in dataset.map_batches(rows_of, counting.count, workers, None):
        counting.add(part)
    return counting.summary()


class Counting:
    """`summarise` in parts, for who goes over all rows anyhow: `count` each batch in a worker, and `add` what it says.

    Attributes:
        count: picklable; of the rows of a batch.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._rows_in = sum(item["rows"] for item in dataset.state["records"])
        self.count: Callable[[Sequence[Row]], _Part] = partial(_count, max(1, ceil(self._rows_in / MEASURED)))
        self._total = _Part()
        self._parts = 0

    def add(self, part: "_Part") -> None:
        """Take up what `count` found; batches in order."""
        total = self._total
        _merge(total, part)
        self._parts += 1
        if self._parts % 16 == 0:
            total.before, total.after = [_added(total.before)], [_added(total.after)]

    def summary(self) -> Summary:
        """Of all that was added, which must be every batch."""
        return _summary(self._rows_in, self._total)


def _summary(rows_in: int, total: _Part) -> Summary:
    out = sum(number for (_, what, _), number in total.groups.items() if what == OUT)
    assert rows_in == total.rows == total.used + out, (rows_in, total.rows, total.used, out)
    return Summary(
        rows_in=rows_in,
        rows_used=total.used,
        quarantined=total.quarantined,
        sides=dict(sorted(total.sides.items())),
        groups=dict(sorted(total.groups.items())),
        picks={group: tuple(total.picks[group]) for group in sorted(total.picks)},
        sources=_by(total.tallies, 0),
        categories=_by(total.tallies, 1),
        before=marginals(_added(total.before)),
        after=marginals(_added(total.after)),
        languages={
            name: (total.languages_in[name], total.languages_used[name])
            for name in sorted(total.languages_in | total.languages_used, key=lambda n: (-total.languages_in[n], n))
        },
        personal=dict(sorted(total.personal.items(), key=lambda item: (-item[1], item[0]))),
        measured=total.measured,
        void=total.void,
    )


def _by(tallies: Mapping[Cell, Tally], place: int) -> dict[str, Tally]:
    names = sorted({cell[place] for cell in tallies})
    return {name: _sum(tally for cell, tally in tallies.items() if cell[place] == name) for name in names}


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total += tally
    return total


def groups_of(row: Row) -> set[Group]:
    """The groups a row counts in: why it is out, what else was decided about it, or (0, USED, "")."""
    if row.out is not None:
        # What changed a row before it was taken out changed nothing in the dataset.
        return {(row.out_pass, OUT, row.out.reason)}
    groups, plain = set(), True
    for number, entry in row.decided:
        if entry.action in COUNTED:
            groups.add((number, entry.action, entry.reason))
            plain = plain and entry.action not in SHOWN
    if plain:
        groups.add((0, USED, ""))
    return groups


def _count(every: int, rows: Sequence[Row]) -> _Part:
    part = _Part(rows=len(rows))
    before: list[Example] = []
    after: list[Example] = []
    same: list[Example] = []
    groups: dict[Group, list[str]] = {}
    for row in rows:
        for group in groups_of(row):
            groups.setdefault(group, []).append(row.stored.id)
        part.void += row.void
        category = row.stored.category if row.example is None else row.example.category
        cell = (row.stored.source, category)
        tally = part.tallies.get(cell) or part.tallies.setdefault(cell, Tally())
        tally.rows_in += 1
        if row.original is None or row.example is None:
            part.quarantined += 1
            part.measured += 1
            continue
        read = estimate(row.original)
        tally.tokens_in += read
        if row.out is None:
            part.used += 1
            part.sides[row.example.side] += 1
            tally.rows_used += 1
            same_record = row.example.record is row.original.record
            tally.weights[row.example.repeats] += read if same_record else estimate(row.example)
        if every == 1 or int(row.stored.id[:8], 16) % every == 0:
            part.measured += 1
            if row.out is not None:
                before.append(row.original)
            elif row.original.record == row.example.record and row.original.category == row.example.category:
                same.append(row.example)
            else:
                before.append(row.original)
                after.append(row.example)
    for group, ids in groups.items():
        part.groups[group] = len(ids)
        if group[1] in (OUT, USED, *SHOWN):
            part.picks[group] = sorted(ids)[: _most(group)]
    edits = (entry for row in rows if row.out is None for _, entry in row.decided if entry.action == "edit")
    part.personal.update(personal_counts(edits))
    spoken = languages(same)
    part.languages_in = spoken + languages(before)
    part.languages_used = spoken + languages(after)
    unchanged = measure_batch(None, same)
    part.before = [unchanged, measure_batch(None, before)]
    part.after = [unchanged, measure_batch(None, after)]
    return part


def _most(group: Group) -> int:
    return PICKED_USED if group[1] == USED else PICKED


def _merge(total: _Part, part: _Part) -> None:
    for name in ("rows", "used", "quarantined", "void", "measured"):
        setattr(total, name, getattr(total, name) + getattr(part, name))
    for name in ("sides", "groups", "personal", "languages_in", "languages_used"):
        getattr(total, name).update(getattr(part, name))
    for group, ids in part.picks.items():
        total.picks[group] = sorted(total.picks.get(group, []) + ids)[: _most(group)]
    for cell, tally in part.tallies.items():
        mine = total.tallies.setdefault(cell, Tally())
        mine += tally
    total.before += part.before
    total.after += part.after


def _added(parts: Sequence[Mapping[Cell, Measures]]) -> dict[Cell, Measures]:
    cells: dict[Cell, list[Measures]] = {}
    for part in parts:
        for cell, made in part.items():
            cells.setdefault(cell, []).append(made)
    return {cell: add_up(found) for cell, found in cells.items()}
