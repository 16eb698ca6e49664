"""C code of the ops: compiled when it is first wanted, where there is a compiler, and kept for the next process."""

import ctypes
import hashlib
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.core.hardware import cpu

SECONDS = 120  # that a compiler may take; it needs one or two


@dataclass(frozen=True)
class Missing:
    """There is no library, and why, in a few words."""

    why: str


def compiled(
    name: str, sources: Sequence[Path], options: Sequence[str], folder: Path, compiler: str | None
) -> ctypes.CDLL | Missing:
    """Load a library from `folder`, where it is compiled first unless it is there.

    The file's name has the hash of all that the library depends on: sources, compiler, options and processor. It is
    renamed into place whole, so processes that compile at once do not disturb each other.

    Args:
        name: what the file's name begins with.
        sources: .c files, and the headers that they include.
        options: what the compiler is called with.
        folder: where libraries are kept; made when needed.
        compiler: the program; None where there is none.
    """
    if compiler is None:
        return Missing("no C compiler (cc) was found")
    try:
        version, facts = _run(compiler, "--version"), cpu()
        made_of = [*(source.read_text() for source in sources), version, *options]
        made_of += [platform.machine(), facts.name, *sorted(facts.flags)]
        library = folder / f"{name}-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:24]}.so"
        if not library.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                made = Path(temporary) / library.name
                code = [str(file) for file in sources if file.suffix == ".c"]
                _run(compiler, *options, "-o", str(made), *code, "-lm")
                made.replace(library)
        return ctypes.CDLL(str(library))
    except subprocess.CalledProcessError as error:
        said = next((line for line in error.stderr.splitlines() if "error" in line), "")
        return Missing(f"{compiler} failed: {said}" if said else f"{compiler} failed")
    except subprocess.TimeoutExpired:
        return Missing(f"{compiler} took more than {SECONDS} s")
    except OSError as error:
        return Missing(str(error))


def _run(*command: str) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=True, timeout=SECONDS
    )
    return done.stdout
