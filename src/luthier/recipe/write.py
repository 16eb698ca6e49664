"""Recipes as YAML: the resolved one that a run keeps, and the commented one that `luthier init` writes."""

import re
from typing import Any

from luthier.recipe.messages import allowed_text
from luthier.recipe.schema import Recipe

# Texts that need no quotes: they start with a letter or a path, and have no character that YAML reads.
_PLAIN = re.compile(r"(?:\.{0,2}/|~/|[A-Za-z])[A-Za-z0-9_./+-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

_SECTIONS = {
    "What is trained": ("base_model", "adapter", "lora_r", "lora_alpha"),
    "On what": (
        ("datasets", "val_datasets", "val_set_size", "sequence_len", "too_long", "on_bad_row", "chat_template")
    ),
    "How": (
        "batch_tokens micro_batch_tokens learning_rate lr_scheduler warmup_ratio weight_decay max_grad_norm "
        "num_epochs max_steps"
    ).split(),
    "Watching and keeping": (
        "eval_steps save_steps keep_checkpoints early_stopping_patience num_samples max_new_tokens"
    ).split(),
    "Where": ("seed", "dtype", "device", "output_dir"),
}
_ACTIVE = ("base_model", "adapter", "lora_r", "datasets", "val_set_size", "sequence_len", "learning_rate")
_ACTIVE += ("num_epochs", "output_dir")


def dump_recipe(recipe: Recipe) -> str:
    """`recipe` as YAML with every field written out; `load_recipe` reads it back to an equal Recipe."""
    return "".join(_entry(name, value) for name, value in recipe.model_dump().items())


def commented_recipe(base_model: str, data_path: str, output_dir: str) -> str:
    """A recipe to start from: the common fields set, all others commented out with their defaults and meaning."""
    recipe = Recipe(base_model=base_model, datasets=[data_path], output_dir=output_dir)
    values = recipe.model_dump()
    lines = ["# A Luthier recipe. A key without # is set; the others show their defaults.", ""]
    for title, names in _SECTIONS.items():
        lines.append(f"# {title}")
        for name in names:
            info = Recipe.model_fields[name]
            value = data_path if name == "datasets" else values[name]
            setting = f"{name}: {_scalar(value)}"
            lines.append(f"{setting if name in _ACTIVE else '# ' + setting:<36}  # {info.description}")
            del info
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"
