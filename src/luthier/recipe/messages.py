"""From a refused recipe to sentences for a person: what is wrong, where it is written, what to write instead."""

import difflib
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from luthier.core.errors import RecipeError
from luthier.recipe.aliases import ALIASES, DATASET_ALIASES, DATASET_FOREIGN, FOREIGN, VALUE_ADVICE

Loc = tuple[str | int, ...]  # ("lora_r",) or ("datasets", 0, "type")

DATASET_LISTS = ("datasets", "val_datasets", "general_datasets")
_SHOWN = 20  # problems listed in one error


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: a sentence, its place ("" for a recipe made in Python) and the way out."""

    what: str
    where: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the values of a recipe were written. Empty for a recipe made in Python.

    `places` maps a field to "recipe.yaml:7" or "command line: --lora-r"; () is the file as a whole.
    `spellings` maps a field to the other tool's spelling that it was given in.
    """

    places: Mapping[Loc, str] = field(default_factory=dict)
    spellings: Mapping[Loc, str] = field(default_factory=dict)

    def where(self, loc: Loc) -> str:
        """The place of `loc`, or of the nearest thing around it."""
        for end in range(len(loc), -1, -1):
            if loc[:end] in self.places:
                return self.places[loc[:end]]
        return ""

    def name(self, loc: Loc) -> str:
        """`loc` as a person reads it: `lora_r`, `datasets[0].type`, `lora_r (written as lora_rank)`."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
        return f"{text} (written as {self.spellings[loc]})" if loc in self.spellings else text


def recipe_error(problems: Sequence[Problem], source: Source) -> RecipeError:
    """One error for one or many problems, in the order of the list; a long list is shown in part."""
    if len(problems) == 1:
        return RecipeError(problems[0].what, where=problems[0].where, fix=problems[0].fix)
    texts = [str(RecipeError(item.what, where=item.where, fix=item.fix)) for item in problems[:_SHOWN]]
    rest = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return RecipeError("\n".join([f"{len(problems)} mistakes", *texts, *rest]), where=source.where(()) or "recipe")


def problems_of(
    errors: Sequence[ErrorDetails], absent: Sequence[Loc], model: type[BaseModel], source: Source
) -> list[Problem]:
    """Every mistake that pydantic found, one a field, in the order they were written in; what is missing comes last.

    Args:
        absent: what is missing beside what pydantic found missing.
    """
    problems: dict[Loc, Problem] = {}
    missing: list[Loc] = list(absent)
    named_first: set[Loc] = set()  # lists whose first wrong entry is named
    meant: set[Loc] = set()  # fields that an unknown key was probably meant to be
    for entry in errors:
        loc = _field_loc(entry["loc"])
        if entry["type"] == "missing":
            missing.append(loc)
        elif entry["type"] == "extra_forbidden":
            problems[loc], nearest = _unknown_key(loc, entry["input"], model, source)
            meant.add((*loc[:-1], nearest))
        else:
            named = _wrong_name(loc, entry["loc"], entry["input"], model, source)
            if named is not None and loc not in named_first:
                problems[loc] = named  # says more than what another branch of the union said of the whole list
                named_first.add(loc)
            problems.setdefault(loc, _wrong_value(loc, entry["input"], model, source))
    order = {loc: index for index, loc in enumerate(source.places)}
    found = sorted(problems, key=lambda loc: order.get(loc, len(order)))
    absent = [_missing(loc, model, source) for loc in missing if loc not in meant]
    return [problems[loc] for loc in found] + absent


def nearest_key(key: str, fields: Sequence[str], aliases: Mapping[str, str], foreign: Mapping[str, str]) -> str:
    """The field, or else the other tool's key, that `key` was probably meant to be; "" when nothing is near."""
    key = key.lower().replace("-", "_")
    found = difflib.get_close_matches(key, [*fields, *aliases, *foreign], n=1, cutoff=0.7)
    return aliases.get(found[0], found[0]) if found else ""


def allowed_text(info: FieldInfo) -> str:
    """What a field accepts: `a whole number from 1 to 512`, `cut or drop`, `auto or a number above 0`."""
    return _allowed(info.annotation, info.metadata)


