"""`luthier data clean` and its steps one by one: from files to a dataset folder, and further work on one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from luthier.cli.console import note, out
from luthier.core.errors import DataError

if TYPE_CHECKING:
    from luthier.curate.clean import Plan
    from luthier.curate.folder import Dataset
    from luthier.curate.run import Progress as Report

Folder = Annotated[Path, typer.Argument(help="Dataset folder.")]
MaxDrop = Annotated[float, typer.Option(min=0, max=1, help="Share of all examples that one step may take out.")]
MaxDropCategory = Annotated[float, typer.Option(min=0, max=1, help="Share of a category that one step may take out.")]
Evaluation = Annotated[list[str] | None, typer.Option("--eval", help="NAME=PATH of an evaluation set; repeatable.")]
EMBEDDINGS = "Folder of static embeddings, or any model on disk (by name or folder)."
ValSize = Annotated[float, typer.Option(min=0, max=0.99, help="Share of groups held out for validation.")]


@contextmanager
def progress_bars() -> Iterator["Report"]:
    """A bar for each step; called with its name, batches done and batches in all."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=out, transient=True, disable=not out.is_terminal) as bars:
        tasks = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done)

        yield report


def named_paths(values: list[str] | None) -> dict[str, Path]:
    """NAME=PATH options; a bare path is named by its file.

    Raises:
        DataError: two have the same name.
    """
    named: dict[str, Path] = {}
    for value in values or []:
        name, found, path = value.partition("=")
        name, path = (name, path) if found else (Path(value).stem, value)
        if name in named:
            raise DataError(f"two evaluation sets are called {name}", fix="write --eval NAME=PATH with another name")
        named[name] = Path(path)
    return named


def embeddings_folder(value: str | None) -> Path | None:
    """The folder that --embeddings names: itself, or a model in the store."""
    if value is None or Path(value).is_dir():
        return Path(value) if value else None
    from luthier.models.store import resolve_model

    return resolve_model(value)


def _sources(paths: list[Path]) -> tuple[list[Path], dict[str, object]]:
    """The data files, and what a recipe says about the split, where a recipe is given instead of files."""
    if not (len(paths) == 1 and paths[0].suffix in (".yaml", ".yml")):
        return paths, {}
    from luthier.recipe import load_recipe

    recipe = load_recipe(paths[0]).recipe
    note(f"{paths[0]}: its datasets, val_set_size {recipe.val_set_size} and seed {recipe.seed} are used")
    return [Path(dataset.path) for dataset in recipe.datasets], {"val_size": recipe.val_set_size, "seed": recipe.seed}


