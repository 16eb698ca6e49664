"""Files that are either whole or absent: write to a temporary name, sync, rename; and content hashes."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from luthier.core import disk

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` for what is not whole yet, or no more; `remove_leftovers` knows it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Delete what a process that died left half written in `folder`. Only for whoever holds the folder's lock."""
    for name in disk.DISK.names(folder):
        if _TEMPORARY.fullmatch(name):
            remove(folder / name)


def remove(path: Path) -> None:
    """Delete a file, or a folder and all in it."""
    if path.is_dir() and not path.is_symlink():
        disk.DISK.remove_folder(path)
    else:
        disk.DISK.unlink(path)


def sync_folder(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    disk.DISK.sync_folder(path)


def make_folders(path: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut."""
    if not path.is_dir():
        make_folders(path.parent)
        with suppress(FileExistsError):  # another process made it meanwhile
            disk.DISK.make_folder(path)
        sync_folder(path.parent)


def write_all(handle: int, data: bytes) -> None:
    """Write all of `data`, however few bytes the system takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[disk.DISK.write(handle, rest) :]


def write_new(path: Path, data: bytes) -> None:
    """Write a file that does not exist yet, and sync it; its name survives once its folder is synced, too."""
    handle = disk.DISK.create(path)
    try:
        write_all(handle, data)
        disk.DISK.sync(handle)
    finally:
        disk.DISK.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a reader sees the old file or the new one, never a part."""
    make_folders(path.parent)
    temporary = temporary_name(path)
    try:
        write_new(temporary, data)
        disk.DISK.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            disk.DISK.unlink(temporary)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` for JSON, indented so that a person can read it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` only when the block ends without an error.

    The block fills the yielded temporary folder beside `path`; every file in it is synced before the rename.
    """
    make_folders(path.parent)
    temporary = temporary_name(path)
    try:
        disk.DISK.make_folder(temporary)
        yield temporary
        _sync_all(temporary)
        disk.DISK.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            disk.DISK.remove_folder(temporary)
        raise
    sync_folder(path.parent)


def _sync_all(folder: Path) -> None:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            _sync_all(entry)
        elif entry.is_file():
            disk.DISK.sync_file(entry)
    sync_folder(folder)


def hash_bytes(*parts: bytes) -> str:
    """sha256 in hex over the parts, each preceded by its length so that no two splits collide."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)  # json.dumps makes one a call


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values have equal texts."""
    return _CANONICAL.encode(value)


def hash_json(value: Any) -> str:
    """sha256 in hex of a JSON value in canonical form (sorted keys, no spaces)."""
    return hash_bytes(canonical_json(value).encode("utf-8"))


def hash_file(path: Path) -> str:
    """sha256 in hex of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
