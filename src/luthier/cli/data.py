"""`luthier data`: make data, look at it, clean it, and see and take back what was done to it."""

import typer

from luthier.cli import data_clean, data_from_python, data_history, data_inspect

app = typer.Typer(no_args_is_help=True, help="Data: make it, look at it, clean it, take decisions back.")
app.command("from-python")(data_from_python.from_python)
app.command("inspect")(data_inspect.inspect)
app.command("clean")(data_clean.clean)
app.command("add")(data_clean.add)
for _step in ("repair", "defects", "language", "slop", "personal", "dedup", "semantic", "split", "leaks"):
    app.command(_step, rich_help_panel="One step on a dataset folder")(getattr(data_clean, _step))
for _verb in ("why", "undo", "diff"):
    app.command(_verb, rich_help_panel="What was decided")(getattr(data_history, _verb))
