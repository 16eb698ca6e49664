"""A checkpoint that is not what was written is seen, set aside, and told; an older one is taken, and never none."""

import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from helpers_checkpoints import digest_of, fresh, loaded, save, saved, stand
from luthier.core.disk import Disk
from luthier.core.errors import RunError
from luthier.core.events import EventLog
from luthier.train.checkpoint import damage, load_checkpoint, newest_good, prune
from luthier.train.checkpoint_folder import manifest_bytes

FILES = ("adapter_config.json", "adapter_model.safetensors", "manifest.json", "optimizer.safetensors", "state.json")
FLIPS = 500


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The older one of two checkpoints; the tests break the newer."""
    return saved(tmp_path, 10, 20)[0]


@pytest.fixture
def newest(older: Path) -> Path:
    return older.with_name("step-000020")


def falls_back(run_dir: Path, older: Path, newest: Path, expected: str) -> None:
    """The older one is taken, and one sentence says which was passed over and why; that one is kept aside."""
    folder, notes = newest_good(run_dir)
    assert folder == older and loaded(older).digest == digest_of(10)
    (note,) = notes
    assert note.startswith("step-000020 is passed over: ") and expected in note, note
    assert note.endswith("it is kept as step-000020.corrupt") and not newest.exists()
    assert newest.with_name("step-000020.corrupt").is_dir()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", ["nothing", "half", "all but a byte"])
def test_f15_a_truncated_file(name: str, left: str, tmp_path: Path, older: Path, newest: Path) -> None:
    data = (newest / name).read_bytes()
    (newest / name).write_bytes(data[: {"nothing": 0, "half": len(data) // 2, "all but a byte": -1}[left]])
    falls_back(tmp_path, older, newest, "manifest is damaged" if name == "manifest.json" else f"{name} is damaged")


@pytest.mark.parametrize("name", FILES)
def test_f16_every_flipped_bit_is_seen(name: str, newest: Path) -> None:
    data, chance, trained = (newest / name).read_bytes(), random.Random(name), fresh()
    assert damage(newest) == ""
    for bit in chance.sample(range(8 * len(data)), min(FLIPS, 8 * len(data))):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (newest / name).write_bytes(flipped)
        assert damage(newest), f"bit {bit} of {name}"
        with pytest.raises(RunError):
            load_checkpoint(newest, trained.adapter, trained.optimizer)
    assert trained.digest == fresh().digest  # nothing of a damaged one was taken over
    (newest / name).write_bytes(data)
    assert damage(newest) == ""


@pytest.mark.parametrize("name", FILES)
def test_f17_a_deleted_file(name: str, tmp_path: Path, older: Path, newest: Path) -> None:
    (newest / name).unlink()
    falls_back(tmp_path, older, newest, "it has no manifest" if name == "manifest.json" else f"{name} is missing")


def test_f17_a_deleted_checkpoint_is_told(tmp_path: Path, older: Path, newest: Path) -> None:
    log = EventLog(tmp_path)
    for step in (10, 20):
        log.add("checkpoint", step=step)
    log.close()
    assert newest_good(tmp_path) == (newest, [])
    shutil.rmtree(newest)
    folder, notes = newest_good(tmp_path)
    assert folder == older and notes == ["the checkpoint of step 20 is gone; the newest that is there is of step 10"]
    log = EventLog(tmp_path)
    log.add("rewind", step=25)  # gives up what came after the step it goes back to
    log.close()
    assert newest_good(tmp_path) == (older, [])


def test_f18_all_broken_is_refused_and_never_begun_anew(tmp_path: Path, older: Path, newest: Path) -> None:
    for folder in (older, newest):
        (folder / "state.json").write_text("{}")
    for _ in range(2):  # the second time they are set aside already
        with pytest.raises(RunError, match="none of its checkpoints can be used") as caught:
            newest_good(tmp_path)
        assert "start a new run" in str(caught.value)
    assert sorted(path.name for path in older.parent.iterdir()) == ["step-000010.corrupt", "step-000020.corrupt"]
    assert (older.parent / "step-000010.corrupt/adapter_model.safetensors").is_file()


def test_f18_all_gone_is_refused(tmp_path: Path, older: Path) -> None:
    log = EventLog(tmp_path)
    log.add("checkpoint", step=20)
    log.close()
    shutil.rmtree(older.parent)
    with pytest.raises(RunError, match="its checkpoints are gone"):
        newest_good(tmp_path)


def test_a_run_without_any_checkpoint_begins_at_the_start(tmp_path: Path) -> None:
    assert newest_good(tmp_path) == (None, [])


@pytest.mark.parametrize(("number", "age"), [(99, "a newer"), (1, "an older")])
def test_f19_another_format_is_refused_and_not_touched(
    number: int, age: str, tmp_path: Path, older: Path, newest: Path
) -> None:
    manifest = json.loads((newest / "manifest.json").read_bytes())
    del manifest["sha256"]
    (newest / "manifest.json").write_bytes(manifest_bytes({**manifest, "format": number}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for act in (newest_good, lambda run_dir: save(run_dir, stand(fresh(), 20)), lambda run_dir: prune(run_dir, keep=1)):
        with pytest.raises(RunError, match=f"written by {age} version of Luthier"):
            act(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_f24_clocks_have_no_say(tmp_path: Path) -> None:
    """The clock went back by a day, then on by a year, then stood still: the newest is the one with the most steps."""
    folders = saved(tmp_path, 9, 10, 100, 999_999, 1_000_000)  # as texts, the last would come before its neighbour
    for times in ([5, 4, 3, 2, 1], [1, 9, 1, 9, 1], [7] * 5):
        for folder, time in zip(folders, times, strict=True):
            for path in (folder, *folder.iterdir()):
                os.utime(path, (time * 86400, time * 86400))
        assert newest_good(tmp_path) == (folders[-1], [])
    assert prune(tmp_path, keep=2, protect={9}) == []
    assert [path.exists() for path in folders] == [True, False, False, True, True]


def test_a_checkpoint_under_another_name_is_not_taken_for_that_step(tmp_path: Path, older: Path, newest: Path) -> None:
    newest.rename(newest.with_name("step-000030"))
    folder, (note,) = newest_good(tmp_path)
    assert folder == older and "it is named so, and holds step 20" in note


def test_what_a_person_put_beside_them_is_left_alone(tmp_path: Path, newest: Path) -> None:
    copy = Path(shutil.copytree(newest, newest.with_name("step-000020-before-the-change")))
    assert newest_good(tmp_path) == (newest, [])
    prune(tmp_path, keep=1)
    assert copy.is_dir()


def test_a_broken_one_does_not_count_as_kept(tmp_path: Path, older: Path, newest: Path) -> None:
    (newest / "optimizer.safetensors").unlink()
    prune(tmp_path, keep=1)
    assert older.is_dir() and newest.is_dir()


def test_broken_again_under_the_same_step(tmp_path: Path, older: Path, newest: Path) -> None:
    for number in ("", "-2", "-3"):
        (newest / "state.json").unlink()
        newest_good(tmp_path)
        assert newest.with_name(f"step-000020.corrupt{number}").is_dir()
        assert save(tmp_path, stand(fresh(), 20)) == newest


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_what_cannot_be_read_is_passed_over_and_stays(
    name: str, tmp_path: Path, older: Path, newest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: Disk, path: Path) -> bytes:
        if path.parent == newest and path.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return path.read_bytes()

    monkeypatch.setattr(Disk, "read", read)
    folder, (note,) = newest_good(tmp_path)
    assert folder == older and "cannot be read (Input/output error)" in note and newest.is_dir()
