"""The append-only record of a run: one JSON object a line in `events.jsonl`.

Everything that shows a run (progress, plots, report, `luthier runs`) reads these lines and nothing else.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luthier.core import disk
from luthier.core.disk import NO_SPACE
from luthier.core.errors import RunError
from luthier.core.files import write_new

EVENTS_FILE = "events.jsonl"
BALLAST_FILE, BALLAST = ".ballast", 8 * 2**20  # bytes given up when the disk is full: 20,000 events fit into them


class EventLog:
    """Appends events to `run_dir/events.jsonl`, each synced before `add` returns.

    While it is open it holds a ballast, a file that is deleted when the disk is full, so that the events that tell of
    it can still be written; it is laid down again when there is room. If even that is not enough, events wait in memory
    and are written before the next ones.

    A line that a crash cut short is ended first, so a resumed run never joins two lines into one.

    Raises:
        RunError: the disk refuses to write for another reason than want of room.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / EVENTS_FILE
        self._ballast = run_dir / BALLAST_FILE
        self._held = self._ballast.exists()
        new = not self.path.exists()
        self._waiting = b"" if new or _ends_whole(self.path) else b"\n"
        try:
            self._handle = disk.DISK.append(self.path)
            if new:
                disk.DISK.sync_folder(run_dir)
        except OSError as error:
            raise self._refused(error) from error
        self._hold()

    def add(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event and return it. `fields` must be JSON values; non-finite floats are written as null."""
        entry = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        self._waiting += (json.dumps(_finite(entry), ensure_ascii=False) + "\n").encode()
        try:
            if not self._written() and self._held:
                disk.DISK.unlink(self._ballast)
                self._held = False
                self._written()
            elif not self._held and not self._waiting:
                self._hold()
        except OSError as error:
            raise self._refused(error) from error
        return entry

    def _written(self) -> bool:
        """Write what waits; whether all of it is on the disk now."""
        try:
            while self._waiting:
                self._waiting = self._waiting[disk.DISK.write(self._handle, self._waiting) :]
            disk.DISK.sync(self._handle)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            return False
        return True

    def _hold(self) -> None:
        """Lay the ballast down, if that leaves as much room again."""
        if self._held or disk.DISK.free(self.path) < 2 * BALLAST:
            return
        try:
            write_new(self._ballast, bytes(BALLAST))
            self._held = True
        except OSError as error:
            with suppress(OSError):
                disk.DISK.unlink(self._ballast)
            if error.errno not in NO_SPACE:
                raise self._refused(error) from error

    def _refused(self, error: OSError) -> RunError:
        return RunError(
            f"events cannot be written ({error.strerror})", where=str(self.path), fix="mend the disk or its rights"
        )

    def close(self) -> None:
        """Close the file and delete the ballast; further `add` calls are an error."""
        try:
            if self._held:
                disk.DISK.unlink(self._ballast)
                self._held = False
            if self._waiting and not self._written():
                raise self._refused(OSError(0, "the disk is full"))
        finally:
            disk.DISK.close(self._handle)


def _ends_whole(path: Path) -> bool:
    """Whether a file is empty or its last line has an end."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: non-finite floats become None, everywhere in the value."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_events(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The events of a run, oldest first. A line torn by a crash is skipped; a damaged line elsewhere too.

    Raises:
        RunError: there is no event file.
    """
    path = run_dir / EVENTS_FILE
    if not path.is_file():
        raise RunError(
            "not a run folder: it has no events.jsonl", where=str(run_dir), fix="luthier runs list shows runs"
        )
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(entry, dict) and "event" in entry:
                yield entry
