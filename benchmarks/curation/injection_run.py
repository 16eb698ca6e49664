"""The pipeline as a user runs it, over a mixture, and what it said about every row."""

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from inject import Mixture
from inject_kinds import Row

from luthier.curate.clean import Plan, clean
from luthier.curate.example import Entry, Example
from luthier.curate.folder import Dataset, Folded
from luthier.curate.run import Budget

FREE = Budget(1.0, 1.0)  # the benchmark wants to see what goes, not to be stopped


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a row.

    Attributes:
        example: the row in the end, with its edits, even when it is out; None when it could not be read as an example.
        out: the decision that took it out, or None.
        decisions: (step, entry) of everything said about it, in order.
    """

    example: Example | None
    out: Entry | None
    decisions: tuple[tuple[str, Entry], ...]

    @property
    def text(self) -> tuple[str, str]:
        """(prompt, answer) in the end."""
        return (self.example.prompt, self.example.answer) if self.example else ("", "")


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Rows as a messages file; nothing in it tells which are wrong."""
    lines = []
    for row in rows:
        turns = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.answer}]
        value = {"messages": turns} | ({"category": row.category} if row.category else {})
        lines.append(json.dumps(value, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run_clean(mixture: Mixture, folder: Path, *, workers: int = 1) -> tuple[dict[str, Fate], dict[str, str]]:
    """Clean the rows for training, with what is held out named as evaluation sets. Returns (key → fate, id → key)."""
    train = write_rows(folder / "train.jsonl", mixture.rows)
    rows = {
        "held_out": mixture.validation,
        "evaluation": mixture.evaluation,
    }  # "validation" is the name of our own split
    files = {name: write_rows(folder / f"{name}.jsonl", held) for name, held in rows.items()}
    plan = Plan(evaluation=files, val_size=0.0, budget=FREE, workers=workers)
    made, keys = fates(_clean(train, folder / "cleaned", plan), {train.name: mixture.rows})
    for name, held in rows.items():  # a leak names the line of the file that it repeats
        keys |= {f"{files[name].name}:{number}": row.key for number, row in enumerate(held, 1)}
    return made, keys


def run_split(mixture: Mixture, folder: Path, *, workers: int = 1) -> tuple[dict[str, Fate], dict[str, str]]:
    """Split copies together with their originals into two halves, where chance would part half of the pairs.

    Only steps about copies run. Returns (key → fate, id → key), of the copies
    and of what was held out as validation.
    """
    copies = {one.key for one in mixture.injections if one.kind == "cross-split copy"}
    rows = [*mixture.validation, *(row for row in mixture.rows if row.key in copies)]
    file = write_rows(folder / "both.jsonl", rows)
    only = frozenset({"repair", "defects", "language", "slop", "personal", "semantic"})
    plan = Plan(skip=only, val_size=0.5, budget=FREE, workers=workers)
    return fates(_clean(file, folder / "split", plan), {file.name: rows})


def _clean(file: Path, out: Path, plan: Plan) -> Dataset:
    """Clean a file under its bare name: ids are made of names, and the temporary folder has another one every time."""
    with chdir(file.parent):
        return clean([Path(file.name)], out, plan)


def fates(dataset: Dataset, files: dict[str, list[Row]]) -> tuple[dict[str, Fate], dict[str, str]]:
    """Look every row's story up in a dataset folder. Returns (key → fate, example id → key)."""
    view = dataset.view
    steps = {made.number: made.step for made in view.passes}
    found: dict[str, Fate] = {}
    keys: dict[str, str] = {}
    for index in range(len(view.batches)):
        folded = view.folded(index)
        entries = view.entries(index)
        for made in folded:
            decided = tuple((steps[number], entry) for number, entry in entries.get(made.stored.id, ()))
            key = keys[made.stored.id] = _key(made, files)
            found[key] = Fate(made.example, made.out, decided)
    assert len(found) == sum(map(len, files.values()))
    return found, keys


def _key(made: Folded, files: dict[str, list[Row]]) -> str:
    place, _, line = made.stored.where.rpartition(":")
    return files[Path(place).name][int(line) - 1].key


def reasons(made: dict[str, Fate]) -> dict[tuple[str, str, str], int]:
    """(step, action, reason) → rows it was said about."""
    counts: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for key, fate in made.items():
        for step, entry in fate.decisions:
            counts[step, entry.action, entry.reason].add(key)
    return {name: len(keys) for name, keys in sorted(counts.items())}
