"""Records from Python packages: what is asked and answered, what is left out and why, and that nothing is executed."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.data.from_python import FromPythonResult, records_from_python, write_jsonl
from luthier.data.from_python_source import stdlib_modules
from luthier.data.read import read_records

INIT = '''
"""A package for tests. Importing it is an error: it must only be read."""
raise SystemExit("this package was executed")
'''

TOOLS = '''
import asyncio

__all__ = ["slice_it", "Saw", "fetch", "old_name", "pointer", "only_doctest", "short", "first_copy", "second_copy"]

def slice_it(board, width=5, *, kerf: float = 0.1, wood=_Unset):
    """Slice a board into strips of equal width.

    The last strip may be :class:`~luthier_toy.tools.Narrower` than ``width``::

        slice_it(board)

    Args:
        board: the board to be sliced, a flat
            piece of wood.
        kerf (float): How much the saw takes away
        wood: which wood the board is of

    Returns:
        A list of strips.
    """

def hidden_from_all():
    """Not exported, so nobody is told about this function."""

def _private():
    """A private function that has a long docstring."""

async def fetch(url):
    """Fetch a tuning table from a workshop server over the network."""

def old_name():
    """Deprecated alias of slice_it that will go away."""

def pointer():
    """See the documentation of slice_it for everything."""

def only_doctest():
    """>>> only_doctest()
    'a doctest and nothing else'
    """

def short():
    """Short."""

def first_copy():
    """The same docstring stands below two functions."""

def second_copy():
    """The same docstring stands below two functions."""

class Saw:
    """A tool with teeth that cuts wood along a straight line.

    .. deprecated:: 1.2
       Take a larger tool.

    Use it like this:

    >>> Saw(3).cut("oak")
    'two pieces'
    """

    def __init__(self, teeth, brand="none"):
        pass

    def cut(self, wood, depth=None):
        """Cut the wood that is given into two pieces.

        :param wood: The wood to cut,
            of any kind.
        :param int depth: how deep the cut goes
        """

    @property
    def sharp(self) -> bool:
        """bool: Whether the teeth still cut without effort."""

    @sharp.setter
    def sharp(self, value):
        """Nobody may ask about a setter, only about the property."""

    @staticmethod
    def sharpen(times):
        """Sharpen every saw in the workshop several times."""

    def _inside(self):
        """A private method that has a long docstring."""
'''

STYLES = '''
def numpy_style(x, y=1):
    """Add up what is in two arrays of numbers.

    These are the operands:

    Parameters
    ----------
    x : array_like
        The first of the arrays.
    y : int, optional
        What is added to it.

    Returns
    -------
    int
    """

def dashes(name, size=3, wood=None):
    """Make a thing of a certain size.

    name -- what the thing is called
    size -- how large the thing becomes,
            in millimetres
    wood -- one of these:
    """

def glue(boards):
    """Glue the boards that are given to one another."""

def prose(obj, skipkeys=False):
    """Serialize the object into a string of text.

    If ``skipkeys`` is true then keys that are no strings are left out.
    """

def fenced():
    """Show how Markdown fences are kept whole in answers.

    ```python
    first = 1

    second = 2
    ```
    """

def long_description():
    """First paragraph of a description that is far too long to be kept.

    FILLER
    """
'''.replace("FILLER", "\n\n    ".join(["word " * 60] * 8))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on sys.path that must not be imported."""
    package = tmp_path / "luthier_toy"
    files = {
        "__init__.py": INIT,
        "tools.py": TOOLS,
        "styles.py": STYLES,
        "_private.py": TOOLS,
        "test_it.py": TOOLS,
        "not-a-module.py": TOOLS,
        "python2.py": "print 'hello'\n",
        "tests/__init__.py": TOOLS,
        "data/loose.py": TOOLS,
    }
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def answers(result: FromPythonResult, name: str) -> dict[str, list[str]]:
    """kind → answers about an object."""
    found: dict[str, list[str]] = {}
    for row in result.records:
        if row["meta"]["name"] == f"luthier_toy.{name}":
            found.setdefault(row["meta"]["kind"], []).append(row["messages"][1]["content"])
    return found


