"""Every operation on files that the safety of a run rests on, in one class, so that a test can make each of them fail.

`DISK` is the one that all of Luthier uses. Functions look it up when they are called, never before: a test puts another
in its place and sees each operation pass.
"""

import errno
import fcntl
import os
import shutil
from pathlib import Path

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})  # the disk is full, or this user's share of it


class NoSpace(OSError):
    """There is no room for what is to be written. What was there before is as it was.

    Attributes:
        needed: bytes that must be free before another try.
        free: bytes that are.
    """

    def __init__(self, path: Path, needed: int, free: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.needed, self.free = needed, free


class Disk:
    """The operating system's files. A handle is a file descriptor; every method may raise OSError."""

    def create(self, path: Path) -> int:
        """Open a new file for writing; it must not exist. Its owner alone may read it."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def append(self, path: Path) -> int:
        """Open a file to write at its end; made when it does not exist."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, handle: int, data: bytes | memoryview) -> int:
        """Write a part of `data`, all of it as a rule; returns its bytes."""
        return os.write(handle, data)

    def sync(self, handle: int) -> None:
        """Return when the file's contents would survive a power cut."""
        if hasattr(fcntl, "F_FULLFSYNC"):  # on macOS fsync leaves them in the drive's cache
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        else:
            os.fsync(handle)

    def sync_file(self, path: Path) -> None:
        """`sync` of a file that somebody else wrote and closed."""
        handle = os.open(path, os.O_RDONLY)
        try:
            self.sync(handle)
        finally:
            os.close(handle)

    def close(self, handle: int) -> None:
        """Close what `create` or `append` opened."""
        os.close(handle)

    def sync_folder(self, path: Path) -> None:
        """Return when the names in the folder `path` would survive a power cut: what was made, renamed or deleted."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self, path: Path) -> bytes:
        """The whole file."""
        return path.read_bytes()

    def replace(self, old: Path, new: Path) -> None:
        """Rename within a disk; a file at `new` is replaced at once, a folder there must be empty."""
        os.replace(old, new)

    def make_folder(self, path: Path) -> None:
        """Make one folder in an existing one; its owner alone may look into it."""
        path.mkdir(0o700)

    def unlink(self, path: Path) -> None:
        """Delete a file."""
        path.unlink()

    def remove_empty(self, path: Path) -> None:
        """Delete a folder without contents."""
        path.rmdir()

    def remove_folder(self, path: Path) -> None:
        """Delete a folder and all in it, one operation each."""
        for entry in sorted(path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                self.remove_folder(entry)
            else:
                self.unlink(entry)
        self.remove_empty(path)

    def names(self, path: Path) -> list[str]:
        """Names in a folder, sorted; none where there is no such folder."""
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def free(self, path: Path) -> int:
        """Free bytes on the disk that holds `path` (or its nearest existing parent)."""
        path = path.absolute()
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free


DISK = Disk()
