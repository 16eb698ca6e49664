"""A full disk stops nothing but the saving: the run says so, waits with everything in memory, and goes on."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers_checkpoints import digest_of, fresh, loaded, save, saved, stand
from helpers_disk import Crash, FaultDisk
from helpers_runs import make_recipe
from luthier.core import disk
from luthier.core.disk import Disk, NoSpace
from luthier.core.errors import RunError
from luthier.core.events import BALLAST, BALLAST_FILE, EVENTS_FILE, EventLog, read_events
from luthier.stages import session
from luthier.stages.run import train
from luthier.train import checkpoint
from luthier.train.checkpoint import newest_good, save_when_there_is_room
from luthier.train.checkpoint_folder import RESERVE


def put(patch: pytest.MonkeyPatch, root: Path, *fault: Any) -> FaultDisk:
    """A disk of the test's own, in place of the real one."""
    own = FaultDisk(root, *fault)
    patch.setattr(disk, "DISK", own)
    return own


def steps_in(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_f12_no_room_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 10)
    own = put(monkeypatch, tmp_path)
    own.room = RESERVE
    with pytest.raises(NoSpace) as caught:
        save(tmp_path, stand(fresh(), 20))
    assert caught.value.errno == errno.ENOSPC and caught.value.free == RESERVE < caught.value.needed
    assert own.log == [] and steps_in(tmp_path) == ["step-000010"]
    own.room = caught.value.needed
    assert loaded(save(tmp_path, stand(fresh(), 20))).digest == digest_of(20)


class Tight(FaultDisk):
    """A disk that has room for `fits` checkpoints, broken ones included, and no more."""

    fits = 3

    def free(self, path: Path) -> int:
        names = self.names(self.root / "checkpoints")
        return 2**40 if len(names) < self.fits else 0


@pytest.mark.parametrize(
    ("fits", "left"),
    [
        (4, ["step-000010", "step-000020", "step-000030", "step-000040"]),  # the broken one goes first
        (3, ["step-000010", "step-000030", "step-000040"]),  # then the oldest that is not protected
    ],
)
def test_f12_what_may_go_makes_room(
    fits: int, left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 5)[0].rename(tmp_path / "checkpoints/step-000005.corrupt")
    saved(tmp_path, 10, 20, 30)
    own = Tight(tmp_path)
    own.fits = fits
    monkeypatch.setattr(disk, "DISK", own)
    trained = stand(fresh(), 40)
    trained.progress.best_step = 10
    save(tmp_path, trained)
    assert steps_in(tmp_path) == left


def test_f12_the_only_good_one_is_never_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older, good, broken = saved(tmp_path, 10, 20, 30)
    (broken / "state.json").unlink()
    own = Tight(tmp_path)
    own.fits = 1
    monkeypatch.setattr(disk, "DISK", own)
    with pytest.raises(NoSpace):
        save(tmp_path, stand(fresh(), 40))
    assert not older.exists() and loaded(good).digest == digest_of(20)
    assert newest_good(tmp_path)[0] == good


def waiting(
    run_dir: Path, own: FaultDisk, patch: pytest.MonkeyPatch, slept: Callable[[int], bool]
) -> tuple[Path | None, list[dict[str, Any]]]:
    """Save step 20 and wait; `slept(n)` is called after the n-th sleep and says whether a stop was asked for."""
    events: list[dict[str, Any]] = []
    naps, stop = 0, False

    def sleep(seconds: float) -> None:
        nonlocal naps, stop
        assert 0 < seconds <= 1
        naps += 1
        assert naps < 1000, "it waits for ever"
        stop = slept(naps)

    patch.setattr(checkpoint.time, "sleep", sleep)
    patch.setattr(checkpoint.time, "monotonic", lambda: 1000 + naps / 2)
    path = save_when_there_is_room(
        lambda: save(run_dir, stand(fresh(), 20)),
        run_dir=run_dir,
        step=20,
        emit=lambda event, **fields: events.append({"event": event, **fields}),
        should_stop=lambda: stop,
    )
    return path, events


def test_f12_the_run_waits_for_room_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 10)
    own = put(monkeypatch, tmp_path, 5, "full")  # in the middle of the save

    def slept(naps: int) -> bool:
        if naps == 100:
            own.heal()
        return False

    path, events = waiting(tmp_path, own, monkeypatch, slept)
    assert path is not None and loaded(path).digest == digest_of(20)
    paused, unpaused = events  # once, however often it was tried
    assert paused["event"] == "paused" and paused["step"] == 20 and paused["free_bytes"] == 0
    assert paused["needed_bytes"] > RESERVE and "the run waits for space" in paused["text"]
    assert unpaused == {"event": "unpaused", "step": 20, "seconds": pytest.approx(50, abs=6)}


