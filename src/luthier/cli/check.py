"""`luthier check`: what a recipe will do and what is wrong with it, before anything is loaded."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from luthier.cli.console import big, err, note, out, size, span
from luthier.cli.progress import RunProgress

if TYPE_CHECKING:
    from luthier.stages.check import Check
    from luthier.stages.plan_check import PlanCheck


def check(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="Recipe to check.")] = Path("recipe.yaml"),
) -> None:
    """Check recipe, data, model, memory and disk; no weight is loaded, the run folder is not touched.

    Fields can be overridden: learning_rate=1e-4 or --learning-rate 1e-4.
    """
    from luthier.recipe import load_recipe
    from luthier.stages.check import check as check_recipe

    loaded = load_recipe(recipe, context.args)
    for text in loaded.notes:
        note(text)
    with RunProgress() as progress:
        result = check_recipe(loaded.recipe, say=progress.say)
    try:
        show_check(result)
    finally:
        result.close()
    command = Text(shlex.join(["luthier", "train", str(recipe), *context.args]), "bold")
    out.print(Text("Ready. Next: ").append(command), soft_wrap=True)


def show_check(result: "Check | PlanCheck") -> None:
    """The table of what will happen, the decisions, and the warnings; of each stage where there are stages."""
    from luthier.stages.plan_check import PlanCheck

    if not isinstance(result, PlanCheck):
        _show_one(result)
        return
    for number, (stage, check) in enumerate(zip(result.recipe.stages, result.stages, strict=True), 1):
        gate = "" if stage.gate == "none" else f", gate: {stage.gate}"
        out.print(f"\n[bold]stage {number} of {len(result.stages)}: {stage.name}[/]{gate}")
        _show_one(check)
    out.print(f"\nAll stages: at most {size(result.disk_bytes)} in {result.recipe.output_dir}")


def _show_one(result: "Check") -> None:
    from luthier.evaluate.adapter_words import adapter_words
    from luthier.stages.estimate import estimated_seconds

    prepared, settings = result.prepared, result.prepared.settings
    accounts = prepared.accounts
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    table.add_row(
        "model",
        f"{prepared.recipe.base_model} ({prepared.facts.model_type}, {big(prepared.facts.parameters)} parameters)",
    )
    words = adapter_words(prepared.recipe.model_dump())
    table.add_row("adapter", f"{words} ({big(result.adapter_parameters)} parameters)")
    table.add_row("compute", prepared.place.why)
    for source in accounts.sources:
        table.add_row("data", f"{source['path']}: {source['rows']:,} rows, {source['why']}")
    lost = sum(accounts.dropped.values())
    table.add_row(
        "rows",
        f"{accounts.rows_in:,} read, {lost:,} left out, "
        f"{len(prepared.train):,} to train on, {len(prepared.val):,} held out",
    )
    table.add_row("tokens", f"{prepared.train_tokens:,} a pass, {prepared.label_tokens:,} of them trained on")
    epochs = f"{prepared.recipe.num_epochs:g} epoch{'s' if prepared.recipe.num_epochs != 1 else ''}"
    table.add_row("steps", f"{settings.total_steps:,} of about {settings.batch_tokens:,} tokens ({epochs})")
    table.add_row("memory", f"about {size(result.memory_bytes)} at the peak")
    table.add_row("disk", f"at most {size(result.disk_bytes)} in {prepared.recipe.output_dir}")
    estimate = estimated_seconds(result)
    if estimate is not None:
        table.add_row("time", f"roughly {span(estimate)}, judged from this machine's matrix speed")
    out.print(table)
    for reason, number in [*accounts.dropped.items(), *accounts.changed.items()]:
        note(f"{number:,} × {reason}")
    for text in [*accounts.notes, *settings.notes]:
        note(text)
    for text in result.warnings:
        err.print(f"[yellow]warning[/] {text}")
    for text in result.advice:
        err.print(Text("advice ", "cyan").append(text, ""), soft_wrap=True)
