"""A recipe file and command-line settings, read into a Recipe."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import RecipeError
from luthier.recipe.aliases import ALIASES, DATASET_ALIASES, VALUE_ALIASES
from luthier.recipe.document import Document, read_document
from luthier.recipe.messages import DATASET_LISTS, Loc, Problem, Source, recipe_error
from luthier.recipe.overrides import parse_overrides
from luthier.recipe.schema import Recipe

# A recipe is a page. What is larger is some other file, given by mistake.
MAX_BYTES = 100_000

_TEXT_FIELDS = {name for name, info in Recipe.model_fields.items() if info.annotation is str}
_TEXT_KEYS = _TEXT_FIELDS | {alias for alias, name in ALIASES.items() if name in _TEXT_FIELDS}


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe, where it came from, and what a person should be told about how it was read."""

    recipe: Recipe
    notes: list[str]  # "cutoff_len: read as sequence_len"
    path: Path


@dataclass(slots=True)
class _Fields:
    """The settings read so far under our names, with their places and the notes for the user."""

    values: dict[str, Any]
    places: dict[Loc, str]
    spellings: dict[Loc, str]
    notes: list[str]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read `path` and apply `overrides` on top of it.

    Relative paths in the recipe, data files and output_dir alike, are kept as written: they are relative to the
    current working folder, not to the recipe's folder.

    Args:
        path: a YAML file; UTF-8, with or without a byte order mark, any line ends.
        overrides: command-line words: `key=value`, `--key=value`, or `--key` and `value`. They replace what the file
            says. `datasets` takes one path or a YAML list (`datasets=[a.jsonl, b.jsonl]`).

    Raises:
        RecipeError: the file is missing or not YAML, a key is unknown, a value is wrong, or settings contradict each
            other. All mistakes of one kind are listed together, each with its file and line.
    """
    path = Path(path)
    document = read_document(_read_text(path), lambda line: f"{path}:{line}")
    if not isinstance(document.value, dict):
        what = "the file is empty" if document.value is None else "not a list of settings"
        raise RecipeError(what, where=str(path), fix="`luthier init` writes a recipe to start from")
    fields = _Fields({}, {(): str(path)}, {}, [])
    given = [(key, value, f"{path}:{document.lines[(key,)]}") for key, value in document.value.items()]
    _add(fields, given, _inner_places(document, path))
    _add(fields, [(item.key, item.value, item.where) for item in parse_overrides(overrides, _TEXT_KEYS)], {})
    source = Source(fields.places, fields.spellings)
    recipe = Recipe.model_validate(fields.values, context=source)
    return LoadedRecipe(recipe, fields.notes, path)


def _read_text(path: Path) -> str:
    where = str(path)
    if path.is_dir():
        raise RecipeError("a folder, not a recipe file", where=where, fix=f"name the file, as in {path}/recipe.yaml")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError("no such file", where=where, fix="`luthier init` writes a recipe to start from") from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=where) from None
    if len(data) > MAX_BYTES:
        raise RecipeError("larger than 100 kB, so hardly a recipe", where=where, fix="name a YAML file of settings")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError("not UTF-8 text", where=f"{path}:{line}", fix="save the file as UTF-8") from None


def _inner_places(document: Document, path: Path) -> dict[Loc, str]:
    """The places of what lies inside lists and sections."""
    return {loc: f"{path}:{line}" for loc, line in document.lines.items() if len(loc) > 1}


def _add(fields: _Fields, given: Iterable[tuple[str, Any, str]], inner: Mapping[Loc, str]) -> None:
    """Put settings into `fields` under our names, in place of what it has under the same name.

    Raises:
        RecipeError: one setting in two spellings, or twice.
    """
    first: dict[str, tuple[str, str]] = {}  # our name → spelling and place
    problems: list[Problem] = []
    for key, value, where in given:
        name = ALIASES.get(key, key)
        if name in first:
            problems.append(_given_twice(key, where, *first[name], name))
            continue
        first[name] = (key, where)
        if name in fields.values:
            _forget(fields, name)
        fields.places[(name,)] = where
        fields.places.update({(name, *loc[1:]): place for loc, place in inner.items() if loc[0] == key})
        if name != key:
            fields.spellings[(name,)] = key
            fields.notes.append(f"{key}: read as {name}")
        if name in DATASET_LISTS:
            value = _rename_keys(value, (name,), DATASET_ALIASES, fields, problems)
        if name == "stages":
            value = _stages(value, fields, problems)
        value = _our_value(name, value, name, fields)
        fields.values[name] = value
    if problems:
        raise recipe_error(problems, Source(fields.places))


def _given_twice(key: str, where: str, other_key: str, other_where: str, name: str) -> Problem:
    if key == other_key:
        return Problem(f"{key} is given twice", where, "keep one of the two")
    what = f"{key} and {other_key} ({other_where}) are the same setting"
    return Problem(what, where, f"keep one of the two, as {name}")


def _forget(fields: _Fields, name: str) -> None:
    """Drop the places and spellings of a setting that is about to be replaced."""
    for table in (fields.places, fields.spellings):
        for loc in [loc for loc in table if loc[:1] == (name,)]:
            del table[loc]


def _our_value(name: str, value: Any, told: str, fields: _Fields) -> Any:
    """The value, or ours for another tool's spelling of it."""
    if not isinstance(value, str) or (ours := VALUE_ALIASES.get((name, value.lower()))) is None:
        return value
    fields.notes.append(f"{told}: {value} read as {ours}")
    return ours


def _stages(value: Any, fields: _Fields, problems: list[Problem]) -> Any:
    """Other tools' spellings within each stage, read as ours."""
    renamed = _rename_keys(value, ("stages",), ALIASES, fields, problems)
    if not isinstance(renamed, list):
        return renamed
    for index, stage in enumerate(renamed):
        for name in stage if isinstance(stage, dict) else ():
            if name in DATASET_LISTS:
                stage[name] = _rename_keys(stage[name], ("stages", index, name), DATASET_ALIASES, fields, problems)
            stage[name] = _our_value(name, stage[name], f"stages[{index}].{name}", fields)
    return renamed


def _rename_keys(value: Any, at: Loc, aliases: Mapping[str, str], fields: _Fields, problems: list[Problem]) -> Any:
    """Other tools' spellings of the keys of each section of the list at `at`, read as ours."""
    if not isinstance(value, list):
        return value
    written = Source(dict(fields.places))  # as it was before the places move to our names
    renamed: list[Any] = []
    for index, entry in enumerate(value):
        if not isinstance(entry, dict):
            renamed.append(entry)
            continue
        ours: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for key, item in entry.items():
            target = aliases.get(key, key)
            loc, old = (*at, index, target), (*at, index, key)
            where = written.where(old)
            if target in ours:
                other = spelled[target]
                problems.append(_given_twice(key, where, other, written.where((*at, index, other)), target))
                continue
            ours[target], spelled[target] = item, key
            if target != key:
                inner = {place: text for place, text in written.places.items() if place[: len(old)] == old}
                fields.places.update({(*loc, *place[len(old) :]): text for place, text in inner.items()})
                fields.places[loc], fields.spellings[loc] = where, key
                fields.notes.append(f"{written.name((*at, index))}.{key}: read as {target}")
        renamed.append(ours)
    return renamed