def shown(value: Any) -> str:
    """A value for an error message, short."""
    if value is None:
        return "empty"
    if value == "":
        return "an empty text"
    if isinstance(value, dict):
        return "a section" + (f" with {', '.join(map(str, list(value)[:4]))}" if value else "")
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")  # a half of a surrogate pair cannot be printed
    return text if len(text) <= 60 else text[:57] + "..."


def _field_loc(loc: Loc) -> Loc:
    """Without the parts that pydantic adds for the branches of a union."""
    if loc[0] == "stages" and len(loc) > 2:
        return loc[:2] + _field_loc(loc[2:])
    return loc[:3] if loc[0] in (*DATASET_LISTS, "stages") else loc[:1]


def _model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel]:
    """The model whose fields stand at `loc`: the recipe at (), a dataset at ("datasets", 0)."""
    if not loc:
        return model
    return _model_at(get_args(model.model_fields[str(loc[0])].annotation)[0], loc[2:])


def _field_of(model: type[BaseModel], loc: Loc) -> FieldInfo:
    """The field at `loc`; for an entry of a list of datasets or stages, the list."""
    loc = loc[:-1] if isinstance(loc[-1], int) else loc
    return _model_at(model, loc[:-1]).model_fields[str(loc[-1])]


def _missing(loc: Loc, model: type[BaseModel], source: Source) -> Problem:
    fix = f"add {loc[-1]}: {_field_of(model, loc).description}"
    return Problem(f"{source.name(loc)} is missing", source.where(loc[:-1]), fix)


def _unknown_key(loc: Loc, value: Any, model: type[BaseModel], source: Source) -> tuple[Problem, str]:
    """The problem, and the field that the key was probably meant to be, or ""."""
    key, where = str(loc[-1]), source.where(loc)
    fields = list(_model_at(model, loc[:-1]).model_fields)
    in_stage = len(loc) == 3 and loc[0] == "stages"
    if len(loc) == 1:
        aliases, foreign = ALIASES, FOREIGN
        elsewhere = "`luthier init` writes a recipe with every key in it"
    elif in_stage:
        aliases, foreign = ALIASES, FOREIGN
        elsewhere = f"a stage has {', '.join(fields)}"
    else:
        aliases, foreign = DATASET_ALIASES, DATASET_FOREIGN
        elsewhere = f"a dataset has {' and '.join(fields)}"
    if in_stage and (ours := aliases.get(key, key)) in model.model_fields:
        what = f"{source.name(loc)} holds for the whole training, not for one stage"
        return Problem(what, where, f"move {ours} to the top level of the recipe"), ""
    if key in foreign:
        return Problem(f"{key} is a setting of other tools that Luthier does not have", where, foreign[key]), ""
    what = f'unknown key "{key}"' + (f" in {source.name(loc[:-1])}" if len(loc) > 1 else "")
    nearest = aliases.get(key) or nearest_key(key, fields, aliases, foreign)
    if nearest and nearest not in fields and nearest not in foreign:  # of the recipe, and meant for a stage
        return Problem(what, where, f"if {nearest} was meant: it belongs to the top level of the recipe"), ""
    if len(loc) == 1 and isinstance(value, dict) and nearest not in DATASET_LISTS:
        return Problem(what, where, f"a recipe is flat: move the keys of {key} to the top level"), ""
    if nearest in foreign:
        return Problem(what, where, f"if {nearest} was meant: {foreign[nearest]}"), ""
    if nearest:
        return Problem(what, where, f"did you mean {nearest}?"), nearest
    return Problem(what, where, elsewhere), ""


def _wrong_value(loc: Loc, value: Any, model: type[BaseModel], source: Source) -> Problem:
    where = source.where(loc)
    if isinstance(loc[-1], int):
        form = "a section with a name" if loc[0] == "stages" and len(loc) == 2 else "a path, or a path and a type"
        return Problem(f"{source.name(loc)} must be {form}, not {shown(value)}", where)
    info = _field_of(model, loc)
    what = f"{source.name(loc)} must be {allowed_text(info)}, not {shown(value)}"
    return Problem(what, where, _value_fix(str(loc[-1]), value, info))


