"""Files, events, locks, seeds, errors."""

import json
import multiprocessing
import stat
from pathlib import Path

import pytest

from helpers_disk import MODES, Crash, FaultDisk
from luthier.core import disk
from luthier.core.errors import DataError, LuthierError, RunError
from luthier.core.events import EVENTS_FILE, EventLog, read_events
from luthier.core.files import atomic_folder, hash_bytes, hash_json, remove_leftovers, temporary_name, write_text
from luthier.core.lock import RunLock
from luthier.core.seeds import stream_seed


def test_an_error_says_where_what_and_what_to_do() -> None:
    error = DataError("no answer", where="a.jsonl:3", fix="add one")
    assert isinstance(error, LuthierError)
    assert str(error) == "a.jsonl:3: no answer\n  → add one"


def test_write_replaces_whole_files_and_leaves_nothing_beside_them(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "a.txt", "one")
    write_text(tmp_path / "deep" / "a.txt", "two")
    assert [(path.name, path.read_text()) for path in (tmp_path / "deep").iterdir()] == [("a.txt", "two")]


def test_a_folder_that_failed_never_was(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "new") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "new") as folder:
        (folder / "whole").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_hashes_tell_parts_and_keys_apart() -> None:
    assert hash_bytes(b"ab", b"c") != hash_bytes(b"a", b"bc")
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})


def test_events_append_and_survive_a_torn_line(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.add("step", loss=float("nan"), parts=[float("inf"), 1.5])
    log.close()
    with (tmp_path / EVENTS_FILE).open("a") as file:
        file.write('{"event": "step", "lo')
    log = EventLog(tmp_path)
    log.add("end", text="ü")
    log.close()
    events = list(read_events(tmp_path))
    assert [event["event"] for event in events] == ["step", "end"]
    assert events[0]["loss"] is None and events[0]["parts"] == [None, 1.5]
    assert all(json.loads(line) for line in (tmp_path / EVENTS_FILE).read_text().splitlines() if "lo" not in line)


def test_reading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        list(read_events(tmp_path))


def _hold(path: Path, ready: "multiprocessing.Queue[int]", done: "multiprocessing.Queue[int]") -> None:
    import os

    with RunLock(path):
        ready.put(os.getpid())
        done.get()


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Queue(), context.Queue()
    process = context.Process(target=_hold, args=(tmp_path, ready, done))
    process.start()
    pid = ready.get()
    with pytest.raises(RunError, match=rf"in use by another run \(process {pid}, since 2\d{{3}}-"), RunLock(tmp_path):
        pass
    process.kill()
    process.join()
    with RunLock(tmp_path):
        pass
    for queue in (ready, done):
        queue.close()
        queue.join_thread()


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ('{"pid": 12, "boot": "elsewhere", "since": "2026"}', "process 12 of another machine, since 2026"),
        ("", "its process is not known"),
        ('{"pid": 1', "its process is not known"),
        ("[]", "its process is not known"),
    ],
)
def test_a_lock_whose_holder_says_little(said: str, named: str, tmp_path: Path) -> None:
    """The folder may be shared with another machine, and the text may not be written yet."""
    with RunLock(tmp_path):
        (tmp_path / ".lock").write_text(said)
        with pytest.raises(RunError, match=rf"in use by another run \({named}\)"), RunLock(tmp_path):
            pass


def test_folders_made_on_the_way_and_files_in_them_are_private(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "mine")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/c.txt")]
    assert modes == [0o700, 0o700, 0o600]


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    half = temporary_name(tmp_path / "adapter")
    (half / "deep").mkdir(parents=True)
    (half / "deep" / "x").touch()
    temporary_name(tmp_path / "a.json").touch()
    for name in (".lock", ".ballast", "a.tmp", ".hidden.tmp", ".mine.0123456.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".ballast", ".hidden.tmp", ".lock", ".mine.0123456.tmp", "a.tmp",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", [*MODES, "nothing"])
def test_f09_f10_files_and_folders_are_whole_or_absent(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each operation of writing a file over an older one, and a folder, goes wrong once."""
    at, going = 0, True
    while going:
        root = tmp_path / str(at)
        root.mkdir()
        (root / "a.txt").write_text("old")
        own = FaultDisk(root, at, mode, seed=at % 3) if mode != "nothing" else FaultDisk(root)
        monkeypatch.setattr(disk, "DISK", own)
        done = 0
        try:
            write_text(root / "a.txt", "new")
            done = 1
            with atomic_folder(root / "folder") as folder:
                (folder / "deep").mkdir()
                write_text(folder / "one", "1")
                (folder / "two").write_text("2")  # by somebody who knows nothing of this
            done = 2
        except (Crash, OSError):
            pass
        monkeypatch.setattr(disk, "DISK", FaultDisk(root))
        going = own.count > at and mode != "nothing"
        remove_leftovers(root)
        assert (root / "a.txt").read_text() in (("new",) if done else ("new", "old"))
        if done == 2 or (root / "folder").exists():
            assert {path.name: path.read_text() for path in (root / "folder").iterdir() if path.is_file()} == {
                "one": "1",
                "two": "2",
            }
        assert {path.name for path in root.iterdir()} <= {"a.txt", "folder"}
        at += 1
    assert at > 10 or mode == "nothing"


def test_streams_of_a_seed_differ_and_repeat() -> None:
    seeds = {stream_seed(0, "a"), stream_seed(0, "b"), stream_seed(1, "a"), stream_seed(0, "a", 1)}
    assert len(seeds) == 4
    assert stream_seed(7, "shuffle", 2) == stream_seed(7, "shuffle", 2) < 2**63
