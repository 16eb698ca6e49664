"""Whatever happens to the process, the disk or the power while checkpoints are written: what was saved can be read.

Each trial saves four checkpoints and prunes, with one fault in one operation; then the next process looks at what is
left and goes on. The short run has each operation a few times, the long one (`make faults`) each in every way.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from helpers_checkpoints import Saves, fresh, holds, live, loaded, operations, save, saved, stand
from helpers_disk import DEADLY, Crash, FaultDisk
from luthier.core import disk
from luthier.core.disk import Disk
from luthier.core.errors import RunError
from luthier.train.checkpoint import newest_good

# Three steps, the second of them twice: evaluated after it was saved, it is saved in another state.
SAVES: Saves = [(10, 0), (20, 0), (20, 1), (30, 0)]


def trial(run_dir: Path, at: int, mode: str, patch: pytest.MonkeyPatch, *, keep: int, seed: int = 0) -> None:
    """One life with one fault, then what is left of it, then a life from there."""
    run_dir.mkdir()
    faulty = FaultDisk(run_dir, at, mode, seed=seed)
    patch.setattr(disk, "DISK", faulty)
    acknowledged = live(run_dir, SAVES, keep=keep)
    assert faulty.count > at, "the fault was never reached"
    assert mode != "short" or acknowledged == list(SAVES)
    patch.setattr(disk, "DISK", FaultDisk(run_dir))  # the next process
    if mode not in DEADLY and (run_dir / "checkpoints").exists():
        left = [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")]
        last = " ".join(faulty.log[at - 1 : at + 1])  # only what was being deleted may be left
        assert len(left) <= ("unlink" in last or "remove_empty" in last or "replace .step" in last), left
    newest = holds(run_dir, SAVES, acknowledged)
    rest = SAVES[SAVES.index(newest) + 1 :] if newest else SAVES
    assert live(run_dir, rest, keep=keep) == list(rest)
    assert holds(run_dir, SAVES, SAVES) == SAVES[-1]
    assert not any(path.name.startswith(".") for path in (run_dir / "checkpoints").iterdir())
    shutil.rmtree(run_dir)


def trials(tmp_path: Path, patch: pytest.MonkeyPatch, modes: Iterable[str], *, every: int, seeds: int = 1) -> int:
    """A trial of every `every`-th operation with one of `modes`, in turn; with `every` 1, with all of them."""
    modes = list(modes)
    good, done = operations(tmp_path / "dry", SAVES, patch, keep=1), 0
    for number, at in enumerate(range(0, good.count, every)):
        for mode in modes if every == 1 else [modes[number % len(modes)]]:
            for seed in range(seeds) if every == 1 else [number % seeds]:
                try:
                    trial(tmp_path / "run", at, mode, patch, keep=1, seed=seed)
                except AssertionError as error:
                    raise AssertionError(f"operation {at} ({good.log[at]}), {mode}, seed {seed}: {error}") from error
                done += 1
    return done


def test_f09_killed_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials(tmp_path, monkeypatch, ("before", "after", "torn"), every=3) > 30


def test_f10_power_lost_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials(tmp_path, monkeypatch, ["power"], every=3, seeds=3) > 30


def test_f12_full_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials(tmp_path, monkeypatch, ("ENOSPC", "full", "short"), every=4) > 20


def test_f14_refused_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials(tmp_path, monkeypatch, ["EIO"], every=5) > 20


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["before", "after", "torn", "short", "ENOSPC", "EIO", "full"])
def test_f09_f12_f14_every_operation_and_fault(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials(tmp_path, monkeypatch, [mode], every=1) > 100


@pytest.mark.faults
def test_f10_power_lost_at_every_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trials(tmp_path, monkeypatch, ["power"], every=1, seeds=6) > 600


@pytest.mark.parametrize("skipped", ["sync", "sync_folder"])
def test_the_harness_sees_what_is_not_synced(skipped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When contents or names are not synced a power cut must break something: else the trials above prove nothing."""
    monkeypatch.setattr(FaultDisk, skipped, lambda self, what: self._end(self._begin("skipped", self.root)))
    with pytest.raises((AssertionError, RunError)):
        trials(tmp_path, monkeypatch, ["power"], every=1)


def messy(run_dir: Path) -> None:
    """Two good checkpoints, a broken one after them, and what an interrupted save left."""
    *_, broken = saved(run_dir, 10, 20, 30)
    (broken / "optimizer.safetensors").unlink()
    save(run_dir, stand(fresh(), 20, variant=1))
    shutil.copytree(run_dir / "checkpoints/step-000020", run_dir / "checkpoints/.step-000040.0123abcd.tmp")
    shutil.copytree(run_dir / "checkpoints/step-000010", run_dir / "checkpoints/step-000010.replaced")
    shutil.copytree(run_dir / "checkpoints/step-000020", run_dir / "checkpoints/step-000020.replaced")


@pytest.mark.parametrize("mode", ["before", "power"])
def test_f09_killed_while_recovering(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messy(tmp_path / "mess")
    at = 0
    while True:
        run_dir = Path(shutil.copytree(tmp_path / "mess", tmp_path / f"run{at}"))
        faulty = FaultDisk(run_dir, at, mode)
        monkeypatch.setattr(disk, "DISK", faulty)
        try:
            newest_good(run_dir)
        except Crash:
            pass
        else:
            break
        monkeypatch.setattr(disk, "DISK", FaultDisk(run_dir))
        folder, _ = newest_good(run_dir)
        assert folder == run_dir / "checkpoints/step-000020"
        assert loaded(folder).digest == stand(fresh(), 20, variant=1).digest
        assert (run_dir / "checkpoints/step-000030.corrupt").is_dir()
        at += 1
    assert at > 10
    monkeypatch.setattr(disk, "DISK", Disk())


def test_f25_a_failing_write_surfaces_at_once_and_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No writer works in the background: a save that returns is on the disk, and one that fails says so itself."""
    saved(tmp_path, 10)
    faulty = FaultDisk(tmp_path, 12, "EIO")
    monkeypatch.setattr(disk, "DISK", faulty)
    with pytest.raises(RunError, match=r"the checkpoint of step 20 cannot be written \(Input/output error\)"):
        save(tmp_path, stand(fresh(), 20))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000010"]
