"""Processes that save checkpoints until a signal ends them.

    python helpers_killed.py forks FOLDER NUMBER SEED   NUMBER children, each killed at a moment of its own
    python helpers_killed.py asked FOLDER               a child for each pair of signals in `PAIRS`; prints what became
                                                        of each as a line of JSON

The children are forks, so torch is imported once.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from helpers_checkpoints import fresh, save, stand
from luthier.core import disk
from luthier.core.disk import Disk
from luthier.stages.interrupt import SIGNALS, Interrupt
from luthier.train.checkpoint import prune

PAIRS = [*((first, None) for first in SIGNALS), *((SIGNALS[1], second) for second in SIGNALS)]


class Unsynced(Disk):
    """A killed process loses nothing that it wrote, so these trials need no sync, which is most of their time."""

    def sync(self, handle: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def fork(act: Callable[[], None]) -> int:
    """A child that does `act` and ends; its number."""
    child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    return child


def wait_for(mark: Path, lines: int) -> None:
    """Wait until a child has written so many lines."""
    while lines and (not mark.exists() or mark.read_text().count("\n") < lines):
        time.sleep(0.005)


def say(mark: Path, line: object) -> None:
    """Add a line, at once."""
    handle = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def save_for_ever(run_dir: Path) -> None:
    """Save every step."""
    trained = fresh()
    for step in count(1):
        save(run_dir, stand(trained, step))
        say(run_dir / "told", step)
        prune(run_dir, keep=1)


def forks(folder: Path, number: int, seed: int) -> None:
    """Kill children a moment after their start, their first or their second save."""
    chance = random.Random(seed)
    for index in range(number):
        run_dir = folder / f"run{index}"
        run_dir.mkdir()
        child = fork(lambda run_dir=run_dir: save_for_ever(run_dir))
        wait_for(run_dir / "told", index % 3)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def ask_between_steps(run_dir: Path, hang: bool) -> None:
    """A loop as a run has it; with `hang` what comes after the first signal never ends."""
    trained = stand(fresh(), 1)
    with Interrupt() as should_stop:
        say(run_dir / "told", "ready")
        for step in count(2):
            time.sleep(0.02)
            if should_stop():
                say(run_dir / "told", "asked")
                while hang:
                    time.sleep(1)
                save(run_dir, trained)
                say(run_dir / "told", step - 1)
                return
            stand(trained, step)


def asked(folder: Path) -> None:
    """Send each pair of signals to a child, the second once it has seen the first."""
    for index, (first, second) in enumerate(PAIRS):
        run_dir = folder / f"run{index}"
        run_dir.mkdir()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        child = fork(lambda run_dir=run_dir, hang=second is not None: ask_between_steps(run_dir, hang))
        wait_for(run_dir / "told", 1)
        began = time.monotonic()
        os.kill(child, first)
        if second is not None:
            wait_for(run_dir / "told", 2)
            os.kill(child, second)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    disk.DISK = Unsynced()
    what, folder, *numbers = sys.argv[1:]
    if what == "forks":
        forks(Path(folder), *map(int, numbers))
    else:
        asked(Path(folder))
