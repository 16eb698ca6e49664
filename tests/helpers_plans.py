"""Trainings in stages for tests: data of its own for each stage, and a short recipe over them."""

from pathlib import Path
from typing import Any

from helpers_runs import make_recipe, rows_of, write_rows
from luthier.recipe import Recipe

OTHER_WORDS = ("trumpet", "horn", "tuba", "flute", "oboe", "bassoon", "piccolo", "cornet", "bugle", "recorder")
SHORT = {"max_steps": 3, "eval_steps": 3, "save_steps": 1, "micro_batch_tokens": 256, "keep_checkpoints": 9}


def write_special(path: Path) -> Path:
    """40 conversations about other words than those of `write_conversations`."""
    return write_rows(path, rows_of(OTHER_WORDS))


def make_plan(
    model: Path, broad: Path, special: Path, output_dir: Path, *stages: dict[str, Any], **fields: Any
) -> Recipe:
    """Two stages, broad and special, or those that are given; a stage without data trains on `special`."""
    parts = stages or ({"name": "broad", "datasets": [str(broad)]}, {"name": "special"})
    parts = tuple({"datasets": [str(special)], **part} for part in parts)
    return make_recipe(model, broad, output_dir, **{**SHORT, **fields, "stages": list(parts)})
