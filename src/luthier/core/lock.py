"""One writer a run folder: an advisory lock that dies with its process."""

import fcntl
import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from luthier.core.errors import RunError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class RunLock:
    """Holds `run_dir/.lock` while the block runs; the kernel drops it if the process dies, so it is never stale.

    What the file says (process, start of the machine, time) is for the message to whoever comes second.

    Raises:
        RunError: another live process holds it; the message names the process and since when.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._handle: int | None = None

    def __enter__(self) -> "RunLock":
        handle = os.open(self.run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(os.read(handle, 4096))
            os.close(handle)
            raise RunError(
                f"in use by another run ({holder})",
                where=str(self.run_dir),
                fix="wait for it, stop it, or choose another output_dir",
            ) from None
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else ""
        text = {"pid": os.getpid(), "boot": boot, "since": datetime.now().isoformat(" ", "seconds")}
        with suppress(OSError):  # on a full disk the lock holds all the same, and names nobody
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(text).encode())
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._handle is not None
        os.close(self._handle)
        self._handle = None


def _holder(data: bytes) -> str:
    """Who holds it, in words; `data` may be of another machine that shares the folder, or not yet written."""
    try:
        said = json.loads(data)
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else ""
        place = "" if said["boot"] == boot else " of another machine"
        return f"process {said['pid']}{place}, since {said['since']}"
    except (ValueError, KeyError, TypeError):
        return "its process is not known"
