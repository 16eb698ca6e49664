"""Files, events, locks, seeds, errors."""

import json
import multiprocessing
from pathlib import Path

import pytest

from luthier.core.errors import DataError, LuthierError, RunError
from luthier.core.events import EVENTS_FILE, EventLog, read_events
from luthier.core.files import atomic_folder, hash_bytes, hash_json, write_text
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
    with pytest.raises(RunError, match=str(pid)), RunLock(tmp_path):
        pass
    process.kill()
    process.join()
    with RunLock(tmp_path):
        pass
    for queue in (ready, done):
        queue.close()
        queue.join_thread()


def test_streams_of_a_seed_differ_and_repeat() -> None:
    seeds = {stream_seed(0, "a"), stream_seed(0, "b"), stream_seed(1, "a"), stream_seed(0, "a", 1)}
    assert len(seeds) == 4
    assert stream_seed(7, "shuffle", 2) == stream_seed(7, "shuffle", 2) < 2**63
