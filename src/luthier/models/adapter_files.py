"""The adapter on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from luthier.core.errors import ModelError
from luthier.core.files import read_json, write_json
from luthier.models.lora import ALL_TARGETS, Adapter
from luthier.models.spec import Spec

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(adapter: Adapter, folder: Path, *, base_model: str) -> None:
    """Write both files into `folder`, which exists.

    Args:
        base_model: what PEFT shall load the base from (a folder or hub id).
    """
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(adapter.targets),
        "use_rslora": adapter.rslora,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in adapter.named().items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, config)


def load_adapter(folder: Path, spec: Spec, *, device: torch.device | str = "cpu") -> Adapter:
    """Read an adapter for a model of `spec`; written by Luthier or by PEFT.

    Raises:
        ModelError: files missing or damaged, an adapter kind that we do not run, or one made for another model.
    """
    where = str(folder)
    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(f"not an adapter folder: it needs {CONFIG_FILE} and {WEIGHTS_FILE}", where=where)
    config = read_json(folder / CONFIG_FILE)
    for key, plain in {"peft_type": "LORA", "use_dora": False, "bias": "none"}.items():
        if config.get(key, plain) != plain:
            raise ModelError(f"this adapter has {key}={config[key]}, which this version does not run", where=where)
    targets = config.get("target_modules") or []
    if isinstance(targets, str) or not set(targets) <= set(ALL_TARGETS):
        known = ", ".join(ALL_TARGETS)
        raise ModelError(f"this adapter has target_modules={targets}; this version runs {known}", where=where)
    adapter = Adapter(
        spec, config["r"], config["lora_alpha"], targets=targets, rslora=config.get("use_rslora", False), device=device
    )
    try:
        stored = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ModelError(f"damaged: {error}", where=str(folder / WEIGHTS_FILE)) from None
    if misfit := adapter.fill(stored):
        raise ModelError(f"the adapter does not fit this model: {misfit}", where=where)
    return adapter
