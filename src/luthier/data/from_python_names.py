"""Which names exist, to help with the one that does not; and which distribution a module belongs to."""

import difflib
import functools
import importlib.metadata
import pkgutil
import platform
import sys
from collections.abc import Sequence

from luthier.core.errors import DataError


def not_installed(top: str) -> DataError:
    """The error for a top-level module that is not there, with the nearest name that is."""
    owners = importlib.metadata.packages_distributions()  # module → distributions
    for module, distributions in sorted(owners.items()):
        if not module.startswith("_") and _plain(top) in map(_plain, distributions):
            what = f"{top} is the name of a package to install, not of a module"
            return DataError(what, fix=f"its module is {module}")
    names = {*sys.stdlib_module_names, *owners, *(module.name for module in pkgutil.iter_modules()), "stdlib"}
    public = sorted(name for name in names if not name.startswith("_") and name.isidentifier())
    near = difflib.get_close_matches(top, public, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}? Otherwise " if near else ""
    return DataError(
        f"{top} is not installed in this Python ({sys.executable})",
        fix=f"{hint}install it here; for the project in this folder: pip install -e .",
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def submodule_missing(name: str, top: str, known: Sequence[str]) -> DataError:
    """The error for a submodule that a package does not have, or has for itself alone."""
    below = name.removeprefix(f"{top}.")
    near = difflib.get_close_matches(below, [other.removeprefix(f"{top}.") for other in known], n=1, cutoff=0.6)
    hint = f"did you mean {top}.{near[0]}?" if near else f"{top} alone reads all of it"
    return DataError(f"{top} has no public submodule {below}", fix=hint)


@functools.cache  # asking which distribution a module came with takes a tenth of a second
def owner(top: str) -> tuple[str, str]:
    """(distribution, version) that a top-level module came with; ("", "") where it was not installed as one."""
    if top in sys.stdlib_module_names:
        return "python", platform.python_version()
    distributions = importlib.metadata.packages_distributions().get(top)
    if not distributions:
        return "", ""
    return distributions[0], importlib.metadata.version(distributions[0])