def test_f12_a_quota_that_does_not_show_in_the_free_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = put(monkeypatch, tmp_path, 0, "full")
    monkeypatch.setattr(own, "free", lambda path: 2**40)
    tries: list[int] = []

    def slept(naps: int) -> bool:
        tries.append(own.count)
        if naps == 60:
            own.heal()
        return False

    path, events = waiting(tmp_path, own, monkeypatch, slept)
    assert path is not None and [event["event"] for event in events] == ["paused", "unpaused"]
    assert len(set(tries)) <= 7  # it tries again every few seconds, not as fast as it can


def test_f12_asked_to_stop_while_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 10)
    own = put(monkeypatch, tmp_path, 5, "full")
    path, events = waiting(tmp_path, own, monkeypatch, lambda naps: naps == 3)
    assert path is None and [event["event"] for event in events] == ["paused"]
    assert steps_in(tmp_path) == ["step-000010"]


def test_f13_a_disk_too_small_is_refused_before_the_model_is_loaded(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.stages.check.free_disk", lambda path: 50_000_000)
    monkeypatch.setattr(session, "load_decoder", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    with pytest.raises(RunError, match=r"the run needs 0\.1 GB on disk and 0\.1 GB are free"):
        train(make_recipe(chat_model, conversations, tmp_path / "run"))


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EACCES])
def test_f14_a_disk_that_refuses_is_named(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (older,) = saved(tmp_path, 10)

    def create(self: Disk, path: Path) -> int:
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "create", create)
        with pytest.raises(RunError, match=rf"the checkpoint of step 20 cannot be written \({os.strerror(code)}\)"):
            save(tmp_path, stand(fresh(), 20))
    assert newest_good(tmp_path) == (older, []) and loaded(older).digest == digest_of(10)
    assert steps_in(tmp_path) == ["step-000010"]


# The record of events.


def test_the_ballast_lets_the_last_words_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path)
    assert (tmp_path / BALLAST_FILE).stat().st_size == BALLAST

    class Full(Disk):
        """Full until the ballast is gone; then it has a few bytes."""

        def write(self, handle: int, data: bytes | memoryview) -> int:
            if (tmp_path / BALLAST_FILE).exists():
                raise OSError(errno.ENOSPC, "full")
            return super().write(handle, data[:10])

        def free(self, path: Path) -> int:
            return 100

    monkeypatch.setattr(disk, "DISK", Full())
    log.add("paused", step=3)
    assert not (tmp_path / BALLAST_FILE).exists()
    assert [event["event"] for event in read_events(tmp_path)] == ["paused"]
    monkeypatch.setattr(disk, "DISK", Disk())
    log.add("unpaused", step=3)  # there is room again, so the ballast is, too
    assert (tmp_path / BALLAST_FILE).stat().st_size == BALLAST
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == [EVENTS_FILE]


def test_events_wait_in_memory_when_even_the_ballast_is_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path)
    own = put(monkeypatch, tmp_path, 0, "full")
    own._open[log._handle] = own._node(log.path), log.path
    for step in range(3):
        assert log.add("step", step=step)["step"] == step
    assert list(read_events(tmp_path)) == []
    own.heal()
    log.add("step", step=3)
    assert [event["step"] for event in read_events(tmp_path)] == [0, 1, 2, 3]
    own.filled = True
    log.add("step", step=4)
    with pytest.raises(RunError, match=r"events cannot be written \(the disk is full\)"):
        log.close()


@pytest.mark.parametrize("mode", ["before", "torn", "power", "short"])
def test_f09_f10_events_are_whole_lines_after_any_fault(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(12):
        run_dir = tmp_path / str(at)
        run_dir.mkdir()
        put(monkeypatch, run_dir, at, mode)
        told: list[int] = []
        try:
            log = EventLog(run_dir)
            for step in range(4):
                log.add("step", step=step)
                told.append(step)
            log.close()
        except Crash:
            pass
        put(monkeypatch, run_dir)
        log = EventLog(run_dir)
        log.add("resume", step=-1)
        log.close()
        steps = [event["step"] for event in read_events(run_dir)]
        assert steps[-1] == -1 and steps[: len(told)] == told
        lines = (run_dir / EVENTS_FILE).read_text().splitlines()
        assert sum(not _whole(line) for line in lines) <= 1  # what was torn has an end


def _whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_f14_events_that_cannot_be_written_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path)

    def write(self: Disk, handle: int, data: bytes | memoryview) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", write)
        with pytest.raises(RunError, match=r"events cannot be written \(Input/output error\)"):
            log.add("step", step=1)
    log.close()
