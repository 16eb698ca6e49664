"""The command line in a process of its own, with a home and a folder to work in."""

import os
import subprocess
import sys
from pathlib import Path

import luthier

SRC = Path(luthier.__file__).parent.parent


class Desk:
    """A working folder and a home, and commands run in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.home = folder / "home"
        for made in (self.folder, self.home):
            made.mkdir()

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """`luthier words` under way, as from a script: no terminal."""
        environment = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SRC),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "luthier", *map(str, words)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str | Path, code: int = 0) -> tuple[str, str]:
        """stdout and stderr of a command that must exit with `code`."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in out + err
        return out, err
