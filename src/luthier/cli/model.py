"""`luthier model`: the local model store."""

from typing import Annotated

import typer
from rich.table import Table

from luthier.cli.console import big, complain, note, out, size

app = typer.Typer(no_args_is_help=True, help="Models on this machine: add, list, verify, remove.")


@app.command()
def add(
    source: Annotated[str, typer.Argument(help="smollm2-135m, a model folder, a .gguf file, or ORG/NAME on the hub.")],
    name: Annotated[str | None, typer.Option(help="Name in the store; default: from the source.")] = None,
) -> None:
    """Import a model into the store. Only smollm2-135m and ORG/NAME touch the network."""
    from luthier.models.store import add_model

    entry = add_model(source, name=name, say=note)
    out.print(f"{entry.name}: {entry.architecture}, {big(entry.parameters)} parameters, {size(entry.size_bytes)}")
    out.print(f"Use it with [bold]base_model: {entry.name}[/], or talk to it: [bold]luthier chat {entry.name}[/]")


@app.command("list")
def list_() -> None:
    """Show the models of the store."""
    from luthier.models.store import list_models

    entries = list_models()
    if not entries:
        out.print("No models yet. Get one with [bold]luthier model add smollm2-135m[/]")
        return
    table = Table("name", "architecture", "parameters", "size", "licence", "from", box=None, padding=(0, 2, 0, 0))
    for entry in entries:
        table.add_row(
            entry.name, entry.architecture, big(entry.parameters), size(entry.size_bytes), entry.license, entry.source
        )
    out.print(table)


@app.command()
def verify(name: Annotated[str, typer.Argument(help="Model of the store.")]) -> None:
    """Hash a model's files again and compare with the manifest."""
    from luthier.models.store import verify_model

    wrong = verify_model(name)
    for text in wrong:
        complain(text)
    if wrong:
        raise typer.Exit(1)
    out.print(f"{name}: every file is as it was when it was added")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Model of the store.")]) -> None:
    """Delete a model from the store."""
    from luthier.models.store import remove_model

    remove_model(name)
    out.print(f"{name} is removed")
