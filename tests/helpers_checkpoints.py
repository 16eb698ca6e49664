"""Checkpoints without a run: states with a digest, saved one after the other by a small adapter and its optimizer."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_disk import Crash, FaultDisk
from luthier.core import disk
from luthier.core.disk import Disk, NoSpace
from luthier.core.errors import RunError
from luthier.core.files import hash_json
from luthier.models.lora import Adapter
from luthier.models.rope_scaling import RopeScaling
from luthier.models.spec import Spec
from luthier.train.checkpoint import Progress, load_checkpoint, newest_good, prune, save_checkpoint
from luthier.train.optim import ChunkedAdamW, Optimizer, PlainAdamW

TINY = Spec(
    family="llama", num_layers=1, hidden_size=8, num_heads=2, num_kv_heads=1, head_size=4, ffn_size=12, vocab_size=20,
    norm_eps=1e-5, rope=RopeScaling("default", 1e4, 4), max_positions=64, tied=True,
)  # fmt: skip
FACTS: dict[str, Any] = {"data": "abc", "lora_r": 2}


@dataclass
class Trained:
    """An adapter, its optimizer and where they stand."""

    adapter: Adapter
    optimizer: Optimizer
    progress: Progress = field(default_factory=Progress)

    @property
    def digest(self) -> str:
        """Hash of every bit of it."""
        parts = [self.adapter.flat, *self.optimizer.tensors().values()]
        bits = hashlib.sha256(b"".join(part.contiguous().view(torch.uint8).numpy().tobytes() for part in parts))
        return bits.hexdigest() + hash_json(asdict(self.progress))


def fresh(*, eight_bit: bool = False, dtype: torch.dtype = torch.float32, **kind: Any) -> Trained:
    """One that has learned nothing."""
    kind = {"targets": ("q_proj", "down_proj"), **kind}
    adapter = Adapter(TINY, kind.pop("rank", 2), kind.pop("alpha", 4), dtype=dtype, **kind)
    plain = not eight_bit and dtype == torch.float32
    return Trained(
        adapter, PlainAdamW(adapter, 0.0) if plain else ChunkedAdamW(adapter, 0.0, eight_bit=eight_bit, seed=0)
    )


def stand(trained: Trained, step: int, *, variant: int = 0) -> Trained:
    """Make it what it is after `step` steps: other weights, moments and counters for each step and variant."""
    generator = torch.Generator().manual_seed(1000 * variant + step)
    for tensor in (trained.adapter.flat, *trained.optimizer.tensors().values()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
        else:
            tensor.random_(0, 256, generator=generator)
    trained.progress = Progress(step=step, updates=step, seconds=variant + 0.1, guard={"norms": [0.1, step / 3]})
    return trained


@lru_cache
def digest_of(step: int, variant: int = 0) -> str:
    """The digest of what `stand` makes."""
    return stand(fresh(), step, variant=variant).digest


def save(run_dir: Path, trained: Trained, **more: Any) -> Path:
    """Its checkpoint."""
    parts = (trained.progress, trained.adapter, trained.optimizer)
    return save_checkpoint(run_dir, *parts, **{"base_model": "m", "facts": FACTS, **more})


def saved(run_dir: Path, *steps: int, variant: int = 0) -> list[Path]:
    """Checkpoints of these steps, in this order."""
    trained = fresh()
    return [save(run_dir, stand(trained, step, variant=variant)) for step in steps]


def loaded(folder: Path, **kind: Any) -> Trained:
    """What a checkpoint holds, in an adapter that was something else before."""
    trained = stand(fresh(**kind), 999, variant=7)
    trained.progress = load_checkpoint(folder, trained.adapter, trained.optimizer)
    return trained


Saves = Sequence[tuple[int, int]]  # (step, variant)


def live(run_dir: Path, saves: Saves, *, keep: int) -> list[tuple[int, int]]:
    """Save and prune until something goes wrong; returns what was acknowledged."""
    acknowledged: list[tuple[int, int]] = []
    trained = fresh()
    try:
        for step, variant in saves:
            save(run_dir, stand(trained, step, variant=variant))
            acknowledged.append((step, variant))
            prune(run_dir, keep=keep)
    except (Crash, NoSpace, RunError):
        pass
    return acknowledged


def holds(run_dir: Path, saves: Saves, acknowledged: Saves) -> tuple[int, int] | None:
    """I1: the newest good checkpoint is one that was saved, not older than the last acknowledged, bit for bit.

    Returns:
        Which one it is; None when none was acknowledged and there is none.
    """
    folder, notes = newest_good(run_dir)
    assert notes == [], notes
    if folder is None:
        assert not acknowledged
        return None
    found = loaded(folder)
    made = [save for save in saves if digest_of(*save) == found.digest]
    assert len(made) == 1, f"{folder.name} is none of the states that were saved"
    if acknowledged:
        assert saves.index(made[0]) >= saves.index(acknowledged[-1])
    return made[0]


def operations(run_dir: Path, saves: Saves, patch: pytest.MonkeyPatch, *, keep: int) -> FaultDisk:
    """The disk after everything went well: its `count` and `log`."""
    run_dir.mkdir()
    good = FaultDisk(run_dir)
    patch.setattr(disk, "DISK", good)
    assert live(run_dir, saves, keep=keep) == list(saves)
    patch.setattr(disk, "DISK", Disk())
    return good
