"""What a run is made of, as named facts; a run that goes on must be made of the same, or be told by name what changed.

Facts are kept in every checkpoint. A recipe field is one unless it changes nothing of the result, or acts only through
something that is one itself: which files are read is judged by the rows that came out of them.
"""

import platform
import re
from collections.abc import Collection, Mapping
from importlib import metadata
from typing import Any

import torch

from luthier.core.errors import RunError
from luthier.core.files import hash_file, hash_json
from luthier.core.hardware import cpu
from luthier.models.device import row_ops_on_cpu
from luthier.models.folder import shard_files
from luthier.stages.check import Check
from luthier.stages.prepare import Prepared

PACKAGES = ("luthier", "torch", "transformers", "tokenizers", "safetensors", "numpy")
NOT_FACTS = frozenset(
    (
        # where things are and what is kept of them
        *("output_dir", "save_steps", "keep_checkpoints", "num_samples", "max_new_tokens"),
        # act through the rows; general ones are kept in the run's folder and compared there
        *("datasets", "general_datasets", "val_datasets", "val_set_size", "eval_sets", "allow_leaks"),
        *("sequence_len", "too_long", "on_bad_row"),
    )
)
# The saved state is a state of these: with others it does not fit, or means something else.
FIXED = frozenset(("lora_r", "lora_alpha", "lora_targets", "rslora", "dora", "adapter_dtype", "optim"))
# Can change the last bits of a result and nothing that a person means; told, not refused.
TOLD = ("versions", "processor", "threads", "row_ops")
# The order of rows follows from these.
_ORDER = frozenset(("data", "seed", "batch_tokens", "num_epochs", "max_steps"))


def run_facts(checked: Check, *, base: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The facts of a run, as JSON values.

    Args:
        base: "base_model" of the facts of an earlier stage, which has the same base; without it the base's files are
            read, which takes a second for 1 GB or so.
    """
    prepared = checked.prepared
    recipe, settings, place = prepared.recipe, prepared.settings, prepared.place
    if base is None:
        files = [*shard_files(prepared.model_dir), prepared.model_dir / "config.json"]
        base = {file.name: hash_file(file) for file in files}
    on_gpu = place.device.type == "cuda"
    fields = {name: value for name, value in recipe.model_dump().items() if name not in NOT_FACTS}
    return {
        **fields,
        "base_model": dict(base),
        "tokenizer": prepared.renderer.tokenizer.fingerprint,
        "chat_template": prepared.renderer.template.fingerprint if prepared.renderer.template else "",
        "data": {"hash": prepared.data_hash, "training rows": len(prepared.train), "held-out rows": len(prepared.val)},
        "order": order_of(prepared),
        "batch_tokens": settings.batch_tokens,
        "micro_batch_tokens": settings.micro_batch_tokens,
        "eval_steps": settings.eval_steps,
        "device": place.device.type,
        "dtype": place.dtype_name,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "processor": torch.cuda.get_device_name() if on_gpu else cpu().name,
        "threads": torch.get_num_threads(),
        "row_ops": "" if on_gpu else row_ops_on_cpu().partition(",")[0],
    }


def order_of(prepared: Prepared) -> str:
    """Hash of the records that each step of the plan trains on, whatever its microsteps are."""
    ids = [row.record_id for row in prepared.train]
    return hash_json(
        [
            [epoch, sorted(ids[index] for microstep in step for index in microstep)]
            for epoch, step in prepared.settings.steps
        ]
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What is not the same, as (name, what it was, what it is now) for a person.

    The order of rows is left out where something that it follows from is in the list.
    """
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    if changed & _ORDER:
        changed.discard("order")
    return [(name, *_in_words(old.get(name), new.get(name))) for name in sorted(changed)]


def _in_words(was: Any, now: Any) -> tuple[str, str]:
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return _short(was), _short(now)
    keys = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    before, after = (", ".join(f"{key} {_short(side.get(key))}" for key in keys) for side in (was, now))
    return before, after


def _short(value: Any) -> str:
    """As a recipe would have it; of a hash, its beginning."""
    if value is None or value == "":
        return "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{text[:8]}…" if re.fullmatch(r"[0-9a-f]{32,}", text) else text


def require_same(
    old: Mapping[str, Any], new: Mapping[str, Any], *, accept: Collection[str] = (), where: str = ""
) -> list[str]:
    """Refuse to go on with a run that is made of something else.

    Args:
        accept: names of facts that may differ.
        where: the run's folder.

    Returns:
        A sentence for each difference that was accepted or is only told.

    Raises:
        RunError: there are other differences, all of which are listed; or a name in `accept` is none of a fact that can
            be accepted.
    """
    known = sorted((old.keys() | new.keys()) - FIXED)
    if unknown := sorted(set(accept) - set(known)):
        fixed = [name for name in unknown if name in FIXED]
        raise RunError(
            f"{', '.join(unknown)} cannot be accepted"
            + (f": the saved state does not fit another {fixed[0]}" if fixed else ": there is no such fact"),
            where=where,
            fix=f"what can be: {', '.join(known)}",
        )
    told, refused = [], []
    for name, was, now in differences(old, new):
        line = f"{name} was {was} and is {now}"
        if name in TOLD or name in accept:
            told.append(f"since the checkpoint was written, {line}")
        elif name in FIXED:
            refused.append(f"{line}: put it back, the saved state does not fit anything else")
        else:
            refused.append(f"{line}: put it back, or go on with --accept {name}")
    if refused:
        number = "one thing has" if len(refused) == 1 else f"{len(refused)} things have"
        raise RunError(
            f"the run cannot go on as it was: {number} changed",
            where=where,
            fix="\n    ".join([*refused, "or start a new run with another output_dir"]),
        )
    return told
