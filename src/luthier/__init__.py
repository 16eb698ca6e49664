"""Luthier fine-tunes language models on the machine in front of you.

    import luthier

    recipe = luthier.Recipe(base_model="smollm2-135m", datasets=["data/support_chats.jsonl"], output_dir="runs/first")
    result = luthier.train(recipe)
    print(result.comparison)                      # held-out loss before and after, with its interval
    chat = luthier.load(result.run_dir)
    print(chat.answer("What does textwrap.dedent do?"))

The names below are loaded when they are first used, so that importing luthier costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.core.errors import LuthierError as LuthierError
    from luthier.curate.clean import clean as clean
    from luthier.recipe import Recipe as Recipe
    from luthier.recipe import load_recipe as load_recipe
    from luthier.serve.chat import load as load
    from luthier.stages.check import check as check
    from luthier.stages.run import resume as resume
    from luthier.stages.run import train as train

__version__ = "0.1.0"

_HOMES = {
    "LuthierError": "luthier.core.errors",
    "Recipe": "luthier.recipe",
    "check": "luthier.stages.check",
    "clean": "luthier.curate.clean",
    "load": "luthier.serve.chat",
    "load_recipe": "luthier.recipe",
    "resume": "luthier.stages.run",
}
__all__ = ["LuthierError", "Recipe", "__version__", "check", "clean", "load", "load_recipe", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """`luthier.train` is the function. The room of the same name is imported as `from luthier.train.loop import fit`.

    Importing a room sets an attribute of its name on the package, whenever that happens to be the first time; a
    property is what such an assignment cannot replace.
    """

    @property
    def train(self) -> Any:
        """`luthier.stages.run.train`."""
        return import_module("luthier.stages.run").train

    @train.setter
    def train(self, room: ModuleType) -> None:
        """Done by the import system after the room's first import."""


sys.modules[__name__].__class__ = _Package
