"""Settings given on the command line: `learning_rate=1e-4`, `--learning-rate=1e-4`, `--learning-rate 1e-4`."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import RecipeError
from luthier.recipe.document import read_document, read_scalar


@dataclass(frozen=True, slots=True)
class Override:
    """One setting: its key with underscores, its value, and the place that an error names."""

    key: str
    value: Any
    where: str


def parse_overrides(items: Sequence[str], text_keys: Collection[str] = ()) -> list[Override]:
    """Read command-line words as settings. Values are YAML: numbers, true, null, text, or a `[flow, list]`.

    The values of `text_keys` are text whatever they look like: `output_dir=2026` names a folder.

    Raises:
        RecipeError: a word that is no setting, a setting without a value, a value that is not YAML.
    """
    return list(_parse(items, text_keys))


def _parse(items: Sequence[str], text_keys: Collection[str]) -> Iterator[Override]:
    words = iter(items)
    for word in words:
        spelling, equals, text = word.partition("=")
        where = f"command line: {spelling}"
        if not spelling.startswith("--") and (not equals or spelling.startswith("-")):
            fix = f"write {spelling}=VALUE" if _is_key(spelling) else "settings are key=value or --key value"
            raise RecipeError("not a setting", where=f"command line: {word}", fix=fix)
        if not equals:
            text = next(words, "--")
            if text.startswith("--"):
                raise RecipeError("no value given", where=where, fix=f"write {spelling} VALUE")
        key = spelling.removeprefix("--").replace("-", "_")
        if not _is_key(key):
            raise RecipeError(
                "not a setting", where=f"command line: {word}", fix="settings are key=value or --key value"
            )
        yield Override(key, text if key in text_keys else _value(text, where), where)


def _value(text: str, where: str) -> Any:
    """Brackets and quotes make it YAML; anything else is one plain value, whatever characters it has."""
    if text.lstrip()[:1] in ("[", "{", '"', "'"):
        return read_document(text, lambda line: where).value
    return read_scalar(text)


def _is_key(text: str) -> bool:
    return bool(text) and text[0].isalpha() and all(letter.isalnum() or letter in "_-." for letter in text)
