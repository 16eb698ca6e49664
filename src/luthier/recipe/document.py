"""YAML as plain data with line numbers: mappings, lists, texts, numbers, true/false and null, nothing else.

The text is only parsed into nodes; values are built here, so that no tag can build an object, no alias can grow a
small file into a large one, and every key keeps its line. YAML 1.2: `1e-4` is a number, `no` is a text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import RecipeError
from luthier.recipe.messages import Loc

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Document:
    """`value` is plain data; `lines` has the line (from 1) of every key and list entry."""

    value: Any
    lines: dict[Loc, int]


def read_document(text: str, place: Callable[[int], str]) -> Document:
    """Parse one YAML document.

    Args:
        text: the document, without a byte order mark.
        place: turns a line number into the place an error names.

    Raises:
        RecipeError: not YAML, a key given twice, a key that is no text, a tag, an anchor.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"not YAML: {error.problem or error.context}", where=place(line), fix=_fix(error)) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"a character that a text file cannot hold (code {error.character})"
        raise RecipeError(what, where=place(line), fix="delete the character") from None
    except RecursionError:
        raise RecipeError("nested too deeply for a recipe", where=place(1), fix="a recipe is flat") from None
    lines: dict[Loc, int] = {}
    return Document(None if node is None else _value(node, (), lines, yaml, place), lines)


def read_scalar(text: str) -> Any:
    """A text given on the command line as the YAML value it would be unquoted in a file: number, true, null or text.

    Unlike in a file, everything in it counts: no comment starts at a `#`, a colon needs no quotes.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import ScalarNode

    yaml = YAML(typ="safe", pure=True)
    text = text.strip()
    node = ScalarNode(yaml.resolver.resolve(ScalarNode, text, (True, False)), text)
    return text if _too_long(node) else _scalar(node, yaml)


def _value(node: Any, loc: Loc, lines: dict[Loc, int], yaml: Any, place: Callable[[int], str]) -> Any:
    """The plain value of `node`, noting the lines of what is inside."""
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    where = place(node.start_mark.line + 1)
    if node.anchor:
        raise RecipeError(f"anchor &{node.anchor}: recipes have none", where=where, fix="write the value out")
    tag = str(node.tag)
    if isinstance(node, MappingNode) and tag == _TAG + "map":
        return _mapping(node, loc, lines, yaml, place)
    if isinstance(node, SequenceNode) and tag == _TAG + "seq":
        values = []
        for index, child in enumerate(node.value):
            lines[(*loc, index)] = child.start_mark.line + 1
            values.append(_value(child, (*loc, index), lines, yaml, place))
        return values
    if isinstance(node, ScalarNode) and tag == _implied_tag(node, yaml):
        if _too_long(node):
            raise RecipeError(f"a number of {len(node.value)} characters", where=where, fix="write a shorter number")
        if "\0" in node.value:
            raise RecipeError("a text with a NUL character", where=where, fix="delete the character")
        return _scalar(node, yaml)
    raise RecipeError(f"tag {tag.replace(_TAG, '!!')}: recipes hold plain values only", where=where, fix="remove it")


def _mapping(node: Any, loc: Loc, lines: dict[Loc, int], yaml: Any, place: Callable[[int], str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, child in node.value:
        line = key_node.start_mark.line + 1
        key = _value(key_node, loc, {}, yaml, place) if key_node.tag == _TAG + "str" else None
        if key is None:
            raise RecipeError("a key must be a plain word", where=place(line))
        if key in values:
            what = f'"{key}" is given twice, the first time on line {lines[(*loc, key)]}'
            raise RecipeError(what, where=place(line), fix="keep one of the two")
        lines[(*loc, key)] = line
        values[key] = _value(child, (*loc, key), lines, yaml, place)
    return values


def _implied_tag(node: Any, yaml: Any) -> str:
    """The tag a scalar has when none was written: quoted and block scalars are text, plain ones what they look like."""
    return str(yaml.resolver.resolve(type(node), node.value, (True, False))) if node.style is None else _TAG + "str"


def _scalar(node: Any, yaml: Any) -> Any:
    # A date is text in a recipe: `output_dir: 2026-01-31` names a folder.
    if node.tag == _TAG + "timestamp":
        return node.value
    return yaml.constructor.construct_object(node)


def _too_long(node: Any) -> bool:
    """Python refuses to print integers of thousands of digits; no setting has more than a few."""
    return node.tag in (_TAG + "int", _TAG + "float") and len(node.value) > 100


def _fix(error: Any) -> str:
    problem = error.problem or ""
    if "'\\t'" in problem:
        return "indent and separate with spaces, not tabs"
    if "another document" in problem:
        return "keep one recipe a file: remove the line ---"
    return 'write each setting as "key: value" on its own line; put texts with special characters in quotes'
