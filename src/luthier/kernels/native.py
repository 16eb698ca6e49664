"""C code of the ops: compiled when it is first wanted, where there is a compiler, and kept for the next process."""

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from luthier.core.files import make_folders, write_bytes
from luthier.core.hardware import cpu
from luthier.core.paths import cache_dir

SECONDS = 120  # that a compiler may take; it needs one or two


@dataclass(frozen=True)
class Missing:
    """There is no library, and why, in a few words."""

    why: str


def library_folder() -> Path | None:
    """Where libraries are kept; None for a user without a home folder."""
    try:
        return cache_dir() / "native"
    except RuntimeError:
        return None


def compiled(
    name: str, sources: Sequence[Path], options: Sequence[str], folder: Path | None, compiler: str | None
) -> ctypes.CDLL | Missing:
    """Load a library from `folder`, where it is compiled first unless it is there.

    The file's name has the hash of all that the library depends on (sources, compiler, options and processor), and the
    hash of what is in the file: a library that was cut off would kill the process that reads behind its end. What is
    damaged, cannot be loaded, or may be somebody else's is removed, and compiled again. A file is renamed into place
    whole, so processes that compile at once do not disturb each other.

    Args:
        name: what the file's name begins with.
        sources: .c files, and the headers that they include.
        options: what the compiler is called with.
        folder: where libraries are kept, by this user alone; made when needed. None where there can be none.
        compiler: the program; None where there is none.
    """
    if compiler is None:
        return Missing("no C compiler (cc) was found")
    if folder is None:
        return Missing("this user has no home folder to keep compiled code in")
    try:
        version, facts = _run(compiler, "--version"), cpu()
        made_of = [*(source.read_text() for source in sources), version, *options]
        made_of += [platform.machine(), facts.name, *sorted(facts.flags)]
        begin = f"{name}-{_hash(repr(made_of).encode())}"
        make_folders(folder)
        if not _ours(folder):
            return Missing(f"others than this user may write to {folder}")
        for library in folder.glob(f"{begin}-*.so"):
            if _ours(library) and library.name == f"{begin}-{_hash(library.read_bytes())}.so":
                with suppress(OSError):
                    return ctypes.CDLL(str(library))
            library.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / f"{name}.so"
            code = [str(file) for file in sources if file.suffix == ".c"]
            _run(compiler, *options, "-o", str(made), *code, "-lm")
            data = made.read_bytes()
        library = folder / f"{begin}-{_hash(data)}.so"
        write_bytes(library, data)
        return ctypes.CDLL(str(library))
    except subprocess.CalledProcessError as error:
        said = next((line for line in error.stderr.splitlines() if "error" in line), "")
        return Missing(f"{compiler} failed: {said}" if said else f"{compiler} failed")
    except subprocess.TimeoutExpired:
        return Missing(f"{compiler} took more than {SECONDS} s")
    except OSError as error:
        return Missing(str(error))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


def _ours(path: Path) -> bool:
    """Whether it is this user's or root's, and neither group nor others may change it."""
    facts = path.stat()
    return facts.st_uid in (os.getuid(), 0) and not facts.st_mode & 0o022


def _run(*command: str) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=True, timeout=SECONDS
    )
    return done.stdout
