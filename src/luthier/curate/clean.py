"""The whole way from files to a dataset folder.

    read → repair → defects → language → slop → personal → dedup → (semantic) → split → leaks

Mechanical rules come before duplicates, so that damage hides no copy; sides come after duplicates, so that copies
stay together; leaks come last, when the sides are known. The folder appears when all of it is done, or not at all.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.files import atomic_folder
from luthier.curate.folder import Dataset, start
from luthier.curate.run import Budget, Progress, add_pass, run_steps
from luthier.curate.step import Step
from luthier.curate.work import finish
from luthier.curate.workers import WARM, prepare

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.curate.gather import Gathered
    from luthier.curate.intake import Intake

STEPS = ("repair", "defects", "language", "slop", "personal", "dedup", "semantic", "split", "leaks")
SMALL = 16_000_000  # bytes of files that are read in about a second


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `clean` does.

    Attributes:
        format: how rows are laid out, or "auto".
        category: the column that says what an example is counted under; None takes "category" where rows have it.
        skip: steps left out, of `STEPS`.
        val_size: share of groups held out for validation.
        seed: another seed is another split.
        evaluation: name → file or folder of an evaluation set that training examples must not give away.
        embeddings: a folder of static embeddings for semantic duplicates; None leaves the step out.
        budget: how much one step may take out.
        workers: processes.
    """

    format: str = "auto"
    category: str | None = None
    skip: frozenset[str] = frozenset()
    val_size: float = 0.05
    seed: int = 0
    evaluation: Mapping[str, Path] = field(default_factory=dict)
    embeddings: Path | None = None
    budget: Budget = field(default_factory=Budget)
    workers: int = 1

    def __post_init__(self) -> None:
        if unknown := self.skip - set(STEPS):
            raise DataError(f"no step {', '.join(sorted(unknown))}", fix=f"steps are {', '.join(STEPS)}")
        if not 0 <= self.val_size < 1:
            raise DataError(f"a share of {self.val_size} cannot be held out", fix="give a number from 0 to below 1")


def map_steps() -> dict[str, Step]:
    """The steps that look at one example at a time, by name, in the order they run in."""
    from luthier.curate.defects import DEFECTS
    from luthier.curate.language import LANGUAGE
    from luthier.curate.personal import PERSONAL
    from luthier.curate.repair import REPAIR
    from luthier.curate.slop import SLOP

    return {step.name: step for step in (REPAIR, DEFECTS, LANGUAGE, SLOP, PERSONAL)}


def clean(paths: Sequence[Path], out: Path, plan: Plan | None = None, *, progress: Progress | None = None) -> Dataset:
    """Read files into a new dataset folder and run every step over it.

    Args:
        paths: data files and folders.
        out: the folder to make.
        progress: called with a step's name, batches done and batches in all.

    Raises:
        DataError: `out` exists; a file is damaged; nothing can be used; a step would take out too much.
    """
    from luthier import __version__
    from luthier.curate.gather import Gathered

    plan = plan or Plan()
    if out.exists():
        raise DataError("exists already", where=str(out), fix="choose another --out, or work on it step by step")
    with atomic_folder(out) as folder:
        dataset = start(folder, __version__)
        intake = _intake(dataset, paths, plan)
        dataset.add_tables(intake.tables, intake.sources)
        dataset.add("read", 1, {"format": plan.format, "notes": intake.notes}, intake.entries)
        with Gathered(dataset, KEYED.keys() - plan.skip, plan.seed) as gathered:
            _run(dataset, plan, progress, None, gathered)
        finish(dataset, workers=plan.workers)
        dataset.close()
    return Dataset(out)


def add(dataset: Dataset, paths: Sequence[Path], plan: Plan, *, progress: Progress | None = None) -> int:
    """Read further files into a folder that is open for work, and run every step over what is new.

    Nothing that is in the folder moves: it keeps its side, and of two alike the one that was there first stays.

    Returns:
        rows that were not added because the folder has them already, from the same source.

    Raises:
        DataError: see `clean`.
    """
    known = set(dataset.ids())
    skipped = 0

    def new(tables: Iterable["pa.Table"]) -> Iterator["pa.Table"]:
        nonlocal skipped
        for table in tables:
            fresh = [name not in known for name in table["id"].to_pylist()]
            skipped += len(table) - sum(fresh)
            yield table.filter(fresh)

    intake, state = _intake(dataset, paths, plan), dataset.state
    file = dataset.add_tables(new(intake.tables), intake.sources)
    if dataset.state["records"][-1]["rows"]:
        entries = [entry for entry in intake.entries if entry.record not in known]
        dataset.add("read", 1, {"format": plan.format, "notes": intake.notes}, entries)
    else:  # the folder has all of it; the empty file is no part of it, and goes when the folder is written
        dataset.state = state
    _run(dataset, plan, progress, {file})
    finish(dataset, workers=plan.workers)
    return skipped


