"""A disk that fails at the k-th operation: the process dies, the system refuses, or the power goes."""

import errno
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from luthier.core.disk import Disk

MODES = ("before", "after", "torn", "short", "ENOSPC", "EIO", "full", "power")
DEADLY = ("before", "after", "torn", "power")
TAKES_ROOM = ("create", "append", "write", "sync", "make_folder")


class Crash(BaseException):
    """The process died here: whatever handlers still do with the disk raises this again."""


@dataclass(eq=False)
class Node:
    """A file or folder.

    Attributes:
        durable: of a file, the contents that would survive a power cut.
        last: of a file that was deleted, what it held then.
        now, safe: of a folder, its names as they are and as they would survive.
        pending: changes of names since the folder was synced, each made whole or not at all: (name, node or None), …
    """

    folder: bool
    durable: bytes = b""
    last: bytes | None = None
    now: dict[str, "Node"] = field(default_factory=dict)
    safe: dict[str, "Node"] = field(default_factory=dict)
    pending: list[list[tuple[str, "Node | None"]]] = field(default_factory=list)


class FaultDisk(Disk):
    """Counts the operations that change something below `root`, and makes the one numbered `at` (from 0) go wrong.

    Modes:
        before, after: the process dies before or after the operation.
        torn: it dies in the middle of a write; elsewhere as after.
        short: the system takes half of what is written, and says so. No error.
        ENOSPC, EIO: the operation is refused, once; half of a write is on the disk.
        full: from here on nothing can be written until `heal`.
        power: as after, and of what was not synced some is lost: contents are cut off or gone, and names are as they
            were before. `seed` chooses what; seed 0 loses all of it.

    Nothing is really synced, so a trial takes milliseconds; what would survive is kept in `Node`s beside the files.
    """

    def __init__(self, root: Path, at: int = -1, mode: str = "after", *, seed: int = 0) -> None:
        assert mode in MODES
        self.root, self.at, self.mode = root, at, mode
        self.room = 2**40  # free bytes
        self.count, self.dead, self.filled = 0, False, False
        self.log: list[str] = []  # what was done, for whoever looks into a failure
        self._chance, self._lose_all = random.Random(f"{seed}/{at}"), seed == 0
        self._open: dict[int, tuple[Node, Path]] = {}
        self._tree = self._adopt(root)

    def heal(self) -> None:
        """There is room again."""
        self.filled = False

    def _adopt(self, path: Path) -> Node:
        if not path.is_dir():
            return Node(False, durable=path.read_bytes())
        names = {entry.name: self._adopt(entry) for entry in path.iterdir()}
        return Node(True, now=names, safe=dict(names))

    def _node(self, path: Path) -> Node:
        if path == self.root:
            return self._tree
        names = self._node(path.parent).now
        if path.name not in names:  # made past this class
            self._change(path.parent, (path.name, Node(path.is_dir())))
        return names[path.name]

    def _change(self, folder: Path, *names: tuple[str, Node | None]) -> None:
        node = self._node(folder)
        node.pending.append(list(names))
        _apply(node.now, names)

    # What goes wrong.

    def _begin(self, name: str, path: Path) -> bool:
        """Count an operation; True when it is the one that goes wrong."""
        if self.dead:
            raise Crash
        wrong, self.count = self.count == self.at, self.count + 1
        self.log.append(f"{name} {path.name}")
        if wrong and self.mode == "full":
            self.filled = True
        if self.filled and name in TAKES_ROOM:
            raise _error("ENOSPC")
        if wrong and self.mode == "before":
            self._die()
        if wrong and self.mode in ("ENOSPC", "EIO") and name != "write":
            raise _error(self.mode)
        return wrong

    def _end(self, wrong: bool) -> None:
        if wrong and self.mode in DEADLY:
            self._die()

    def _die(self) -> None:
        self.dead = True
        for handle in self._open:
            os.close(handle)
        if self.mode == "power":
            kept = self._kept(self._tree, self.root)
            for entry in self.root.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            _write(self.root, kept)
        raise Crash

    def _kept(self, node: Node, path: Path | None) -> "dict[str, object] | bytes":
        """What is left of a file or folder; `path` is where it is, None when it was deleted or renamed away."""
        if not node.folder:
            last = path.read_bytes() if path is not None and path.is_file() else node.last or b""
            return node.durable if self._lose_all else self._cut(node.durable, last)
        names = dict(node.safe)
        for change in node.pending:
            if not self._lose_all and self._chance.random() < 0.5:
                _apply(names, change)
        where = {id(child): path / name for name, child in node.now.items()} if path is not None else {}
        return {name: self._kept(child, where.get(id(child))) for name, child in names.items()}

    def _cut(self, durable: bytes, last: bytes) -> bytes:
        choice = self._chance.random()
        if choice < 0.3 or last == durable:
            return durable
        return last if choice < 0.6 else last[: self._chance.randrange(len(last) + 1)]

    # The operations.

    def create(self, path: Path) -> int:
        wrong = self._begin("create", path)
        handle, node = super().create(path), Node(False)
        self._open[handle] = node, path
        self._change(path.parent, (path.name, node))
        self._end(wrong)
        return handle

    def append(self, path: Path) -> int:
        if path.exists():
            handle = super().append(path)
            self._open[handle] = self._node(path), path
            return handle
        wrong = self._begin("append", path)
        handle, node = super().append(path), Node(False)
        self._open[handle] = node, path
        self._change(path.parent, (path.name, node))
        self._end(wrong)
        return handle

    def write(self, handle: int, data: bytes | memoryview) -> int:
        wrong = self._begin("write", self._open[handle][1] if not self.dead else self.root)
        if not wrong or self.mode in ("before", "after", "power"):
            done = super().write(handle, data)
            self._end(wrong)
            return done
        half = super().write(handle, data[: max(1, len(data) // 2)])
        self._end(wrong)
        if self.mode != "short":
            raise _error(self.mode)
        return half

    def sync(self, handle: int) -> None:
        node, path = self._open[handle] if not self.dead else (self._tree, self.root)
        wrong = self._begin("sync", path)
        node.durable = path.read_bytes()
        self._end(wrong)

    def sync_file(self, path: Path) -> None:
        wrong = self._begin("sync", path)
        self._node(path).durable = path.read_bytes()
        self._end(wrong)

    def close(self, handle: int) -> None:
        if not self.dead:  # what a dead process had open is closed
            del self._open[handle]
            super().close(handle)

    def sync_folder(self, path: Path) -> None:
        wrong = self._begin("sync_folder", path)
        node = self._node(path)
        node.safe, node.pending = dict(node.now), []
        self._end(wrong)

    def replace(self, old: Path, new: Path) -> None:
        wrong = self._begin("replace", new)
        node = self._node(old)
        super().replace(old, new)
        assert old.parent == new.parent, "a rename between folders is not modelled"
        self._change(old.parent, (old.name, None), (new.name, node))
        self._end(wrong)

    def make_folder(self, path: Path) -> None:
        wrong = self._begin("make_folder", path)
        super().make_folder(path)
        self._change(path.parent, (path.name, Node(True)))
        self._end(wrong)

    def unlink(self, path: Path) -> None:
        wrong = self._begin("unlink", path)
        self._node(path).last = path.read_bytes()
        super().unlink(path)
        self._change(path.parent, (path.name, None))
        self._end(wrong)

    def remove_empty(self, path: Path) -> None:
        wrong = self._begin("remove_empty", path)
        super().remove_empty(path)
        self._change(path.parent, (path.name, None))
        self._end(wrong)

    def free(self, path: Path) -> int:
        return 0 if self.filled else self.room


def _error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


def _apply(
    names: dict[str, Node], change: "list[tuple[str, Node | None]] | tuple[tuple[str, Node | None], ...]"
) -> None:
    for name, node in change:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _write(folder: Path, kept: "dict[str, object] | bytes") -> None:
    assert isinstance(kept, dict)
    for name, content in kept.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).mkdir()
            _write(folder / name, content)
