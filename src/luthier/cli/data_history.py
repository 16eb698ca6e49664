"""`luthier data why | undo | diff`: what was decided about an example, taking it back, comparing two datasets."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from luthier.cli.console import note, out
from luthier.core.errors import DataError

Folder = Annotated[Path, typer.Argument(help="Dataset folder.")]


def why(folder: Folder, id: Annotated[str, typer.Argument(help="Id of the example, or its beginning.")]) -> None:
    """Everything that was decided about one example, and what it is now."""
    from luthier.curate.folder import Dataset
    from luthier.curate.history import why

    story = why(Dataset(folder), id)
    stored = story.stored
    out.print(f"[bold]{stored.id}[/]  read from {escape(stored.where)}, {stored.kind}")
    table = Table("pass", "step", "decision", "reason", "evidence", box=None, padding=(0, 2, 0, 0))
    for made in story.decisions:
        entry = made.entry
        evidence = [entry.detail, f"score {entry.score:.3f}" if entry.score is not None else "", entry.counterpart]
        evidence.append(f"{entry.field} {entry.start}–{entry.end}" if entry.end else entry.field)
        action = f"{entry.action} → {entry.after}" if entry.action == "split" else entry.action
        cells = [str(made.made.number), made.made.step, action, entry.reason, "; ".join(filter(None, evidence))]
        table.add_row(*map(escape, cells), style="dim strike" if made.retracted else None)
    out.print(table if story.decisions else "Nothing was decided about it.")
    now = story.now
    if now.out is not None:
        out.print(f"Not in the dataset: {escape(now.out.reason)}")
        if now.out.counterpart:
            out.print(f"Its counterpart: luthier data why {escape(str(folder))} {escape(now.out.counterpart)}")
    else:
        out.print(f"In the dataset, side {now.example.side or 'train'}.")
    if now.example is None:
        out.print(escape(stored.content))
        return
    for name in ("messages", "chosen", "rejected"):
        for turn in getattr(now.example.record, name):
            label = turn.role if name == "messages" else f"{name}, {turn.role}"
            out.print(f"\n[bold]{label}[/]\n{escape(turn.content)}{escape(turn.tool_calls)}")
    if now.example.record.text:
        out.print(f"\n{escape(now.example.record.text)}")


def undo(
    folder: Folder,
    step: Annotated[str | None, typer.Option("--step", help="Take back all that this step decided.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Take back what was decided about this example.")] = None,
) -> None:
    """Take decisions back: of a step, about an example, or of a step about an example. The ledger keeps both."""
    from luthier.core.hardware import cpu
    from luthier.curate.history import undo
    from luthier.curate.work import catch_up, finish, working

    if not (step or id):
        raise DataError("nothing to take back is named", fix="give --step NAME, --id ID, or both")
    with working(folder) as dataset:
        before, inside = dataset.state["counts"], dataset.categories()
        for made in undo(dataset, step=step, record=id):
            out.print(f"Taken back: pass {made.number}, {made.step}")
        for made in catch_up(dataset, inside):
            out.print(f"{made.step} was run over the examples that came back: pass {made.number}")
        finish(dataset, workers=cpu().cores)
        after = dataset.state["counts"]
    out.print(f"{sum(before['used'].values()):,} → {sum(after['used'].values()):,} examples in the dataset")
    if more := after["void_edits"] - before["void_edits"]:
        note(f"{more:,} later edits were made on top of these and no longer apply")


def diff(
    a: Annotated[Path, typer.Argument(help="Dataset folder.")],
    b: Annotated[Path, typer.Argument(help="The other one.")],
    show: Annotated[int, typer.Option(min=0, help="Ids shown of each kind.")] = 5,
) -> None:
    """What one dataset has and the other does not, and which examples differ."""
    from luthier.curate.history import diff

    made = diff(a, b)
    out.print(f"{made.same:,} examples are the same")
    changed = [f"{key} ({', '.join(columns)})" for key, columns in made.changed.items()]
    for name, ids in ((f"only in {a}", made.only_a), (f"only in {b}", made.only_b), ("changed", changed)):
        more = f" … and {len(ids) - show:,} more" if len(ids) > show else ""
        out.print(
            escape(f"{len(ids):,} {name}{': ' if ids and show else ''}{', '.join(ids[:show])}{more if show else ''}")
        )
