"""Run steps over a dataset: batches go through all of them in a worker, and each step's entries become a pass."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.core.errors import DataError
from luthier.curate.example import LEAVES, Entry, Example
from luthier.curate.fold import fold
from luthier.curate.folder import Dataset, Pass
from luthier.curate.ledger import to_entries, to_table
from luthier.curate.step import Step

if TYPE_CHECKING:
    import pyarrow as pa

CATEGORY_AT_LEAST = 10  # examples dropped of a category before its share counts: 1 of 1 is no alarm
T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # step, batches done, batches in all


@dataclass(frozen=True)
class Budget:
    """How much one step may take out: shares of all examples, and of the examples of any one category."""

    overall: float = 0.2
    category: float = 0.5

    def check(self, step: str, seen: Counter[str], entries: Sequence[Entry], categories: dict[str, str]) -> None:
        """Stop before a step takes too much away.

        Args:
            seen: category → examples that the step looked at; "" are those without one.
            categories: of each example in the dataset that an entry may take out.

        Raises:
            DataError: more than the budget would go; names the reasons with their counts.
        """
        gone = {
            entry.record: entry.reason
            for entry in entries
            if entry.action in LEAVES and entry.record in categories  # what is out already is not taken out
        }
        total = seen.total()
        reasons = ", ".join(f"{number:,} × {reason}" for reason, number in Counter(gone.values()).most_common(5))
        if total and len(gone) > self.overall * total:
            raise DataError(
                f"step {step} would take out {len(gone):,} of {total:,} examples ({100 * len(gone) / total:.0f} %), "
                f"more than the {100 * self.overall:.0f} % one step may: {reasons}; nothing was written",
                fix="look at a few of them; if it is right, allow more with --max-drop (a share, as 0.3)",
            )
        for category, number in Counter(categories[record] for record in gone).most_common():
            share = number / max(1, seen[category])
            if category and number >= CATEGORY_AT_LEAST and share > self.category:
                raise DataError(
                    f"step {step} would take out {number:,} of the {seen[category]:,} examples of category "
                    f"{category!r} ({100 * share:.0f} %), more than the {100 * self.category:.0f} % one step may: "
                    f"{reasons}; nothing was written",
                    fix="look at a few of them; if it is right, allow more with --max-drop-category (a share, as 0.8)",
                )


Decided = list[tuple["pa.Table", Counter[str], dict[str, str]]]


def _chain(
    steps: Sequence[Step], also: Callable[[list[Example], list[Example]], T], examples: list[Example]
) -> tuple[Decided, T]:
    """For each step its entries, what it saw by category, and the categories of what it took out; and what `also` made.

    Examples that are taken out are as they were by then.
    """
    made: Decided = []
    dropped: list[Example] = []
    for step in steps:
        seen = Counter(example.category for example in examples)
        entries = step.run(examples)
        by_record: dict[str, list[Entry]] = {}
        for entry in entries:
            by_record.setdefault(entry.record, []).append(entry)
        left, gone = [], {}
        for example in examples:
            if example.id not in by_record:
                left.append(example)
                continue
            after, out, _ = fold(example, by_record[example.id])
            if out is None:
                left.append(after)
            else:
                gone[example.id] = example.category
                dropped.append(after)
        assert len(by_record.keys() - {example.id for example in examples}) == 0, step.name
        made.append((to_table(entries), seen, gone))
        examples = left
    return made, also(examples, dropped)


def _nothing(examples: list[Example], dropped: list[Example]) -> None:
    pass


def run_steps(
    dataset: Dataset,
    steps: Sequence[Step],
    *,
    workers: int = 1,
    budget: Budget | None = None,
    progress: Progress | None = None,
    files: Collection[str] | None = None,
    also: Callable[[list[Example], list[Example]], T] = _nothing,
    found: Callable[[T], None] | None = None,
) -> list[Pass]:
    """One pass over the dataset (or its records `files`) for all of these steps; each that has something to say, or is
    run for the first time, becomes a pass of the ledger.

    Args:
        also: picklable; called with what the steps left of each batch, and with what they took out of it, so that
            whoever needs to know something of every example takes no walk of their own.
        found: called with what `also` returned, in the order of the batches.

    Raises:
        DataError: a step would take out more than the budget allows; no pass is added then.
    """
    import pyarrow as pa

    tables: list[list[pa.Table]] = [[] for _ in steps]
    seen: list[Counter[str]] = [Counter() for _ in steps]
    gone: list[dict[str, str]] = [{} for _ in steps]
    name, batches = " → ".join(step.name for step in steps), len(dataset.view.batches)
    walk = dataset.map(partial(_chain, tuple(steps), also), workers=workers, files=files)
    for done, (made, more) in enumerate(walk, 1):
        if found is not None:
            found(more)
        for index, (table, saw, categories) in enumerate(made):
            tables[index].append(table)
            seen[index] += saw
            gone[index] |= categories
        if progress is not None:
            progress(name, done, batches)
    entries = [list(to_entries(pa.concat_tables(parts))) if parts else [] for parts in tables]
    for step, decided, saw, categories in zip(steps, entries, seen, gone, strict=True):
        (budget or Budget()).check(step.name, saw, decided, categories)
    passes = [dataset.add(step.name, step.version, {}, decided) for step, decided in zip(steps, entries, strict=True)]
    return [made for made in passes if made is not None]


def add_pass(
    dataset: Dataset,
    step: str,
    version: int,
    parameters: dict[str, Any],
    entries: "Sequence[Entry] | pa.Table",
    *,
    budget: Budget | None = None,
) -> Pass | None:
    """Add the entries of a step that looks at the whole dataset, if they are within the budget (`Dataset.add`).

    Raises:
        DataError: see `Budget.check`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(entries, Sequence):
        leaving = [entry for entry in entries if entry.action in LEAVES]
    else:
        leaving = list(to_entries(entries.filter(pc.is_in(entries["action"], pa.array(LEAVES)))))
    if leaving:
        categories = dataset.categories()
        (budget or Budget()).check(step, Counter(categories.values()), leaving, categories)
    return dataset.add(step, version, parameters, entries)
