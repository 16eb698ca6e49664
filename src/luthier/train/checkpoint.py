"""Checkpoints: all that a run needs to go on with the bits it would have had.

    checkpoints/step-000050/
        adapter_model.safetensors, adapter_config.json   the adapter, as PEFT reads it
        optimizer.safetensors                            AdamW's two moments as they are held, flat like the adapter
        state.json                                       `Progress`: counters, guards, watches
        manifest.json                                    written last: step, size and sha256 of each file, what the run
                                                         is made of, and which weights the moments belong to, by name

There is no random state: the order of rows, the rounding of bf16 weights and dropout follow from the seed and the step.
`train.checkpoint_folder` is how such a folder is written and found again.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from luthier.core import disk
from luthier.core.disk import NoSpace
from luthier.core.errors import RunError
from luthier.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE, adapter_bytes
from luthier.models.lora import Adapter
from luthier.train.checkpoint_folder import (
    commit,
    damage,
    discard_after,
    folder_of,
    newest_good,
    prune,
    read_manifest,
    read_verified,
)
from luthier.train.optim import DTYPES, Optimizer, restore
from luthier.train.progress import Progress

__all__ = [
    "NoSpace",
    "Progress",
    "damage",
    "discard_after",
    "facts_of",
    "folder_of",
    "load_checkpoint",
    "newest_good",
    "prune",
    "save_checkpoint",
    "save_when_there_is_room",
]

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
LOOK_SECONDS, TRY_SECONDS = 0.5, 5.0  # while the disk is full: between two questions whether to stop; between two tries


def layout_of(adapter: Adapter) -> dict[str, list[int]]:
    """Where in the flat buffer each of the adapter's tensors is: PEFT name → first weight, number of weights."""
    layout = {name: [tensor.storage_offset(), tensor.numel()] for name, tensor in adapter.named().items()}
    assert sum(length for _, length in layout.values()) == adapter.num_parameters, "tensors overlap or are missing"
    return layout


def save_checkpoint(
    run_dir: Path,
    progress: Progress,
    adapter: Adapter,
    optimizer: Optimizer,
    *,
    base_model: str,
    facts: Mapping[str, Any],
    protect: Collection[int] = (),
) -> Path:
    """Write the checkpoint of `progress.step`, unless it is there already; returns its folder.

    When this returns it outlives a power cut. When it raises, the checkpoints before it are as they were, or, for want
    of room, the newest and those in `protect` are.

    Args:
        base_model: where PEFT shall find the base.
        facts: what the run is made of (`stages.facts`), kept in the manifest.
        protect: steps whose checkpoints are not deleted to make room; that of the best validation never is.

    Raises:
        NoSpace: the disk is full; `save_when_there_is_room` waits.
        RunError: a weight or a moment is not finite, or the disk refuses for another reason.
    """
    moments = {name: tensor.cpu() for name, tensor in optimizer.tensors().items()}
    _require_finite(adapter, moments, where=str(run_dir))
    state = asdict(progress)
    text = json.dumps(state, indent=1, ensure_ascii=False, allow_nan=False)
    assert json.loads(text) == state, "a resumed run would read another state: keys are texts, no tuples, no NaN"
    files = {
        **adapter_bytes(adapter, base_model=base_model),
        OPTIMIZER: save(moments),
        STATE: f"{text}\n".encode(),
    }
    more = {"facts": dict(facts), "layout": layout_of(adapter)}
    return commit(run_dir, progress.step, files, more, {*protect, progress.best_step})


def _require_finite(adapter: Adapter, moments: Mapping[str, Tensor], *, where: str) -> None:
    if adapter.flat.isfinite().all() and all(tensor.isfinite().all() for tensor in moments.values()):
        return
    wrong = {**{name: tensor for name, tensor in adapter.named().items()}, **moments}
    names = [name for name, tensor in wrong.items() if not tensor.isfinite().all()]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise RunError(
        f"not saved: {', '.join(names[:3])}{more} hold numbers that are not finite",
        where=where,
        fix="luthier train --resume goes on from the newest checkpoint, which is good; lower learning_rate",
    )


def facts_of(folder: Path) -> dict[str, Any]:
    """What the run was made of when the checkpoint was written.

    Raises:
        RunError: its manifest is damaged.
    """
    return _manifest(folder)["facts"]


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if isinstance(manifest, str):
        raise RunError(manifest, where=str(folder), fix="luthier train --resume takes an older checkpoint")
    return manifest


