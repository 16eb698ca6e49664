"""`luthier init`: a commented recipe to start from."""

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.console import out
from luthier.core.errors import RecipeError
from luthier.core.files import write_text


def init(
    path: Annotated[Path, typer.Argument(help="Recipe to write.")] = Path("recipe.yaml"),
    model: Annotated[str, typer.Option(help="Base model the recipe names.")] = "smollm2-135m",
    data: Annotated[str, typer.Option(help="Data file the recipe names.")] = "data/train.jsonl",
    output: Annotated[str, typer.Option(help="Run folder the recipe names.")] = "runs/first",
) -> None:
    """Write a commented recipe."""
    from luthier.recipe import commented_recipe

    if path.exists():
        raise RecipeError("exists already", where=str(path), fix="choose another name, or delete it first")
    write_text(path, commented_recipe(model, data, output))
    out.print(f"Wrote {path}. Next: edit it, then [bold]luthier check {path}[/]")