def test_a_function_gives_all_kinds(toy: Path) -> None:
    assert answers(records_from_python(["luthier_toy"]), "tools.slice_it") == {
        "explain": [
            "Slice a board into strips of equal width.\n\n"
            "The last strip may be `Narrower` than `width`:\n\n```python\nslice_it(board)\n```"
        ],
        "which": [
            "`luthier_toy.tools.slice_it`. It is called like this:\n\n"
            "```python\nluthier_toy.tools.slice_it(board, width=5, *, kerf=0.1, wood=_Unset)\n```"
        ],
        "signature": [
            "```python\ndef slice_it(board, width=5, *, kerf: float=0.1, wood=_Unset):\n"
            '    """Slice a board into strips of equal width."""\n```'
        ],
        "argument": [
            "The board to be sliced, a flat piece of wood.",
            "How much the saw takes away. The default is `0.1`.",
            "Which wood the board is of.",
        ],
    }


def test_methods_properties_and_classes(toy: Path) -> None:
    result = records_from_python(["luthier_toy.tools"])
    assert answers(result, "tools.Saw")["explain"] == [
        "A tool with teeth that cuts wood along a straight line.\n\nUse it like this:\n\n"
        "```python\n>>> Saw(3).cut(\"oak\")\n'two pieces'\n```"
    ]
    assert "luthier_toy.tools.Saw(teeth, brand='none')" in answers(result, "tools.Saw")["which"][0]
    cut = answers(result, "tools.Saw.cut")
    assert cut["argument"] == ["The wood to cut, of any kind.", "How deep the cut goes. The default is `None`."]
    assert cut["signature"][0].startswith("```python\nclass Saw:\n    def cut(self, wood, depth=None):\n        ")
    assert answers(result, "tools.Saw.sharp") == {
        "explain": ["Whether the teeth still cut without effort."],
        "which": ["The property is called `luthier_toy.tools.Saw.sharp`."],
    }
    assert "def sharpen(times)" in answers(result, "tools.Saw.sharpen")["signature"][0]
    assert "async def fetch(url)" in answers(result, "tools.fetch")["signature"][0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("numpy_style", ["The first of the arrays.", "What is added to it. The default is `1`."]),
        ("dashes", ["What the thing is called.", "How large the thing becomes, in millimetres. The default is `3`."]),
        ("prose", ["If `skipkeys` is true then keys that are no strings are left out. The default is `False`."]),
    ],
)
def test_argument_styles(toy: Path, name: str, expected: list[str]) -> None:
    found = answers(records_from_python(["luthier_toy.styles"]), f"styles.{name}")
    assert found["argument"] == expected


def test_descriptions_end_where_the_arguments_begin(toy: Path) -> None:
    found = answers(records_from_python(["luthier_toy.styles"]), "styles.numpy_style")
    assert found["explain"] == ["Add up what is in two arrays of numbers."]


def test_a_description_that_gives_the_name_away_is_not_asked_for(toy: Path) -> None:
    result = records_from_python(["luthier_toy.styles"])
    assert set(answers(result, "styles.glue")) == {"explain", "signature"}
    assert result.counts["description that fits several objects or gives the name away"] == 1


def test_markdown_fences_are_kept_and_long_texts_end_with_a_paragraph(toy: Path) -> None:
    result = records_from_python(["luthier_toy.styles"])
    assert answers(result, "styles.fenced")["explain"][0].endswith("```python\nfirst = 1\n\nsecond = 2\n```")
    cut = answers(result, "styles.long_description")["explain"][0]
    assert len(cut) <= 1500
    assert cut.removesuffix(".").endswith(" ".join(["word"] * 60))
    assert result.counts["long description cut at the end of a paragraph"] == 1


