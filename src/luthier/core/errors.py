"""The errors a person can meet, each saying what is wrong, where, and what to do.

    LuthierError            anything a user can cause and mend
    ├── RecipeError         the recipe: unknown key, wrong value, impossible combination
    ├── DataError           a data file or a record: broken line, roles out of order, nothing to train on
    ├── ModelError          a model folder: missing or damaged weights, an architecture we do not run
    ├── RunError            a run folder: in use, already finished, no space, damaged checkpoint
    └── NetworkError        a download the user asked for that did not work

Broken invariants of our own are `assert`, never one of these.
"""


class LuthierError(Exception):
    """A mistake that a person can mend. `str(error)` is the whole message; the CLI prints it and exits with 1.

    Args:
        what: one sentence on what is wrong.
        where: file, file and line, record or field it was found in.
        fix: what to do about it, as an instruction.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = [f"{where}: {what}" if where else what]
        if fix:
            lines.append(f"  → {fix}")
        super().__init__("\n".join(lines))


class RecipeError(LuthierError):
    """The recipe cannot be used as written."""


class DataError(LuthierError):
    """A data file or record cannot be used."""


class ModelError(LuthierError):
    """A model folder is missing something, is damaged, or holds an architecture that we do not run."""


class RunError(LuthierError):
    """A run folder cannot be used: in use, finished, damaged, or no space left."""


class NetworkError(LuthierError):
    """A download that the user asked for did not work."""


class Interrupted(Exception):
    """Somebody asked the run to stop while something long was being made; what was begun is given up.

    Raised where progress is reported, caught where the run can save its state.
    """