def load_checkpoint(folder: Path, adapter: Adapter, optimizer: Optimizer) -> Progress:
    """Put the adapter's weights, the optimizer's moments and the counters back to where they were, bit for bit.

    Raises:
        RunError: a file is damaged, or the checkpoint was made with another model, rank, scale, `adapter_dtype` or
            `optim`.
    """
    manifest = _manifest(folder)
    files = {name: read_verified(folder, name, facts) for name, facts in manifest["files"].items()}
    weights, moments = load(files[WEIGHTS_FILE]), load(files[OPTIMIZER])
    _require_kind(json.loads(files[CONFIG_FILE]), weights, adapter, where=str(folder))
    moments = _bound(moments, manifest["layout"], layout_of(adapter), where=str(folder))
    if misfit := adapter.fill(weights):
        raise RunError(f"the checkpoint was made with another model or lora_r: {misfit}", where=str(folder))
    progress = Progress(**json.loads(files[STATE]))
    restore(optimizer, moments, progress.updates, where=str(folder))
    return progress


def _require_kind(config: Mapping[str, Any], weights: Mapping[str, Tensor], adapter: Adapter, *, where: str) -> None:
    names = {dtype: name for name, dtype in DTYPES.items()}
    dtypes = {names.get(tensor.dtype, str(tensor.dtype)) for tensor in weights.values()}
    for field, was, now in (
        ("adapter_dtype", " and ".join(sorted(dtypes)), names[adapter.flat.dtype]),
        ("lora_alpha", config["lora_alpha"], adapter.alpha),
        ("rslora", config["use_rslora"], adapter.rslora),
    ):
        if was != now:
            was, now = (str(value).lower() for value in (was, now))  # true and false as they are written
            raise RunError(
                f"the checkpoint was made with {field}: {was}, and this run has {now}",
                where=where,
                fix=f"write {field}: {was} in the run's recipe.yaml, or start a new run",
            )


def _bound(
    moments: dict[str, Tensor], was: Mapping[str, list[int]], now: Mapping[str, list[int]], *, where: str
) -> dict[str, Tensor]:
    """The moments in the order of this adapter's weights; they are found by the weights' names, never by place alone.

    Raises:
        RunError: they belong to other weights, or they are in 8 bits, which are held in blocks, and the order differs.
    """
    if was == now:
        return moments
    lengths = [{name: length for name, (_, length) in layout.items()} for layout in (was, now)]
    if other := sorted({name for name, _ in lengths[0].items() ^ lengths[1].items()}):
        raise RunError(
            f"the checkpoint was made with another model, lora_r or lora_targets: {len(other)} tensors differ, "
            f"{other[0]} the first",
            where=where,
        )
    if any(tensor.dtype != torch.float32 for tensor in moments.values()):
        raise RunError(
            "the checkpoint holds moments in 8 bits for weights in another order than this version has",
            where=where,
            fix="go on with the version of Luthier that wrote it",
        )
    bound = {name: torch.empty_like(tensor) for name, tensor in moments.items()}
    for name, (start, length) in now.items():
        source = was[name][0]
        for moment, tensor in moments.items():
            bound[moment][start : start + length] = tensor[source : source + length]
    return bound


def save_when_there_is_room(
    save: Callable[[], Path], *, run_dir: Path, step: int, emit: Callable[..., Any], should_stop: Callable[[], bool]
) -> Path | None:
    """Save; while the disk is full, wait with everything in memory, and try again.

    Args:
        save: `save_checkpoint` with its arguments.
        emit: receives the events paused, when the waiting begins, and unpaused, when the checkpoint is written.
        should_stop: asked twice a second; True gives up.

    Returns:
        The checkpoint's folder; None when it was given up and nothing is saved.
    """
    since: float | None = None
    while True:
        try:
            path = save()
        except NoSpace as error:
            if since is None:
                since = time.monotonic()
                text = (
                    f"the disk is full: the checkpoint of step {step} needs {error.needed / 1e6:,.0f} MB and "
                    f"{error.free / 1e6:,.0f} MB are free; the run waits for space"
                )
                emit("paused", step=step, needed_bytes=error.needed, free_bytes=error.free, text=text)
            again = time.monotonic() + TRY_SECONDS
            while time.monotonic() < again or disk.DISK.free(run_dir) < error.needed:
                if should_stop():
                    return None
                time.sleep(LOOK_SECONDS)
        else:
            if since is not None:
                emit("unpaused", step=step, seconds=time.monotonic() - since)
            return path
