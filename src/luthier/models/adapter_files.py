"""The adapter on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.files import read_json, write_bytes
from luthier.models.decoder import Decoder
from luthier.models.fallback_spec import AnySpec, FallbackSpec
from luthier.models.lora import ALL_TARGETS, TABLE_TARGETS, Adapter, adaptable_names
from luthier.models.nf4_head import NF4Head

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# Settings of PEFT that change what an adapter computes, each with the value that we run.
_PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layer_replication": None,
    "ensure_weight_tying": False,
    "use_qalora": False,
    "alora_invocation_tokens": None,  # acts from these tokens on only
}
# Starts that leave the base as it is; others (PiSSA, OLoRA, CorDA …) move a part of the base into the adapter.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


def save_adapter(adapter: Adapter, folder: Path, *, base_model: str, nf4: bool = False, nf4_head: bool = False) -> None:
    """Write both files into `folder`, which exists. The arguments are those of `adapter_bytes`."""
    for name, data in adapter_bytes(adapter, base_model=base_model, nf4=nf4, nf4_head=nf4_head).items():
        write_bytes(folder / name, data)


def adapter_bytes(adapter: Adapter, *, base_model: str, nf4: bool = False, nf4_head: bool = False) -> dict[str, bytes]:
    """Both files' contents by name.

    Args:
        base_model: what PEFT shall load the base from (a folder or hub id).
        nf4, nf4_head: how the base was held, as in `load_decoder`. It is noted in the weights file, where PEFT does not
            look and from where it is not lost.
    """
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": _target_modules(adapter),
        "use_rslora": adapter.rslora,
        "use_dora": adapter.dora,
        "bias": "none",
        "fan_in_fan_out": adapter.spec.transposed,
        "inference_mode": True,
    }
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in adapter.named().items()}
    held = {name: "true" for name, value in (("nf4", nf4), ("nf4_head", nf4_head)) if value}
    weights = save(tensors, metadata={"format": "pt", **held})
    return {WEIGHTS_FILE: weights, CONFIG_FILE: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()}


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of the adapter in `folder`.

    Raises:
        ModelError: there are none, they are damaged, or they lack rank or scale.
    """
    file = folder / CONFIG_FILE
    if not file.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(f"not an adapter folder: it needs {CONFIG_FILE} and {WEIGHTS_FILE}", where=str(folder))
    try:
        config = read_json(file)
    except ValueError as error:
        raise ModelError(f"damaged: {error}", where=str(file)) from None
    lora = isinstance(config, dict) and config.get("peft_type", "LORA") == "LORA"  # other kinds are refused by name
    if not isinstance(config, dict) or (lora and not {"r", "lora_alpha"} <= config.keys()):
        raise ModelError("these are not the settings of an adapter: r or lora_alpha is missing", where=str(file))
    return config


def read_held(folder: Path) -> dict[str, bool]:
    """How an adapter's base was held when it was trained: arguments of `load_decoder`, none where nothing is noted.

    Raises:
        ModelError: the weights file is missing or damaged.
    """
    file = folder / WEIGHTS_FILE
    try:
        with safe_open(file, "pt") as tensors:
            noted = tensors.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"damaged: {error}", where=str(file)) from None
    return {name: True for name in ("nf4", "nf4_head") if noted.get(name) == "true"}


def _target_modules(adapter: Adapter) -> list[str] | str:
    """Names; where other parts of the model have linears of the same names, a pattern that meets only ours."""
    names, spec = sorted(adapter.targets), adapter.spec
    if isinstance(spec, FallbackSpec) and spec.exact_names:
        inner = sorted({re.escape(name) for pairs in adapter.layers for name in pairs})
        return rf"{re.escape(spec.layers_path)}\.\d+\.({'|'.join(inner)})"
    if not spec.left_out:
        return names
    return rf"({re.escape(spec.peft_prefix)}\..*\.)?({'|'.join(names)})"


def _adapted(stored: Mapping[str, Tensor]) -> set[str]:
    """The last part of the name of everything that an adapter's tensors belong to."""
    return {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in stored}


def load_adapter(
    folder: Path, spec: AnySpec, *, device: torch.device | str = "cpu", base: Decoder | None = None
) -> Adapter:
    """Read an adapter for a model of `spec`; written by Luthier or by PEFT.

    Args:
        base: the model. Where PEFT adapts the head or the embedding it writes the base's own tables beside the adapter,
            and they are compared with this model's; without it only their shapes are.

    Raises:
        ModelError: files missing or damaged, an adapter kind that we do not run, or one made for another model.
    """
    where, config = str(folder), read_config(folder)
    for key, plain in _PLAIN.items():
        if (config.get(key) or plain) != plain:
            raise ModelError(f"this adapter has {key}={config[key]}, which this version does not run", where=where)
    if config.get("fan_in_fan_out") and not spec.transposed:
        raise ModelError("this adapter has fan_in_fan_out=True, which this version does not run", where=where)
    if (start := config.get("init_lora_weights")) not in _PLAIN_STARTS:
        raise ModelError(
            f"this adapter was started with init_lora_weights={start}, which changes the base, and this version does "
            "not run that",
            where=where,
        )
    targets = config.get("target_modules") or []
    try:
        stored = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ModelError(f"damaged: {error}", where=str(folder / WEIGHTS_FILE)) from None
    if misfit := _foreign_table(stored, spec, base):
        raise ModelError(f"the adapter does not fit this model: {misfit}", where=where)
    if isinstance(targets, str):  # a pattern, or "all-linear"
        targets = sorted(_adapted(stored))
    if not set(targets) <= {*(ALL_TARGETS if spec.adapts_tables else ()), *adaptable_names(spec)}:
        known = ", ".join(adaptable_names(spec))
        raise ModelError(f"this adapter has target_modules={targets}; this version runs {known}", where=where)
    adapter = Adapter(
        spec,
        config["r"],
        config["lora_alpha"],
        targets=targets,
        rslora=config.get("use_rslora", False),
        dropout=config.get("lora_dropout", 0.0),
        dora=config.get("use_dora", False),
        device=device,
    )
    if adapter.dora and set(targets) & set(TABLE_TARGETS):
        raise ModelError(
            "this adapter has DoRA on the head or the embedding, which this version does not run", where=where
        )
    if misfit := adapter.fill(stored):
        raise ModelError(f"the adapter does not fit this model: {misfit}", where=where)
    return adapter


def _foreign_table(stored: dict[str, Tensor], spec: AnySpec, base: Decoder | None) -> str:
    """Take the base's tables out of `stored`; what is wrong with them, as half a sentence, or ""."""
    if not spec.adapts_tables:
        return ""  # adapters of tables are refused by their names
    shape = torch.Size((spec.vocab_size, spec.hidden_size))
    names = {"embedding": f"base_model.model.{spec.peft_prefix}.embed_tokens", "head": "base_model.model.lm_head"}
    for kind, name in names.items():
        table = stored.pop(f"{name}.base_layer.weight", None)
        if table is None:
            continue
        if table.shape != shape:
            return f"its {kind} is {tuple(table.shape)}, not {tuple(shape)}"
        if base is None or (kind == "head" and isinstance(base.head, NF4Head)):
            continue  # a head in 4 bits is no longer what it was read as
        own = base.embedding if kind == "embedding" or spec.tied else base.head.dense()
        if not torch.equal(table.to(own.dtype), own.cpu()):
            return f"it was trained beside another {kind}"
    return ""