def _wrong_name(loc: Loc, full: Loc, value: Any, model: type[BaseModel], source: Source) -> Problem | None:
    """The problem of one entry of a list of names; None if `full` is no such entry."""
    places = [part for part in full[1:] if isinstance(part, int)]
    names = _names_in_list(_field_of(model, loc))
    if not places or not names:
        return None
    near = difflib.get_close_matches(value.lower(), get_args(names[0]), n=1) if isinstance(value, str) else []
    what = f"{source.name((*loc, places[0]))} must be {_allowed(names[0])}, not {shown(value)}"
    return Problem(what, source.where((*loc, places[0])), f"did you mean {near[0]}?" if near else "")


def _names_in_list(info: FieldInfo) -> list[Any]:
    """The Literal of a field that is, or may be, a list of names."""
    lists = [part for part in (info.annotation, *get_args(info.annotation)) for part in (part, *get_args(part))]
    entries = [get_args(part)[0] for part in lists if get_origin(part) is list]
    return [entry for entry in entries if get_origin(entry) is Literal]


def _value_fix(name: str, value: Any, info: FieldInfo) -> str:
    annotations = [info.annotation, *get_args(info.annotation), *_names_in_list(info)]
    choices = [choice for part in annotations if get_origin(part) is Literal for choice in get_args(part)]
    if isinstance(value, str):
        if advice := VALUE_ADVICE.get((name, value.lower())):
            return advice
        if near := difflib.get_close_matches(value.lower(), choices, n=1):
            return f"did you mean {near[0]}?"
        if _is_number(value) and str not in annotations and not (choices and len(annotations) == 1):
            return "write the number without quotes"
    if isinstance(value, dict) and get_origin(info.annotation) is list:
        return f"start the entry with a dash: - {'name: NAME' if name == 'stages' else 'path: FILE'}"
    if isinstance(value, int | float) and str in annotations:
        return "put it in quotes"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _allowed(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        # pydantic's Field(ge=1) inside Annotated carries its bounds in its own metadata
        bounds = [bound for item in extra for bound in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _allowed(inner, bounds)
    if origin in (Union, types.UnionType):
        # words before numbers, so that "auto or a number above 0" cannot be misread
        return " or ".join(sorted(map(_allowed, get_args(annotation)), key=lambda text: "number" in text))
    if origin is Literal:
        *first, last = get_args(annotation)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is list and get_origin(get_args(annotation)[0]) is Literal:
        return f"a list of {_allowed(get_args(annotation)[0])}"
    if origin is list and getattr(get_args(annotation)[0], "__name__", "") == "Stage":
        return "a list of stages"
    if origin is list:
        return "a list of at least one file" if any(isinstance(m, MinLen) for m in metadata) else "a list of files"
    if annotation is type(None):
        return "null"
    if annotation is bool:
        return "true or false"
    if annotation is str:
        patterns = [pattern for item in metadata if (pattern := getattr(item, "pattern", None))]
        if not patterns:
            return "a text"
        return "the path of a .jinja file" if "jinja" in patterns[0] else "a word of letters, digits, - and _"
    noun = "a whole number" if annotation is int else "a number"
    return " ".join([noun, *_bounds(metadata)])


def _bounds(metadata: Sequence[Any]) -> list[str]:
    """The bounds in words; no field has more than one lower and one upper."""
    low = [f"above {m.gt:g}" if isinstance(m, Gt) else f"from {m.ge:g}" for m in metadata if isinstance(m, Gt | Ge)]
    high = [f"below {m.lt:g}" if isinstance(m, Lt) else f"to {m.le:g}" for m in metadata if isinstance(m, Lt | Le)]
    if low and not high and low[0].startswith("from"):
        return [low[0], "up"]
    if low and high and high[0].startswith("below"):
        return [low[0], "to", high[0]]
    if low and high and low[0].startswith("above"):
        return [low[0], "and at most", high[0].removeprefix("to ")]
    return low + high