def _intake(dataset: Dataset, paths: Sequence[Path], plan: Plan) -> "Intake":
    """The files. What is read before the workers would have started is read here, while they start."""
    from luthier.curate.intake import read_sources, size_of

    if plan.workers > 1:
        prepare([WARM])
    workers = plan.workers if size_of(paths) > SMALL else 1
    return read_sources(paths, format=plan.format, category=plan.category, run=partial(dataset.run, workers=workers))


def _run(
    dataset: Dataset,
    plan: Plan,
    progress: Progress | None,
    files: Collection[str] | None,
    gathered: "Gathered | None" = None,
) -> None:
    """Every step that is not skipped: those for single examples over these records files, the others over all.

    What the others need of each example is gathered on the walk of the first, where that is over all, too.
    """
    steps = [step for name, step in map_steps().items() if name not in plan.skip]
    more = {} if gathered is None else {"also": gathered.look, "found": gathered.add}
    run_steps(dataset, steps, workers=plan.workers, budget=plan.budget, progress=progress, files=files, **more)
    if gathered is not None:
        gathered.complete()
    for name, step in KEYED.items():
        if name in plan.skip:
            continue
        if progress is not None:
            progress(name, 0, 1)
        step(dataset, plan, gathered)
        if progress is not None:
            progress(name, 1, 1)


def _said(notes: Counter[str]) -> list[str]:
    return [f"{number:,} × {what}" for what, number in sorted(notes.items()) if number]


def dedup(dataset: Dataset, plan: Plan, gathered: "Gathered | None" = None) -> None:
    """Exact, then near duplicates."""
    from luthier.curate.exact import exact_duplicates
    from luthier.curate.near import near_duplicates

    for kind, step in (("exact", exact_duplicates), ("near", near_duplicates)):
        notes: Counter[str] = Counter()
        known: dict[str, Any] = {}
        if gathered is not None:
            known = gathered.for_exact() if kind == "exact" else gathered.for_near()
        entries = step(dataset, workers=plan.workers, notes=notes, **known)
        add_pass(dataset, "dedup", 1, {"kind": kind, "notes": _said(notes)}, entries, budget=plan.budget)


def semantic(dataset: Dataset, plan: Plan, gathered: "Gathered | None" = None) -> None:
    """Flag examples that say the same in other words, where there are embeddings."""
    if plan.embeddings is None:
        return
    from luthier.curate.semantic import semantic_duplicates

    notes: Counter[str] = Counter()
    entries = semantic_duplicates(dataset, plan.embeddings, workers=plan.workers, notes=notes)
    parameters = {"embeddings": plan.embeddings.name, "notes": _said(notes)}
    add_pass(dataset, "semantic", 1, parameters, entries)


def split(dataset: Dataset, plan: Plan, gathered: "Gathered | None" = None) -> None:
    """Put every group on a side."""
    from luthier.curate.sides import split_table

    known = {} if gathered is None else gathered.for_split()
    entries = split_table(dataset, val_size=plan.val_size, seed=plan.seed, workers=plan.workers, **known)
    parameters = {"val_size": plan.val_size, "seed": plan.seed}
    add_pass(dataset, "split", 1, parameters, entries, budget=plan.budget)


def leaks(dataset: Dataset, plan: Plan, gathered: "Gathered | None" = None) -> None:
    """Take out training examples that give a validation or evaluation example away."""
    from luthier.curate.leaks import leaks

    entries, table = leaks(dataset, plan.evaluation, workers=plan.workers)
    sets = ", ".join(f"{line['set']} ({line['items']:,})" for line in table)
    add_pass(dataset, "leaks", 1, {"sets": sets, "table": table}, entries, budget=plan.budget)


def conventions(dataset: Dataset, plan: Plan, gathered: "Gathered | None" = None) -> None:
    """Flag answers that end as hardly any other of their source does, which no rule for single examples can see."""
    from luthier.curate.conventions import VERSION, conventions

    known = {} if gathered is None else gathered.for_conventions()
    entries = conventions(dataset, workers=plan.workers, **known)
    add_pass(dataset, "defects", VERSION, {"kind": "conventions"}, entries)


KEYED: dict[str, Callable[..., None]] = {
    "defects": conventions, "dedup": dedup, "semantic": semantic, "split": split, "leaks": leaks,
}  # fmt: skip
