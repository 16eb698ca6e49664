"""What a run was made from and on, for a person: model, data, versions, machine. Written once, into its folder."""

import platform
from collections.abc import Mapping
from typing import Any

import torch

from luthier.core.hardware import cpu, memory
from luthier.stages.check import Check

MANIFEST_FILE = "manifest.json"


def manifest_of(checked: Check, facts: Mapping[str, Any], parent: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Hashes of model, tokenizer, template and data, versions of the packages, and the machine, as JSON values.

    Args:
        facts: of this run (`stages.facts`).
        parent: name and sha256 of the adapter that a stage begins with; None begins with the base.
    """
    prepared = checked.prepared
    processor = cpu()
    return {
        "format": 1,
        "today": prepared.today.isoformat(),
        "model": {
            "name": prepared.recipe.base_model,
            "path": str(prepared.model_dir),
            "parameters": prepared.facts.parameters,
            "files": facts["base_model"],
        },
        **({"parent": dict(parent)} if parent else {}),
        "tokenizer": facts["tokenizer"],
        "template": facts["chat_template"],
        "data": prepared.data_hash,
        "versions": facts["versions"],
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": processor.name,
            "cores": processor.cores,
            "memory_bytes": memory().total,
            "gpu": torch.cuda.get_device_name() if prepared.place.device.type == "cuda" else "",
        },
        "place": prepared.place.why,
    }
