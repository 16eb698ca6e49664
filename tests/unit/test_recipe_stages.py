"""Stages in a recipe: what each becomes on its own, and the text of every refusal."""

from pathlib import Path

import pytest

from luthier.core.errors import RecipeError
from luthier.recipe import Dataset, LoadedRecipe, Recipe, dump_recipe, load_recipe, stage_recipe
from luthier.recipe.schema import STAGE_FIELDS

TOP = "base_model: m\noutput_dir: runs/x\n"  # a test's own lines begin on line 3


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str) -> LoadedRecipe:
    Path("recipe.yaml").write_text(TOP + text)
    return load_recipe(Path("recipe.yaml"))


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(text)
    return str(caught.value)


def alone(text: str) -> list[Recipe]:
    recipe = load(text).recipe
    return [stage_recipe(recipe, index) for index in range(len(recipe.stages))]


def test_a_stage_is_the_recipe_with_its_own_settings() -> None:
    broad, polish = alone(
        "datasets: a.jsonl\nlearning_rate: 1e-3\nnum_epochs: 3\nstages:\n"
        "  - name: broad\n  - name: polish\n    datasets: [b.jsonl]\n    learning_rate: 1e-4\n    max_steps: 7\n"
    )
    assert (broad.learning_rate, broad.num_epochs, broad.max_steps) == (1e-3, 3, None)
    assert (polish.learning_rate, polish.num_epochs, polish.max_steps) == (1e-4, 3, 7)
    assert (broad.datasets, polish.datasets) == ([Dataset(path="a.jsonl")], [Dataset(path="b.jsonl")])
    assert (broad.output_dir, polish.output_dir) == ("runs/x/stages/01-broad", "runs/x/stages/02-polish")
    assert broad.stages == polish.stages == []


def test_a_default_that_a_stage_writes_out_replaces_the_recipes_value() -> None:
    first, second = alone(
        "datasets: a\nlearning_rate: 1e-3\nstages:\n  - name: a\n    learning_rate: auto\n  - name: b\n"
    )
    assert (first.learning_rate, second.learning_rate) == ("auto", 1e-3)


def test_what_a_stage_says_of_held_out_data_replaces_both() -> None:
    own, share, none, kept = alone(
        "datasets: a\nval_datasets: [v]\nstages:\n  - name: own\n    val_datasets: w\n"
        "  - name: share\n    val_set_size: 0.2\n  - name: none\n    val_set_size: 0\n  - name: kept\n"
    )
    assert (own.val_datasets, own.val_set_size) == ([Dataset(path="w")], 0)
    assert (share.val_datasets, share.val_set_size) == ([], 0.2)
    assert (none.val_datasets, none.val_set_size) == ([], 0)
    assert (kept.val_datasets, kept.val_set_size) == ([Dataset(path="v")], 0)


def test_every_field_of_a_stage_is_a_field_of_the_recipe() -> None:
    assert set(STAGE_FIELDS) <= set(Recipe.model_fields)


def test_datasets_may_be_left_out_where_each_stage_has_its_own() -> None:
    text = "stages:\n  - name: a\n    datasets: [x]\n  - name: b\n    datasets: [y]\n"
    recipe = load(text).recipe
    assert recipe.datasets == []
    Path("again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(Path("again.yaml")).recipe == recipe
    assert refusal(text.replace("    datasets: [x]\n", "")).startswith("recipe.yaml:4: stages[0].datasets is missing\n")
    assert refusal("stages: []\n").startswith("recipe.yaml: datasets is missing\n  → add datasets: ")


def test_only_what_a_stage_says_is_written_and_read_back() -> None:
    recipe = load("datasets: a\nstages:\n  - name: a\n    gate: none\n  - name: b\n    max_unlearning: 0.5\n").recipe
    text = dump_recipe(recipe)
    assert "stages:\n  - name: a\n    gate: none\n  - name: b\n    max_unlearning: 0.5\n" in text


def test_spellings_of_other_tools_are_read_in_stages_too() -> None:
    loaded = load("stages:\n  - name: a\n    lr: 1e-3\n    dataset:\n      - file: d.jsonl\n        format: text\n")
    (stage,) = loaded.recipe.stages
    assert (stage.learning_rate, stage.datasets) == (1e-3, [Dataset(path="d.jsonl", type="text")])
    assert loaded.notes == [
        "stages[0].lr: read as learning_rate",
        "stages[0].dataset: read as datasets",
        "stages[0].datasets[0].file: read as path",
        "stages[0].datasets[0].format: read as type",
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("  - name: a\n    lerning_rate: 1\n", 5, 'unknown key "lerning_rate" in stages[0]\n  → did you mean '),
        ("  - name: a\n    lora_rank: 3\n", 5, "stages[0].lora_r (written as lora_rank) holds for the whole training"),
        ("  - name: a\n    lora_rr: 3\n", 5, 'unknown key "lora_rr" in stages[0]\n  → if lora_r was meant: it belongs'),
        ("  - name: a\n    batch_size: 3\n", 5, "batch_size is a setting of other tools that Luthier does not have"),
        ("  - name: a\n    foo: 3\n", 5, 'unknown key "foo" in stages[0]\n  → a stage has name, gate, '),
        ("  - lr: 1e-3\n", 4, "stages[0].name is missing\n  → add name: what the stage is called"),
        ("  - name: a/b\n", 4, 'stages[0].name must be a word of letters, digits, - and _, not "a/b"'),
        ("  - name: a\n    gate: beter\n", 5, "stages[0].gate must be better, not worse or none, not"),
        ("  - name: a\n    learning_rate: 2\n", 5, "stages[0].learning_rate must be auto or a number above 0"),
        ("  - a\n", 4, 'stages[0] must be a section with a name, not "a"'),
        ("  name: a\n", 3, "stages must be a list of stages, not a section with name\n  → start the entry"),
        ("  - name: a\n    datasets: [3]\n", 5, "stages[0].datasets[0] must be a path, or a path and a type, not 3"),
        ("  - name: a\n    datasets:\n      - pth: x\n", 6, 'unknown key "pth" in stages[0].datasets[0]'),
        ("  - name: a\n    lr: 1\n    learning_rate: 1\n", 6, "learning_rate and lr (recipe.yaml:5) are the same"),
        ("  - name: a\n  - name: A\n", 5, "two stages are called A\n"),
        ("  - name: a\n    max_unlearning: 1\n", 5, "max_unlearning in stage a: there is no stage before it"),
        ("  - name: a\n    gate: better\n    val_set_size: 0\n", 5, "stage a: gate is better, but nothing is held out"),
        ("  - name: a\n    val_set_size: 0\n    early_stopping_patience: 3\n", 6, "stage a: early_stopping_"),
    ],
)  # fmt: skip
def test_mistakes_name_the_line_and_what_to_write(text: str, line: int, said: str) -> None:
    assert refusal("stages:\n" + text + "datasets: [d]\n").startswith(f"recipe.yaml:{line}: {said}")


def test_stages_from_python() -> None:
    stages = [{"name": "a", "datasets": Path("x.jsonl")}, {"name": "b", "datasets": ("y.jsonl",), "num_epochs": 2.0}]
    recipe = Recipe(base_model="m", output_dir="r", stages=stages)
    assert stage_recipe(recipe, 1).num_epochs == 2
    assert Recipe(base_model="m", output_dir="r", stages=recipe.stages) == recipe