def show(dataset: "Dataset") -> None:
    """What is in a folder, and what went where."""
    from collections import Counter

    counts = dataset.state["counts"]
    table = Table("rows", "", box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_row(f"{counts['rows_in']:,}", "read")
    for reason, number in Counter(counts["out"]).most_common():
        table.add_row(f"[red]−{number:,}[/]", escape(reason))
    for side, number in counts["used"].items():
        table.add_row(f"[bold]{number:,}[/]", side)
    out.print(table)
    for made, _ in dataset.view.holding():
        for text in made.parameters.get("notes", ()):
            note(f"{made.step}: {text}")
    out.print(f"Report: {dataset.path / 'report.html'}")
    out.print(f"Train on it: a recipe's `datasets: - path: {dataset.path}`")


def say_if_nothing_new(dataset: "Dataset", passes: int) -> None:
    """Say so when the folder had as many passes before: all that was found is in its ledger already."""
    if len(dataset.passes) == passes:
        note("nothing new: the ledger says all of it already")


def clean(
    paths: Annotated[list[Path], typer.Argument(help="Data files and folders, or one recipe whose datasets are used.")],
    output: Annotated[Path, typer.Option("--out", help="Dataset folder to make.")],
    type: Annotated[str, typer.Option(help="How a row is laid out; auto reads it from the keys.")] = "auto",
    category: Annotated[str | None, typer.Option(help="Column that gives an example's category.")] = None,
    val_size: ValSize = 0.05,
    seed: Annotated[int, typer.Option(help="Another seed is another split.")] = 0,
    evaluation: Evaluation = None,
    embeddings: Annotated[str | None, typer.Option(help=f"{EMBEDDINGS} Looks for semantic duplicates.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="A step to leave out; repeatable.")] = None,
    max_drop: MaxDrop = 0.2,
    max_drop_category: MaxDropCategory = 0.5,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core otherwise.")] = None,
) -> None:
    """Read, clean, deduplicate, split and check for leaks; every decision is written down and can be taken back."""
    from luthier.core.hardware import cpu
    from luthier.curate.workers import CLI, WARM, prepare

    if workers != 1:
        prepare([CLI, WARM])  # before the imports below: the two go on side by side
    from luthier.curate.clean import Plan, clean
    from luthier.curate.run import Budget

    files, settings = _sources(paths)
    plan = Plan(
        format=type, category=category, skip=frozenset(skip or ()), evaluation=named_paths(evaluation),
        embeddings=embeddings_folder(embeddings), budget=Budget(max_drop, max_drop_category),
        workers=workers or cpu().cores, **{"val_size": val_size, "seed": seed} | settings,
    )  # fmt: skip
    with progress_bars() as report:
        dataset = clean(files, output, plan, progress=report)
    show(dataset)


def add(
    folder: Folder,
    paths: Annotated[list[Path], typer.Argument(help="Data files and folders.")],
    type: Annotated[str, typer.Option(help="How a row is laid out; auto reads it from the keys.")] = "auto",
    category: Annotated[str | None, typer.Option(help="Column that gives an example's category.")] = None,
    val_size: ValSize = 0.05,
    seed: Annotated[int, typer.Option(help="Another seed is another split.")] = 0,
    evaluation: Evaluation = None,
    max_drop: MaxDrop = 0.2,
    max_drop_category: MaxDropCategory = 0.5,
) -> None:
    """Read further files into a dataset folder. What is in it keeps its side and goes before what is new."""
    from luthier.core.hardware import cpu
    from luthier.curate.clean import Plan, add
    from luthier.curate.run import Budget
    from luthier.curate.work import working

    plan = Plan(
        format=type, category=category, val_size=val_size, seed=seed, evaluation=named_paths(evaluation),
        budget=Budget(max_drop, max_drop_category), workers=cpu().cores,
    )  # fmt: skip
    with working(folder) as dataset, progress_bars() as report:
        passes = len(dataset.passes)
        skipped = add(dataset, paths, plan, progress=report)
    say_if_nothing_new(dataset, passes)
    if skipped:
        note(f"{skipped:,} rows are in the folder already and were not added again")
    show(dataset)


def work_on(folder: Path, work: Callable[["Dataset", "Plan", "Report"], None], **settings: object) -> None:
    """Open a folder, do something to it, and write what follows."""
    from luthier.core.hardware import cpu
    from luthier.curate.clean import Plan
    from luthier.curate.work import finish, working

    plan = Plan(workers=cpu().cores, **settings)
    with working(folder) as dataset, progress_bars() as report:
        passes = len(dataset.passes)
        work(dataset, plan, report)
        finish(dataset, workers=plan.workers)
    say_if_nothing_new(dataset, passes)
    show(dataset)


def _map_verb(name: str, text: str) -> Callable[..., None]:
    def verb(folder: Folder, max_drop: MaxDrop = 0.2, max_drop_category: MaxDropCategory = 0.5) -> None:
        from luthier.curate.clean import KEYED, map_steps
        from luthier.curate.run import Budget, run_steps

        def work(dataset: "Dataset", plan: "Plan", report: "Report") -> None:
            run_steps(dataset, [map_steps()[name]], workers=plan.workers, budget=plan.budget, progress=report)
            if name in KEYED:
                KEYED[name](dataset, plan)

        work_on(folder, work, budget=Budget(max_drop, max_drop_category))

    verb.__doc__ = text
    return verb


repair = _map_verb("repair", "Mend texts: encoding, control characters, “noinput”, prompt text behind an answer.")
defects = _map_verb("defects", "Take out or flag broken instructions and answers, by class.")
language = _map_verb("language", "Find answers in another language than the one that was asked in.")
personal = _map_verb("personal", "Replace personal data and secrets by typed placeholders.")


def slop(
    folder: Folder,
    reference: Annotated[list[Path] | None, typer.Option(help="Data written by people, of the same domain.")] = None,
) -> None:
    """Flag answers that are thick with jargon, for review, and print the dataset's rate; no row is taken out for it."""
    from rich.markdown import Markdown

    from luthier.core.hardware import cpu
    from luthier.curate.folder import Dataset
    from luthier.curate.logodds import markers
    from luthier.curate.measure import measure
    from luthier.curate.slop_report import count_jargon, reference_texts, slop_text

    texts = reference_texts(reference) if reference else []
    _map_verb("slop", "")(folder)
    with out.status("measuring"):
        dataset = Dataset(folder)
        measured = measure(dataset, workers=cpu().cores)
        dataset.close()
    everything = measured.everything
    marks = markers(everything.sample.texts(), texts) if texts else ()
    sources = {name: made.jargon for name, made in measured.sources.items()}
    known = count_jargon(texts) if texts else None
    out.print(Markdown(slop_text(everything.jargon, sources, reference=known, marks=marks)))


def dedup(folder: Folder, max_drop: MaxDrop = 0.2, max_drop_category: MaxDropCategory = 0.5) -> None:
    """Find exact and near duplicates; the best of each cluster stays."""
    from luthier.curate.clean import dedup
    from luthier.curate.run import Budget

    work_on(folder, lambda dataset, plan, report: dedup(dataset, plan), budget=Budget(max_drop, max_drop_category))


def semantic(folder: Folder, embeddings: Annotated[str, typer.Option(help=EMBEDDINGS)]) -> None:
    """Flag examples that say the same in other words, for review."""
    from luthier.curate.clean import semantic

    work_on(folder, lambda dataset, plan, report: semantic(dataset, plan), embeddings=embeddings_folder(embeddings))


def split(folder: Folder, val_size: ValSize = 0.05, seed: int = 0) -> None:
    """Put every group of examples on a side; what has a side keeps it."""
    from luthier.curate.clean import split

    work_on(folder, lambda dataset, plan, report: split(dataset, plan), val_size=val_size, seed=seed)


def leaks(
    folder: Folder, evaluation: Evaluation = None, max_drop: MaxDrop = 0.2, max_drop_category: MaxDropCategory = 0.5
) -> None:
    """Take out training examples that give validation or evaluation examples away."""
    from luthier.curate.clean import leaks
    from luthier.curate.run import Budget

    work_on(
        folder,
        lambda dataset, plan, report: leaks(dataset, plan),
        evaluation=named_paths(evaluation),
        budget=Budget(max_drop, max_drop_category),
    )
