"""Checkpoints: a folder that is whole or absent, verified before it is trusted.

    checkpoints/step-000050/
        adapter_model.safetensors, adapter_config.json   the adapter, as PEFT reads it
        optimizer.safetensors                            AdamW's two moments as they are held, flat like the adapter
        state.json                                       step, best validation, counters
        manifest.json                                    size and sha256 of the others, written last

There is no random state: the order of rows, the rounding of bf16 weights and dropout follow from the seed and the step.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from luthier.core.errors import RunError
from luthier.core.files import atomic_folder, hash_file, read_json, write_json
from luthier.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE, save_adapter
from luthier.models.lora import Adapter
from luthier.train.optim import DTYPES, Optimizer, restore

FOLDER, MANIFEST, OPTIMIZER = "checkpoints", "manifest.json", "optimizer.safetensors"


@dataclass
class Progress:
    """Where a run stands after `step` optimizer steps."""

    step: int = 0
    total_tokens: int = 0
    total_label_tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    stale_validations: int = 0  # since the best one


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of `step` is or would be."""
    return run_dir / FOLDER / f"step-{step:06d}"


def save_checkpoint(
    run_dir: Path, progress: Progress, adapter: Adapter, optimizer: Optimizer, *, base_model: str
) -> Path:
    """Write the checkpoint of `progress.step`, unless it is there already and whole; returns its folder."""
    path = folder_of(run_dir, progress.step)
    if path.exists():
        if not damage(path):
            return path
        shutil.rmtree(path)
    with atomic_folder(path) as folder:
        save_adapter(adapter, folder, base_model=base_model)
        save_file({name: tensor.cpu() for name, tensor in optimizer.tensors().items()}, folder / OPTIMIZER)
        write_json(folder / "state.json", asdict(progress))
        files = {file.name: {"size": file.stat().st_size, "sha256": hash_file(file)} for file in folder.iterdir()}
        write_json(folder / MANIFEST, {"format": 1, "files": files})
    return path


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, as half a sentence; empty when every file is as the manifest says."""
    if not (folder / MANIFEST).is_file():
        return "it has no manifest"
    try:
        files = read_json(folder / MANIFEST)["files"]
    except (ValueError, KeyError, TypeError):
        return "its manifest is damaged"
    for name, facts in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != facts["size"] or hash_file(file) != facts["sha256"]:
            return f"{name} is damaged"
    return ""


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted((run_dir / FOLDER).glob("step-*"), reverse=True)


def newest_good(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not."""
    notes = []
    for folder in checkpoints(run_dir):
        wrong = damage(folder)
        if not wrong:
            return folder, notes
        notes.append(f"{folder.name} is passed over: {wrong}")
    return None, notes


def load_checkpoint(folder: Path, adapter: Adapter, optimizer: Optimizer) -> Progress:
    """Put the adapter's weights, the optimizer's moments and the counters back to where they were, bit for bit.

    Raises:
        RunError: the checkpoint was made with another model, rank, scale, dropout, `adapter_dtype` or `optim`.
    """
    weights = load_file(folder / WEIGHTS_FILE)
    config, names = read_json(folder / CONFIG_FILE), {dtype: name for name, dtype in DTYPES.items()}
    dtypes = {names.get(tensor.dtype, str(tensor.dtype)) for tensor in weights.values()}
    for field, was, now in (
        ("adapter_dtype", " and ".join(sorted(dtypes)), names[adapter.flat.dtype]),
        ("lora_alpha", config["lora_alpha"], adapter.alpha),
        ("rslora", config["use_rslora"], adapter.rslora),
        ("lora_dropout", config["lora_dropout"], adapter.dropout),
    ):
        if was != now:
            was, now = (str(value).lower() for value in (was, now))  # true and false as they are written
            raise RunError(
                f"the checkpoint was made with {field}: {was}, and this run has {now}",
                where=str(folder),
                fix=f"write {field}: {was} in the run's recipe.yaml, or start a new run",
            )
    if misfit := adapter.fill(weights):
        raise RunError(f"the checkpoint was made with another model or lora_r: {misfit}", where=str(folder))
    progress = Progress(**read_json(folder / "state.json"))
    if progress.step:
        restore(optimizer, load_file(folder / OPTIMIZER), progress.step, where=str(folder))
    return progress


def prune(run_dir: Path, *, keep: int, best_step: int) -> None:
    """Delete all checkpoints but the newest `keep` and the best one."""
    for folder in checkpoints(run_dir)[keep:]:
        if folder != folder_of(run_dir, best_step):
            shutil.rmtree(folder)
