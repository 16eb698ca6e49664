"""Real processes and real signals: killed while they save, or asked to stop."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import helpers_killed
from helpers_checkpoints import digest_of, loaded
from helpers_killed import PAIRS
from luthier.core.errors import Interrupted
from luthier.stages.interrupt import SIGNALS, Interrupt
from luthier.train.checkpoint import newest_good

MOST_SECONDS = 10.0  # from a signal to the end of the process


def run(*arguments: object) -> str:
    """What `helpers_killed` prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", helpers_killed.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=environment, text=True, check=True).stdout


def killed(folder: Path, number: int, seed: int) -> int:
    """Kill so many processes and look at what each left; returns how many saves were acknowledged."""
    run("forks", folder, number, seed)
    saves = 0
    for child in range(number):
        run_dir = folder / f"run{child}"
        told = [int(line) for line in (run_dir / "told").read_text().split()] if (run_dir / "told").exists() else []
        found, notes = newest_good(run_dir)
        assert notes == []
        if found is None:
            assert told == []
            continue
        trained = loaded(found)
        assert trained.progress.step >= max(told, default=0)
        assert trained.digest == digest_of(trained.progress.step)
        assert not any(path.name.startswith(".") for path in found.parent.iterdir())
        saves += len(told)
    return saves


def test_f09_sigkill_at_any_moment(tmp_path: Path) -> None:
    assert killed(tmp_path, 6, 0) > 0


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(5))
def test_f09_sigkill_at_many_moments(seed: int, tmp_path: Path) -> None:
    assert killed(tmp_path, 20, seed + 1) > 20


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int | None], tuple[Path, dict[str, float]]]:
    """Of each pair of signals: the run's folder, and how the process ended."""
    folder = tmp_path_factory.mktemp("asked")
    lines = [json.loads(line) for line in run("asked", folder).splitlines()]
    return {pair: (folder / f"run{index}", lines[index]) for index, pair in enumerate(PAIRS)}


@pytest.mark.parametrize("first", SIGNALS)
def test_f11_a_signal_saves_and_ends(first: int, ended: dict[Any, Any]) -> None:
    run_dir, end = ended[first, None]
    assert end["code"] == 0 and end["seconds"] < MOST_SECONDS
    found, _ = newest_good(run_dir)
    assert found is not None
    assert loaded(found).digest == digest_of(int((run_dir / "told").read_text().split()[-1]))


@pytest.mark.parametrize("second", SIGNALS)
def test_f11_the_second_signal_ends_at_once(second: int, ended: dict[Any, Any]) -> None:
    run_dir, end = ended[signal.SIGTERM, second]
    assert end["seconds"] < MOST_SECONDS
    assert end["code"] == -second  # Python ends itself so after a KeyboardInterrupt
    assert newest_good(run_dir) == (None, [])


def test_handlers_are_put_back_and_what_was_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Interrupt() as should_stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not should_stop()
            should_stop.check()
            os.kill(os.getpid(), signal.SIGTERM)
            assert should_stop()
            with pytest.raises(Interrupted):
                should_stop.check()
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
        assert {number: signal.getsignal(number) for number in before} == before
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)
