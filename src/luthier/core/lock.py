"""One writer a run folder: an advisory lock that dies with its process."""

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType

from luthier.core.errors import RunError


class RunLock:
    """Holds `run_dir/.lock` while the block runs; the kernel drops it if the process dies.

    Raises:
        RunError: another live process holds it (its pid is named).
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._handle: int | None = None

    def __enter__(self) -> "RunLock":
        handle = os.open(self.run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 4096)
            os.close(handle)
            pid = json.loads(holder)["pid"] if holder else "unknown"
            raise RunError(
                f"in use by another run (process {pid})",
                where=str(self.run_dir),
                fix="wait for it, stop it, or choose another output_dir",
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid()}).encode())
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._handle is not None
        os.close(self._handle)
        self._handle = None
