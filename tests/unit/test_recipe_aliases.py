"""The tables of other tools' spellings: consistent with the schema, and each entry at work."""

from pathlib import Path

import pytest

from luthier.core.errors import RecipeError
from luthier.recipe import Dataset, Recipe, load_recipe
from luthier.recipe.aliases import ALIASES, DATASET_ALIASES, DATASET_FOREIGN, FOREIGN, VALUE_ADVICE, VALUE_ALIASES

SAMPLE = {
    "base_model": "other",
    "adapter": "qlora",
    "rslora": "true",
    "gradient_checkpointing": "true",
    "dora": "true",
    "lora_targets": "[q_proj]",
    "datasets": "b.jsonl",
    "val_datasets": "v.jsonl",
    "val_set_size": "0.25",
    "chat_template": "t.jinja",
    "learning_rate": "1e-4",
    "optim": "adamw_8bit",
    "lr_scheduler": "linear",
    "warmup_ratio": "0.25",
    "max_grad_norm": "0.25",
    "num_epochs": "3",
    "dtype": "fp32",
    "output_dir": "elsewhere",
}  # every other field takes 64


def load(tmp_path: Path, *lines: str, without: str = ""):
    base = {"base_model": "m", "datasets": "[a.jsonl]", "output_dir": "runs/x"}
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*(f"{key}: {value}" for key, value in base.items() if key != without), *lines]))
    return load_recipe(path)


def test_every_alias_means_a_field_and_is_none_itself():
    assert set(ALIASES.values()) <= set(Recipe.model_fields)
    assert set(DATASET_ALIASES.values()) <= set(Dataset.model_fields)
    assert not set(ALIASES) & set(Recipe.model_fields)
    assert not set(DATASET_ALIASES) & set(Dataset.model_fields)


def test_no_key_is_both_accepted_and_refused():
    assert not set(FOREIGN) & (set(ALIASES) | set(Recipe.model_fields))
    assert not set(DATASET_FOREIGN) & (set(DATASET_ALIASES) | set(Dataset.model_fields))


@pytest.mark.parametrize(("alias", "field"), ALIASES.items())
def test_alias_is_read_as_its_field_and_announced(tmp_path, alias, field):
    value = SAMPLE.get(field, "64")
    loaded = load(tmp_path, f"{alias}: {value}", without=field)
    assert loaded.recipe == load(tmp_path, f"{field}: {value}", without=field).recipe
    assert loaded.recipe != load(tmp_path).recipe  # the sample is no default
    assert loaded.notes == [f"{alias}: read as {field}"]


@pytest.mark.parametrize(("alias", "field"), ALIASES.items())
def test_alias_beside_its_field_is_refused(tmp_path, alias, field):
    value = SAMPLE.get(field, "64")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, f"{field}: {value}", f"{alias}: {value}", without=field)
    path = tmp_path / "recipe.yaml"
    assert f": {alias} and {field} ({path}:" in str(caught.value) and str(caught.value).startswith(f"{path}:")


@pytest.mark.parametrize(("alias", "field"), DATASET_ALIASES.items())
def test_dataset_alias_is_read_as_its_field_and_announced(tmp_path, alias, field):
    value = {"path": "a.jsonl", "type": "alpaca"}[field]
    rest = "" if field == "path" else ", path: a.jsonl"
    loaded = load(tmp_path, f"datasets: [{{{alias}: {value}{rest}}}]", without="datasets")
    assert getattr(loaded.recipe.datasets[0], field) == value
    assert loaded.notes == [f"datasets[0].{alias}: read as {field}"]


@pytest.mark.parametrize(("key", "reason"), FOREIGN.items())
def test_foreign_key_is_refused_with_its_line_and_reason(tmp_path, key, reason):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, f"{key}: 1")
    path = tmp_path / "recipe.yaml"
    what = f"{key} is a setting of other tools that Luthier does not have"
    assert str(caught.value) == f"{path}:4: {what}\n  → {reason}"


@pytest.mark.parametrize(("key", "reason"), DATASET_FOREIGN.items())
def test_foreign_dataset_key_is_refused_with_its_line_and_reason(tmp_path, key, reason):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "val_datasets:", "  - path: v", f"    {key}: 1")
    what = f"{key} is a setting of other tools that Luthier does not have"
    assert str(caught.value) == f"{tmp_path / 'recipe.yaml'}:6: {what}\n  → {reason}"


@pytest.mark.parametrize(("field", "value"), VALUE_ALIASES)
def test_value_of_another_tool_is_read_as_ours_and_announced(tmp_path, field, value):
    ours = VALUE_ALIASES[field, value]
    loaded = load(tmp_path, f"{field}: {value.upper()}")
    assert getattr(loaded.recipe, field) == ours
    assert loaded.notes == [f"{field}: {value.upper()} read as {ours}"]
    with pytest.raises(RecipeError):  # Python code says what it means
        Recipe(base_model="m", datasets=["a"], output_dir="o", **{field: value})


@pytest.mark.parametrize(
    "line",
    [
        "load_in_4bit: true",
        "bnb_4bit_quant_type: nf4",
        "bnb_4bit_use_double_quant: true",
        "bnb_4bit_compute_dtype: bfloat16",
        "double_quantization: true",
        "quantization_bit: 4",
    ],
)
def test_what_other_tools_say_about_four_bits(tmp_path, line):
    """It goes, whether the recipe says `adapter: qlora` already or not."""
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, f"adapter: qlora\n{line}")
    assert caught.value.fix.startswith("remove the line: ")
    assert "4 bits" in caught.value.fix or "NF4" in caught.value.fix


def test_advice_is_about_fields_and_values_that_are_not_accepted():
    for field, value in VALUE_ADVICE:
        info = {**Dataset.model_fields, **Recipe.model_fields}[field]
        assert value not in info.annotation.__args__, (field, value)


def test_what_the_texts_say_to_write_exists():
    named = {"batch_tokens", "micro_batch_tokens", "dtype", "chat_template", "warmup_ratio", "eval_steps", "save_steps"}
    named |= {"lora_targets", "learning_rate", "weight_decay", "val_set_size", "val_datasets", "output_dir"}
    named |= {"max_steps"}
    assert named <= set(Recipe.model_fields)
    assert all(any(name in text for text in FOREIGN.values()) for name in named)
