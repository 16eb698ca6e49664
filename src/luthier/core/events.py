"""The append-only record of a run: one JSON object a line in `events.jsonl`.

Everything that shows a run (progress, plots, report, `luthier runs`) reads these lines and nothing else.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luthier.core.errors import RunError

EVENTS_FILE = "events.jsonl"


class EventLog:
    """Appends events to `run_dir/events.jsonl`, each flushed and synced before `add` returns.

    A line that a crash cut short is ended first, so a resumed run never joins two lines into one.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / EVENTS_FILE
        torn = self.path.exists() and self.path.stat().st_size > 0 and self.path.read_bytes()[-1:] != b"\n"
        self._file = self.path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def add(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event and return it. `fields` must be JSON values; non-finite floats are written as null."""
        entry = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        self._file.write(json.dumps(_finite(entry), ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        return entry

    def close(self) -> None:
        """Close the file; further `add` calls are an error."""
        self._file.close()


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
