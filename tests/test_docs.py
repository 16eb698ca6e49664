"""The pages say what the code does: fields, names, commands, rooms, links and examples."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic_core import PydanticUndefined

import luthier
from luthier.cli import app
from luthier.core.errors import RecipeError
from luthier.data import formats, render, rows
from luthier.data.formats import FORMATS
from luthier.models.spec import FAMILIES
from luthier.recipe import Dataset, Recipe, load_recipe
from luthier.recipe.aliases import ALIASES, DATASET_ALIASES, DATASET_FOREIGN, FOREIGN, VALUE_ADVICE, VALUE_ALIASES
from luthier.recipe.messages import allowed_text
from luthier.train.settings import auto_learning_rate
from test_layers import MAY_IMPORT

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
README, RECIPE, ARCHITECTURE = TEXTS["README.md"], TEXTS["docs/recipe.md"], TEXTS["docs/architecture.md"]
HOMEPAGES = ("https://huggingface.co/", "https://arxiv.org/", "https://pytorch.org/", "https://github.com/huggingface/")


def tables(text: str, header: str) -> list[list[str]]:
    """The cells of every table row under a header line such as `| field | default |`."""
    found: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
        elif line == header:
            inside = True
        elif inside and not line.startswith("|---"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def codes(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language; "" is none."""
    return [body for name, body in FENCED.findall(text) if name == language]


def written(default: Any) -> str:
    """A default as docs/recipe.md writes it."""
    if default is PydanticUndefined:
        return "required"
    return f"`{'null' if default is None else default}`"


# docs/recipe.md


def test_recipe_page_lists_every_field_as_it_is() -> None:
    listed = [row[:3] for row in tables(RECIPE, "| field | default | allowed | meaning |")]
    fields = Recipe.model_fields.items()
    assert listed == [[f"`{name}`", written(info.default), allowed_text(info)] for name, info in fields]


def test_recipe_page_lists_the_keys_of_a_dataset() -> None:
    listed = [row[:3] for row in tables(RECIPE, "| key | default | allowed | meaning |")]
    fields = Dataset.model_fields.items()
    assert listed == [[f"`{name}`", written(info.default), allowed_text(info)] for name, info in fields]


def test_recipe_page_lists_every_other_spelling() -> None:
    fields = {alias: codes(row[0])[0] for row in tables(RECIPE, "| field | also accepted |") for alias in codes(row[1])}
    assert fields == ALIASES
    keys = {alias: codes(row[0])[0] for row in tables(RECIPE, "| key | also accepted |") for alias in codes(row[1])}
    assert keys == DATASET_ALIASES
    values = {
        (codes(row[0])[0], value): codes(row[2])[0]
        for row in tables(RECIPE, "| field | value | read as |")
        for value in codes(row[1])
    }
    assert values == VALUE_ALIASES


def test_recipe_page_says_what_the_errors_advise() -> None:
    advice = {(key, row[1]) for row in tables(RECIPE, "| key | what the error advises |") for key in codes(row[0])}
    assert advice == {*FOREIGN.items(), *DATASET_FOREIGN.items()}
    values = tables(RECIPE, "| field and value | what the error advises |")
    told = {(value, row[1]) for row in values for value in codes(row[0])}
    assert told == {(f"{field}: {value}", text) for (field, value), text in VALUE_ADVICE.items()}


def test_recipe_page_explains_every_auto() -> None:
    explained = {codes(row[0])[0] for row in tables(RECIPE, "| field | what auto becomes |")}
    assert explained == {name for name, info in Recipe.model_fields.items() if info.default == "auto"}


def test_recipe_page_gives_the_learning_rates_of_the_rule() -> None:
    rates = tables(RECIPE, "| hidden size | learning rate |")
    assert len(rates) > 2
    assert [float(row[1]) for row in rates] == [auto_learning_rate(int(row[0].split()[0])) for row in rates]


def test_every_row_format_is_listed() -> None:
    for text, header in ((README, "| type | looks like |"), (RECIPE, "| type | keys of a row |")):
        assert {codes(row[0])[0] for row in tables(text, header)} == set(FORMATS)


# docs/architecture.md, docs/masks.md


def test_architecture_has_the_arrows_that_are_enforced() -> None:
    listed = {codes(row[0])[0]: row[2] for row in tables(ARCHITECTURE, "| room | what happens in it | may import |")}
    arrows = {room: set() if cell == "nothing" else set(cell.split(", ")) for room, cell in listed.items()}
    assert arrows == MAY_IMPORT


def test_masks_page_lists_every_count() -> None:
    eos = "<eos>"
    counts = {
        formats.TRAILING_USER, render.SPLIT, render.NO_STOP.format(eos=eos), render.UNASKED, render.MOVED,
        render.TEXT_END.format(eos=eos), rows.CUT, rows.TOO_LONG, rows.CUT_AWAY, rows.NOTHING, rows.SKIPPED + "…",
    }  # fmt: skip
    assert {codes(row[0])[0] for row in tables(TEXTS["docs/masks.md"], "| count | meaning |")} == counts


# Commands


