"""`luthier runs`: list, show and compare runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from luthier.cli.console import big, out, size, span

if TYPE_CHECKING:
    from luthier.evaluate.summary import RunSummary

app = typer.Typer(no_args_is_help=True, help="Runs in a folder: list, show, compare.")
Root = Annotated[Path, typer.Argument(help="Folder that holds runs.")]


@app.command("list")
def list_(root: Root = Path("runs")) -> None:
    """Show the runs under a folder, newest last."""
    from luthier.evaluate.summary import list_runs

    runs = list_runs(root) if root.is_dir() else []
    if not runs:
        out.print(f"No runs under {root}.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("run", overflow="fold")  # a path must be readable in full, to be copied
    for name in ("status", "model", "steps", "held-out loss", "started"):
        table.add_column(name)
    for run in runs:
        started = run.started.strftime("%Y-%m-%d %H:%M") if run.started else ""
        table.add_row(str(run.path), run.status, run.model, _steps(run), _loss(run), started)
    out.print(table)


@app.command()
def show(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Show one run."""
    from luthier.evaluate.report import write_report
    from luthier.evaluate.summary import read_summary

    summary = read_summary(run)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for name, value in _facts(summary).items():
        table.add_row(name, value)
    out.print(table)
    for line in summary.stages:
        passed = {True: "passed", False: "not passed", None: line.status or "not judged yet"}[line.passed]
        out.print(escape(f"stage {line.number} {line.name}: {passed}"))
    for said in _decisions(summary):
        out.print(escape(said))
    for text in summary.warnings:
        out.print(f"[yellow]warning[/] {escape(text)}")
    out.print(f"report  {write_report(run)}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
) -> None:
    """Show runs side by side: what differs in their recipes, and what came out."""
    from luthier.evaluate.summary import read_summary
    from luthier.recipe import load_recipe

    if len(runs) < 2:
        raise typer.BadParameter("give at least two run folders")
    summaries = [read_summary(run) for run in runs]
    recipes = [load_recipe(run / "recipe.yaml").recipe.model_dump() for run in runs]
    table = Table("", *[str(run) for run in runs], box=None, padding=(0, 2, 0, 0))
    for field in recipes[0]:
        values = [str(recipe[field]) for recipe in recipes]
        if len(set(values)) > 1 and field != "output_dir":
            table.add_row(field, *values)
    table.add_section()
    facts = [_facts(summary) for summary in summaries]
    for name in facts[0]:
        table.add_row(name, *[fact[name] for fact in facts])
    out.print(table)


def _steps(run: "RunSummary") -> str:
    if run.stages and not run.steps:
        return f"{sum(line.passed is True for line in run.stages)}/{len(run.stages)} stages"
    return f"{run.steps_done}/{run.total_steps}" if run.total_steps else str(run.steps_done)


def _decisions(run: "RunSummary") -> list[str]:
    """What the run noticed and did, a line each; of validations that found nothing, none."""
    from luthier.evaluate.decision_words import QUIET, decision_line

    some = [one for one in run.decisions if one.kind != "stage" and one.fields.get("verdict") not in QUIET]
    return [line for one in some if (line := decision_line(one.fields))]


def _loss(run: "RunSummary") -> str:
    held = run.heldout
    if held is not None:
        return f"{held.before:.3f} -> {held.after:.3f} ({-held.change_percent:+.1f} %)"
    if run.validations:
        return f"{run.validations[-1].loss:.3f} at step {run.validations[-1].step}"
    return "not measured"


def _facts(run: "RunSummary") -> dict[str, str]:
    held = run.heldout
    interval = f"{held.interval[0]:.1f} to {held.interval[1]:.1f} %" if held and held.interval else ""
    return {
        "status": run.status,
        "model": run.model,
        "adapter": f"{run.adapter}, {big(run.adapter_parameters or 0)} parameters",
        "steps": _steps(run),
        "held-out loss": _loss(run),
        "95 % interval": interval,
        "verdict": held.verdict if held else "",
        "best step": str(run.best_step or ""),
        "tokens/s": f"{run.tokens_per_second:,.0f}" if run.tokens_per_second else "",
        "time": span(run.seconds) if run.seconds else "",
        "peak memory": size(run.peak_rss_bytes) if run.peak_rss_bytes else "",
    }
