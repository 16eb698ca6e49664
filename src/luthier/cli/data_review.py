"""`luthier data apply | report | convert`: a reviewer's decisions, the page to make them in, and other formats."""

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.console import note, out
from luthier.cli.data_clean import Folder, show
from luthier.core.errors import DataError


def apply(
    folder: Folder, decisions: Annotated[Path, typer.Argument(help="File that was saved in the report's page.")]
) -> None:
    """Fold a reviewer's decisions in; they overrule every step."""
    from luthier.core.hardware import cpu
    from luthier.curate.apply import read_decisions
    from luthier.curate.work import catch_up, finish, working

    with working(folder) as dataset:
        entries, inside = read_decisions(decisions, dataset), dataset.categories()
        dataset.add("review", 1, {"file": decisions.name}, entries)
        for made in catch_up(dataset, inside):
            out.print(f"{made.step} was run over the examples that came back: pass {made.number}")
        finish(dataset, workers=cpu().cores)
    out.print(f"{len(entries):,} decisions folded in")
    show(dataset)


def report(folder: Folder) -> None:
    """Write the card and the report of a dataset folder anew."""
    from luthier.core.hardware import cpu
    from luthier.curate.card import write_card
    from luthier.curate.report import write_report
    from luthier.curate.work import working

    with working(folder) as dataset:
        write_card(dataset, workers=cpu().cores)
        out.print(f"Written: {write_report(dataset, workers=cpu().cores)}")


def convert(
    paths: Annotated[list[Path], typer.Argument(help="Data files and folders, or one dataset folder.")],
    to: Annotated[str, typer.Option(help="Format of the rows to write, as messages, alpaca or sharegpt.")],
    output: Annotated[Path, typer.Option("--out", help=".jsonl, .json or .parquet file to write.")],
    type: Annotated[str, typer.Option(help="How a row is laid out; auto reads it from the keys.")] = "auto",
    side: Annotated[str | None, typer.Option(help="Of a dataset folder, only train or validation.")] = None,
) -> None:
    """Write rows in another format; what it cannot hold is left out and counted."""
    from luthier.curate.convert import convert_dataset, convert_files
    from luthier.data.dataset_folder import is_dataset_folder

    if output.exists():
        raise DataError("exists already", where=str(output), fix="choose another --out, or delete it first")
    folders = [path for path in paths if is_dataset_folder(path)]
    if folders and len(paths) > 1:
        raise DataError("a dataset folder is converted by itself", where=str(folders[0]), fix="give it alone")
    if side is not None and (not folders or side not in ("train", "validation")):
        raise DataError(f"--side {side}", fix="train or validation, of a dataset folder")
    made = (
        convert_dataset(paths[0], output, to, side=side) if folders else convert_files(paths, output, to, format=type)
    )
    for name, counts in (("not read", made.unread), ("left out", made.left_out), ("repaired", made.repaired)):
        for reason, number in counts.items():
            note(f"{number:,} × {name}: {reason}")
    for text in made.notes:
        note(text)
    out.print(f"Wrote {made.rows_out:,} of {made.rows_in:,} rows to {output}")
