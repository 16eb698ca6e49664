"""Recipes as YAML: the resolved one that a run keeps, and the commented one that `luthier init` writes."""

import re
from typing import Any, Literal, get_args, get_origin

from luthier.recipe.messages import allowed_text
from luthier.recipe.schema import Recipe

# Texts that need no quotes: they start with a letter or a path, and have no character that YAML gives a meaning.
_PLAIN = re.compile(r"(?:\.{0,2}/|~/|[A-Za-z])[A-Za-z0-9_./+-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

# The first field under each heading of a commented recipe; the order is the schema's.
_HEADINGS = {
    "base_model": "What is trained",
    "datasets": "On what",
    "batch_tokens": "How",
    "eval_steps": "What is watched and kept",
    "seed": "Where",
}
_COMMON = {
    "base_model",
    "adapter",
    "lora_r",
    "datasets",
    "val_set_size",
    "sequence_len",
    "learning_rate",
    "num_epochs",
    "output_dir",
}


def dump_recipe(recipe: Recipe) -> str:
    """`recipe` as YAML with every field written out; `load_recipe` reads it back to an equal Recipe."""
    values = recipe.model_dump()
    if not recipe.datasets:
        del values["datasets"]  # each stage has its own
    return "".join(_setting(name, value) for name, value in values.items())


def commented_recipe(base_model: str, data_path: str, output_dir: str) -> str:
    """A recipe to start from: the common fields set, all others commented out with their defaults and meaning.

    Raises:
        RecipeError: an argument is empty.
    """
    values = Recipe(base_model=base_model, datasets=[data_path], output_dir=output_dir).model_dump()
    lines = ["# A Luthier recipe. Lines that start with # show defaults; remove the # to change one."]
    for name, info in Recipe.model_fields.items():
        if name in _HEADINGS:
            lines += ["", f"# {_HEADINGS[name]}"]
        choices = f" ({allowed_text(info)})" if len(_choices(info.annotation)) > 1 else ""
        comment = f"# {info.description}{choices}"
        if name == "datasets":
            lines += [_commented("datasets:", comment), f"  - path: {_scalar(data_path)}"]
        else:
            setting = _setting(name, values[name]).rstrip("\n")
            lines.append(_commented(setting if name in _COMMON else f"# {setting}", comment))
    return "\n".join(lines) + "\n"


def _choices(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _commented(setting: str, comment: str) -> str:
    return f"{setting:<30} {comment}"


def _setting(name: str, value: Any, indent: str = "") -> str:
    """One field, or one list with an entry a line, or a line for each key of each entry; lists may hold lists."""
    if not isinstance(value, list):
        return f"{indent}{name}: {_scalar(value)}\n"
    if not value:
        return f"{indent}{name}: []\n"
    inner = indent + "  "
    text = f"{indent}{name}:\n"
    for entry in value:
        if isinstance(entry, dict):
            lines = "".join(_setting(key, item, inner + "  ") for key, item in entry.items())
            text += f"{inner}- {lines.removeprefix(inner + '  ')}"
        else:
            text += f"{inner}- {_scalar(entry)}\n"
    return text


def _scalar(value: str | bool | int | float | None) -> str:
    """A YAML scalar that reads back as `value`, in YAML 1.1 as well as 1.2."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 takes 1e-05 for a text; 1.0e-05 is a number in both.
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, int):
        return str(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08X}"