def verbs(command: Any, name: str = "") -> Iterator[str]:
    """Every command that does something, as it is typed after `luthier`."""
    if not hasattr(command, "commands"):
        yield name
    else:
        for word, inner in command.commands.items():
            yield from verbs(inner, f"{name} {word}".strip())


VERBS = set(verbs(typer.main.get_command(app)))
FIRST_WORDS = {verb.split()[0] for verb in VERBS}


def test_readme_lists_every_command() -> None:
    listed = [codes(row[0])[0].removeprefix("luthier ") for row in tables(README, "| command | what it does |")]
    assert len(VERBS) > 5
    assert sorted(listed) == sorted(VERBS)


def commands_in(text: str) -> Iterator[str]:
    """Commands in backticks or in shell blocks, without `luthier`."""
    lines = [line.partition("#")[0] for block in blocks(text, "sh") for line in block.splitlines()]
    for code in [*codes(FENCED.sub("", text)), *lines]:
        if match := re.match(r"luthier ([a-z-]+(?: [a-z-]+)?)", code):
            yield match[1]


@pytest.mark.parametrize("page", TEXTS)
def test_commands_in_the_pages_exist(page: str) -> None:
    groups = {verb.split()[0] for verb in VERBS if " " in verb}
    for command in commands_in(TEXTS[page]):
        first, _, second = command.partition(" ")
        assert first in FIRST_WORDS, command
        assert first not in groups or not second or command in VERBS, command


def targets(makefile: str) -> set[str]:
    """What `make` can be asked for by name."""
    return set(re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[1].split())


@pytest.mark.parametrize("page", TEXTS)
def test_make_targets_in_the_pages_exist(page: str) -> None:
    asked = set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXTS[page], flags=re.MULTILINE))
    assert asked <= targets((ROOT / "Makefile").read_text())


# Examples


def test_python_example_uses_what_there_is() -> None:
    (example,) = blocks(README, "python")
    tree = ast.parse(example)
    compile(tree, "README.md", "exec")
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_luthier(node.value)}
    assert names and names <= set(luthier.__all__)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "luthier.Recipe"]
    Recipe(**{keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg})


def _is_luthier(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "luthier"


def test_recipe_example_is_a_recipe(tmp_path: Path) -> None:
    (example,) = blocks(README, "yaml")
    file = tmp_path / "recipe.yaml"
    file.write_text(example)
    loaded = load_recipe(file)
    assert loaded.notes == []
    assert loaded.recipe.base_model == "smollm2-135m"
    file.write_text(example + "no_such_field: 1\n")
    with pytest.raises(RecipeError):
        load_recipe(file)


def test_tree_in_the_readme_is_the_repository() -> None:
    (tree,) = [block for block in blocks(README, "") if block.startswith("src/luthier/")]
    folder, paths = "", []
    for line in tree.splitlines():
        branch, name = re.match(r"([├└]── )?(\S+/)", line).groups()
        folder = folder if branch else name
        paths.append(folder + name if branch else name)
    assert [path for path in paths if not (ROOT / path).is_dir()] == []
    rooms = {path.split("/")[2] for path in paths if path.startswith("src/luthier/")} - {""}
    assert rooms == set(MAY_IMPORT)
    kinds = {path.split("/")[1] for path in paths if path.startswith("tests/")} - {""}
    assert kinds == {file.parent.name for file in (ROOT / "tests").glob("*/test_*.py")} | {"e2e"}


def test_limits_name_every_family() -> None:
    limits = README.partition("## Limits")[2].partition("## ")[0]
    assert set(FAMILIES) <= set(codes(limits))


# Links and words


LINKS = [(page, link) for page, text in TEXTS.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)]


@pytest.mark.parametrize("page, link", LINKS)
def test_links_lead_somewhere(page: str, link: str) -> None:
    if "://" in link:
        assert link.startswith(HOMEPAGES)
        return
    file, _, heading = link.partition("#")
    target = (ROOT / page).parent / file if file else ROOT / page
    assert target.exists(), f"{page} links to {file}, which is not there"
    if heading:
        titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS)
def test_addresses_are_well_known_homepages(page: str) -> None:
    addresses = re.findall(r"\w+://[^\s)>\"`]+", TEXTS[page])
    assert [address for address in addresses if not address.startswith(HOMEPAGES)] == []


LOUD = (
    "seamless", "powerful", "robust", "blazing", "revolution", "effortless", "cutting-edge", "state-of-the-art",
    "world-class", "game-chang", "supercharge", "unleash", "lightning", "simply ", "leverage",
)  # fmt: skip


@pytest.mark.parametrize("page", TEXTS)
def test_words_are_plain(page: str) -> None:
    text = TEXTS[page]
    assert [word for word in LOUD if word in text.lower()] == []
    assert re.findall(r"[\U0001F000-\U0001FAFF\u2600-\u27BF]", text) == []
    assert re.findall(r"(?<![\w.~/…)>\]\[<-])/[a-z]+/[^\s`]*", text) == [], "a path of one machine"


def test_no_placeholder_is_left() -> None:
    assert [page for page in ROOT.glob("**/*.md") if ".venv" not in str(page) and "<<" in page.read_text()] == []
