"""A stage's place in a training: what it begins with, what its gate asks for, what earlier stages hold out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from luthier.core.errors import RunError
from luthier.core.files import hash_file
from luthier.data.render import Row
from luthier.evaluate.losses import RowLosses
from luthier.models.adapter_files import WEIGHTS_FILE
from luthier.models.lora import Adapter

BASE = "the base"


@dataclass(frozen=True)
class Earlier:
    """An earlier stage: its held-out rows, and the losses that its own result has on them."""

    name: str
    rows: list[Row]
    reached: RowLosses


@dataclass(frozen=True)
class Link:
    """One stage among others.

    Attributes:
        number, of: counted from 1.
        path: its folder within the whole run's.
        gate, max_unlearning: as in the recipe.
        parent: name of the stage whose adapter it begins with; "" is the base alone.
        parent_dir, parent_sha256: that adapter's folder, and the hash of its weights file.
    """

    name: str
    number: int
    of: int
    path: str
    gate: str
    max_unlearning: float | None
    parent: str = ""
    parent_dir: Path | None = None
    parent_sha256: str = ""
    earlier: list[Earlier] = field(default_factory=list)

    @property
    def beside(self) -> str:
        """What the stage's result is compared with, in words."""
        return f"stage {self.parent}" if self.parent else BASE

    def event(self) -> dict[str, Any]:
        """The fields of a `stage` event."""
        return {
            "name": self.name,
            "number": self.number,
            "of": self.of,
            "parent": self.parent,
            "parent_sha256": self.parent_sha256,
            "path": self.path,
        }


def begin_with(adapter: Adapter, link: Link) -> None:
    """Put the parent's weights into a fresh adapter; of the first stage it stays fresh.

    Raises:
        RunError: the parent's adapter is not what it was when its stage was accepted.
    """
    if link.parent_dir is None:
        return
    file = link.parent_dir / WEIGHTS_FILE
    require_hash(file, link.parent_sha256, link.parent)
    with torch.no_grad():
        misfit = adapter.fill(load_file(file))
    if misfit:
        raise RunError(f"the adapter of stage {link.parent} does not fit: {misfit}", where=str(link.parent_dir))


def require_hash(file: Path, sha256: str, name: str) -> None:
    """See that an accepted adapter is what it was.

    Raises:
        RunError: it is not.
    """
    wrong = "is missing" if not file.is_file() else "has changed" if hash_file(file) != sha256 else ""
    if wrong:
        raise RunError(
            f"the adapter of stage {name} {wrong} since the stage was accepted",
            where=str(file),
            fix="put it back, or train anew in another output_dir",
        )
