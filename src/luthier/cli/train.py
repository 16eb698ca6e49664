"""`luthier train`: run a recipe, or go on with a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from luthier.cli.check import show_check
from luthier.cli.console import err, note, out
from luthier.cli.progress import RunProgress
from luthier.core.errors import RecipeError
from luthier.core.events import EVENTS_FILE

if TYPE_CHECKING:
    from luthier.stages.run import TrainResult

# Of statuses that are no success; 1 is an error, 2 a wrong command line.
EXIT_CODES = {"diverged": 3, "forgetting": 4, "not accepted": 5, "interrupted": 130}
FORGETTING = (
    "[bold yellow]forgetting[/]: the training was stopped since the model was losing what it knew; what is published "
    "keeps within what may be forgotten, and is clearly better on the target"
)


def train(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="Recipe to run.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with, from its newest checkpoint.")] = None,
    accept: Annotated[
        list[str] | None, typer.Option(help="With --resume: what may have changed since; may be given more than once.")
    ] = None,
) -> None:
    """Train an adapter as the recipe says, compare it with the base, and write the report.

    Fields can be overridden: learning_rate=1e-4 or --learning-rate 1e-4. Ctrl-C saves and stops. Exit codes: 0
    published, 1 an error, 3 diverged, 4 stopped for forgetting, 5 the result is not accepted, 130 interrupted.
    """
    from luthier.stages import run

    if resume is not None:
        if recipe is not None or context.args:
            raise RecipeError("--resume goes on with a run as it was", fix="give the run folder alone")
        with RunProgress() as progress:
            result = run.resume(resume, say=progress.say, listen=progress.listen, accept=accept or ())
    elif accept:
        raise RecipeError("--accept is for a run that goes on", fix="leave it out, or give --resume RUN with it")
    else:
        result = _train(recipe or Path("recipe.yaml"), context.args)
    show_result(result)
    if code := EXIT_CODES.get(result.status, 0):
        raise typer.Exit(code)


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
        parts = checked.stages if loaded.recipe.stages else [checked]
        shown = {text for part in parts for text in (*part.warnings, *part.advice)}
        with RunProgress() as progress:

            def listen(event: dict[str, Any]) -> None:
                if event["event"] not in ("warning", "advice") or event.get("text") not in shown:
                    progress.listen(event)

            return run.train(loaded.recipe, say=progress.say, listen=listen, checked=checked)
    except KeyboardInterrupt:  # before the first step, or a second Ctrl-C: nothing new was saved
        if (Path(loaded.recipe.output_dir) / EVENTS_FILE).exists():
            err.print(f"Go on with: [bold]luthier train --resume {loaded.recipe.output_dir}[/]")
        raise
    finally:
        checked.close()


def show_result(result: "TrainResult") -> None:
    """The lines that matter, and what to do next."""
    if result.status == "interrupted":
        err.print(f"Stopped. Go on with: [bold]luthier train --resume {result.run_dir}[/]")
        return
    out.print()
    for stage in result.stages:
        _show_loss(stage, f"stage {stage.run_dir.name}: ")
    if not result.stages:
        _show_loss(result)
    if result.text:
        err.print(Text.assemble((result.status, "bold yellow"), f": {result.text}"), soft_wrap=True)
    elif result.status == "forgetting":
        err.print(FORGETTING, soft_wrap=True)
    out.print(f"report   {result.report}")
    if result.adapter_dir is not None:
        out.print(f"adapter  {result.adapter_dir}{_which(result)}")
    if result.rejected_dir is not None:
        out.print(f"rejected {result.rejected_dir}")
        out.print(f"take it all the same: [bold]luthier chat {result.rejected_dir} --compare[/]")
    elif result.text:
        out.print("Nothing was kept that is better than what the training began with.")
    if result.adapter_dir is not None:
        out.print(f"try it   [bold]luthier chat {result.run_dir} --compare[/]")


def _show_loss(result: "TrainResult", before: str = "") -> None:
    from luthier.evaluate.report_words import change_text, sample_size

    held = result.comparison
    if held is None:
        what = "Trained. Nothing was held out, so there is no measure of what it learned."
        out.print(before + (what if result.adapter_dir or result.rejected_dir else result.status))
        return
    line = f"held-out loss {held.before:.3f} -> {held.after:.3f}"
    out.print(f"{before}[bold]{line}[/] ({change_text(held)}, {sample_size(held)}): {held.verdict}")


def _which(result: "TrainResult") -> str:
    """Whose adapter it is, where the last stage's is not what was published."""
    accepted = [stage for stage in result.stages if stage.adapter_dir is not None]
    return f" (of stage {accepted[-1].run_dir.name})" if len(accepted) < len(result.stages) else ""
