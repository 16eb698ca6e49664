"""What a recipe trains, in a line for a person."""

from collections.abc import Mapping
from typing import Any


def adapter_words(recipe: Mapping[str, Any]) -> str:
    """ "LoRA, rank 16", "QLoRA (base in 4 bits), rank 8 on q_proj; DoRA, dropout 0.1": all that is not as usual.

    Args:
        recipe: its fields; what is missing, as in the events of an older version, is as usual.
    """
    kind = "QLoRA (base in 4 bits)" if recipe.get("adapter") == "qlora" else "LoRA"
    targets, dropout = recipe.get("lora_targets", "all"), recipe.get("lora_dropout", 0)
    where = "" if targets == "all" else f" on {', '.join(targets)}"
    options = {
        "DoRA": recipe.get("dora"),
        "scaled by √r": recipe.get("rslora"),
        f"dropout {dropout:g}": dropout,
        "weights in bf16": recipe.get("adapter_dtype") == "bf16",
        "AdamW in 8 bits": recipe.get("optim") == "adamw_8bit",
        "head in 4 bits": recipe.get("nf4_head"),
        "layers run twice": recipe.get("gradient_checkpointing"),
    }
    chosen = [name for name, value in options.items() if value]
    return f"{kind}, rank {recipe['lora_r']}{where}" + (f"; {', '.join(chosen)}" if chosen else "")
