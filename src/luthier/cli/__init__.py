"""The command line: one thin file a verb. Nothing heavy is imported before a verb runs."""

import sys

import typer

from luthier.cli import chat, check, data, doctor, init, model, runs, train
from luthier.cli.console import complain
from luthier.core.errors import LuthierError

app = typer.Typer(
    name="luthier",
    help="Fine-tune language models on the machine in front of you.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command("init")(init.init)
app.command("check", context_settings=EXTRA)(check.check)
app.command("train", context_settings=EXTRA)(train.train)
app.command("chat")(chat.chat)
app.add_typer(runs.app, name="runs")
app.add_typer(model.app, name="model")
app.add_typer(data.app, name="data")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command line. Exits with 1 on a mistake that a person can mend, 130 on Ctrl-C."""
    try:
        app()
    except LuthierError as error:
        complain(str(error))
        sys.exit(1)
    except OSError as error:  # a full disk, a folder without permission: the system's words name the file
        complain(f"the system refused: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        complain("stopped")
        sys.exit(130)