def test_what_is_left_out_is_counted(toy: Path) -> None:
    result = records_from_python(["luthier_toy"])
    names = {
        row["meta"]["name"].removeprefix("luthier_toy.tools.")
        for row in result.records
        if row["group"].endswith("tools")
    }
    assert names == {"slice_it", "fetch", "first_copy", "Saw", "Saw.cut", "Saw.sharp", "Saw.sharpen"}
    expected = {
        "private or special name": 4,
        "docstring that only points elsewhere": 2,
        "docstring that is only a doctest": 1,
        "docstring of a word or two": 1,
        "docstring seen before": 1,
        "private module or package": 1,
        "test module or package": 2,
        "file that cannot be imported": 1,
        "folder without __init__.py": 1,
        "module that is not valid Python": 1,
    }
    assert {reason: result.counts[reason] for reason in expected} == expected
    assert "object defined twice" not in result.counts  # a setter is no second object


def test_rows_are_grouped_by_module_and_say_where_they_come_from(toy: Path) -> None:
    row = records_from_python(["luthier_toy.tools"]).records[0]
    assert row["group"] == "luthier_toy.tools"
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    hashed = row["meta"].pop("source_hash")
    assert len(hashed) == 16
    assert row["meta"] == {
        "kind": "explain",
        "module": "luthier_toy.tools",
        "name": "luthier_toy.tools.slice_it",
        "file": "luthier_toy/tools.py",
        "line": 6,
        "package": "",
        "version": "",
    }


def test_nothing_is_executed_and_runs_repeat(toy: Path) -> None:
    first, second = records_from_python(["luthier_toy"]), records_from_python(["luthier_toy", "luthier_toy.tools"])
    assert first.records == second.records
    assert "luthier_toy" not in sys.modules


def test_what_is_written_is_read_back(toy: Path, tmp_path: Path) -> None:
    result = records_from_python(["luthier_toy"])
    path = tmp_path / "new" / "rows.jsonl"
    write_jsonl(result.records, path)
    read = read_records(path)
    assert read.format == "messages"
    assert read.counts == Counter()
    assert read.notes == []
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == result.records
    assert [record.group for record in read.records] == [row["group"] for row in result.records]


def test_compiled_modules_of_python_itself_are_asked() -> None:
    result = records_from_python(["math"])
    kinds: dict[str, Any] = {row["meta"]["kind"]: row for row in result.records if row["meta"]["name"] == "math.comb"}
    assert "Number of ways to choose k items from n items" in kinds["explain"]["messages"][1]["content"]
    assert "math.comb(n, k, /)" in kinds["which"]["messages"][1]["content"]
    assert kinds["explain"]["meta"]["package"] == "python"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("luthier_toi", "did you mean luthier_toy"),
        ("luthier_toy.tolls", "did you mean luthier_toy.tools"),
        ("luthier_toy.wholly.other", "luthier_toy alone reads all of it"),
        ("argparse.thing", "argparse has no public submodule thing"),
        ("src/luthier", "name it as you would import it"),
        ("zzz_qqq", "pip install -e ."),
        ("ruamel-yaml", "is not a module name"),
        ("stdlb", "did you mean stdlib"),
    ],
)
def test_names_that_do_not_exist(toy: Path, name: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        records_from_python([name])
    assert words in str(caught.value)


def test_the_name_of_a_distribution_is_told_from_that_of_its_module() -> None:
    with pytest.raises(DataError, match="its module is jinja2"):
        records_from_python(["Jinja2"])


def test_the_standard_library_is_chosen_without_jokes_and_tables() -> None:
    modules = set(stdlib_modules())
    assert {"json", "os", "argparse", "pathlib"} <= modules
    assert not modules & {"antigravity", "this", "test", "idlelib", "encodings", "math", "_pydecimal"}


def test_the_standard_library_gives_one_question_an_object() -> None:
    """A part of it stands for the whole, which `stdlib` reads in a few seconds."""
    from luthier.data import from_python

    counts: Counter[str] = Counter()
    module = from_python.find_modules("argparse", counts)[0]
    items = from_python.read_objects(module, counts)
    rows = from_python._module_rows(items, counts, thin=True)
    names = [row["meta"]["name"] for row in rows]
    assert len(names) == len(set(names)) > 5
    assert {row["meta"]["kind"] for row in rows} > {"explain"}
