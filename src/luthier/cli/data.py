"""`luthier data`: make data, look at it, clean it, and see and take back what was done to it."""

import typer

from luthier.cli import data_choose, data_clean, data_from_python, data_history, data_inspect, data_review

PANELS = {
    "From files to a dataset folder": {
        "clean": data_clean.clean,
        "add": data_clean.add,
    },
    "One step on a dataset folder": {
        "repair": data_clean.repair,
        "defects": data_clean.defects,
        "language": data_clean.language,
        "slop": data_clean.slop,
        "personal": data_clean.personal,
        "dedup": data_clean.dedup,
        "semantic": data_clean.semantic,
        "split": data_clean.split,
        "leaks": data_clean.leaks,
    },
    "What to train on": {
        "categories": data_choose.categories,
        "score": data_choose.score,
        "select": data_choose.select,
        "balance": data_choose.balance,
    },
    "What was decided": {
        "why": data_history.why,
        "undo": data_history.undo,
        "diff": data_history.diff,
        "apply": data_review.apply,
        "report": data_review.report,
    },
    "Files": {
        "inspect": data_inspect.inspect,
        "convert": data_review.convert,
        "from-python": data_from_python.from_python,
    },
}
app = typer.Typer(no_args_is_help=True, help="Data: make it, look at it, clean it, take decisions back.")
for _panel, _verbs in PANELS.items():
    for _name, _verb in _verbs.items():
        app.command(_name, rich_help_panel=_panel)(_verb)
