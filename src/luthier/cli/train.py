"""`luthier train`: run a recipe, or go on with a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.check import show_check
from luthier.cli.console import err, note, out
from luthier.cli.progress import RunProgress
from luthier.core.errors import RecipeError
from luthier.core.events import EVENTS_FILE

if TYPE_CHECKING:
    from luthier.stages.run import TrainResult


def train(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="Recipe to run.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with, from its newest checkpoint.")] = None,
) -> None:
    """Train an adapter as the recipe says, compare it with the base, and write the report.

    Fields can be overridden: learning_rate=1e-4 or --learning-rate 1e-4. Ctrl-C saves and stops.
    """
    from luthier.stages import run

    if resume is not None:
        if recipe is not None or context.args:
            raise RecipeError("--resume goes on with a run as it was", fix="give the run folder alone")
        with RunProgress() as progress:
            result = run.resume(resume, say=progress.say, listen=progress.listen)
    else:
        result = _train(recipe or Path("recipe.yaml"), context.args)
    show_result(result)
    if result.status == "interrupted":
        raise typer.Exit(130)


def _train(path: Path, overrides: list[str]) -> "TrainResult":
    from luthier.recipe import load_recipe
    from luthier.stages import run
    from luthier.stages.check import check

    loaded = load_recipe(path, overrides)
    for text in loaded.notes:
        note(text)
    with RunProgress() as progress:
        checked = check(loaded.recipe, say=progress.say)
    try:
        show_check(checked)
        with RunProgress() as progress:
            return run.train(loaded.recipe, say=progress.say, listen=progress.listen, checked=checked)
    except KeyboardInterrupt:  # before the first step, or a second Ctrl-C: nothing new was saved
        if (Path(loaded.recipe.output_dir) / EVENTS_FILE).exists():
            err.print(f"Go on with: [bold]luthier train --resume {loaded.recipe.output_dir}[/]")
        raise
    finally:
        checked.prepared.close()


def show_result(result: "TrainResult") -> None:
    """The line that matters, and what to do next."""
    if result.status == "interrupted":
        err.print(f"Stopped. Go on with: [bold]luthier train --resume {result.run_dir}[/]")
        return
    from luthier.evaluate.report_words import change_text, sample_size

    held = result.comparison
    if held is not None:
        line = f"held-out loss {held.before:.3f} -> {held.after:.3f}"
        out.print(f"\n[bold]{line}[/] ({change_text(held)}, {sample_size(held)}): {held.verdict}")
    else:
        out.print("\nTrained. Nothing was held out, so there is no measure of what it learned.")
    out.print(f"report   {result.report}")
    out.print(f"adapter  {result.adapter_dir}")
    out.print(f"try it   [bold]luthier chat {result.run_dir} --compare[/]")
