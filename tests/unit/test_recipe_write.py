"""Recipes as YAML: what is written reads back the same."""

import random
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from luthier.core.errors import RecipeError
from luthier.recipe import Recipe, commented_recipe, dump_recipe, load_recipe

CHANGED = {
    "base_model": "models/mine: #1",
    "adapter": "qlora",
    "lora_r": 3,
    "lora_alpha": 7,
    "rslora": True,
    "gradient_checkpointing": True,
    "nf4_head": True,
    "embedding_on_host": True,
    "lora_dropout": 0.125,
    "dora": False,
    "lora_targets": ["q_proj", "down_proj", "lm_head"],
    "datasets": [{"path": "a b.jsonl", "type": "alpaca"}, {"path": "2026", "type": "text"}],
    "val_datasets": ["ü/値.jsonl"],
    "val_set_size": 0.0,
    "eval_sets": ["e.jsonl", "null"],
    "allow_leaks": True,
    "general_datasets": [{"path": "g.jsonl", "type": "text"}],
    "replay_share": 0.25,
    "sequence_len": 77,
    "too_long": "drop",
    "on_bad_row": "skip",
    "chat_template": "t.jinja",
    "batch_tokens": 4096,
    "micro_batch_tokens": 1024,
    "learning_rate": 1e-5,
    "adapter_dtype": "bf16",
    "optim": "adamw_8bit",
    "lr_scheduler": "wsd",
    "warmup_ratio": 0.1,
    "weight_decay": 1e-22,
    "max_grad_norm": 1e16,
    "num_epochs": 0.5,
    "max_steps": 12,
    "stages": [
        {"name": "broad", "learning_rate": 1e-4, "val_set_size": 0.25},
        {"name": "2", "gate": "not worse", "max_unlearning": 0.5, "datasets": ["c", {"path": "d", "type": "text"}]},
    ],
    "eval_steps": 5,
    "save_steps": 6,
    "keep_checkpoints": 3,
    "early_stopping_patience": 4,
    "overfitting_patience": 2,
    "max_forgetting": None,
    "num_samples": 0,
    "max_new_tokens": 9,
    "seed": 2**70,
    "dtype": "fp32",
    "device": "cpu",
    "output_dir": "null",
}

TRICKY = [
    *("1e5", "1_000", "0x1F", ".5", ".inf", "~", "true", "No", "null", "on", "2026-01-31", "12:30"),
    *("a: b", "a #b", "-", "- a", "[a]", "{a", "*a", "&a", "!a", "%a", "@a", "`a", "'a", '"a"', "a'b", "<<", "=", "?"),
    *(" a ", "a\nb", "a\tb", "\u2028", "\x7f", "\ufeff", "\x85", "😀 ü", "a" * 500),
    *("C:\\models\\new", "/abs/path", "../up", "./here", "~/home"),
]


def read_back(text: str, tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = load_recipe(path)
    assert loaded.notes == []
    return loaded.recipe


def minimal(**fields: object) -> Recipe:
    return Recipe(**{"base_model": "m", "datasets": ["a"], "output_dir": "o", **fields})


def test_dump_has_every_field_and_reads_back_equal(tmp_path):
    for recipe in (minimal(), Recipe(**CHANGED), minimal(val_datasets=["v", "w"])):
        text = dump_recipe(recipe)
        assert re.findall(r"^(\w+):", text, re.MULTILINE) == list(Recipe.model_fields)
        assert read_back(text, tmp_path) == recipe


def test_changed_recipe_of_this_test_changes_every_field():
    assert set(CHANGED) == set(Recipe.model_fields)
    base = minimal().model_dump()
    kept = {"dora"}  # contradicts other fields that are changed
    assert {name for name in CHANGED if Recipe(**CHANGED).model_dump()[name] == base[name]} == kept


def test_what_contradicts_the_others_is_written_too(tmp_path):
    recipe = minimal(dora=True)
    assert read_back(dump_recipe(recipe), tmp_path) == recipe


@pytest.mark.parametrize("text", TRICKY)
def test_any_text_survives(text, tmp_path):
    recipe = minimal(base_model=text, output_dir=text, datasets=[text])
    assert read_back(dump_recipe(recipe), tmp_path) == recipe
    assert read_back(commented_recipe(text, text, text), tmp_path) == recipe


def test_random_texts_survive(tmp_path):
    draw = random.Random(0)
    letters = "ab1 :#-_,[]{}&*!|>'\"%@`\\/.~?=\t\n\r\x01\x1f\x7f\x85\xa0\xad"
    letters += "\u200b\u2029\ud7ff\ue000\ufffd\U0001f600\U0010ffff"
    for _ in range(60):
        texts = ["".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(4)]
        recipe = minimal(base_model=texts[0], output_dir=texts[1], datasets=texts[2:])
        assert read_back(dump_recipe(recipe), tmp_path) == recipe, texts


def test_numbers_are_numbers_in_yaml_1_1_too():
    text = "%YAML 1.1\n---\n" + dump_recipe(Recipe(**CHANGED))
    values = YAML(typ="safe", pure=True).load(text)
    assert {name: values[name] for name, value in CHANGED.items() if isinstance(value, float | int)} == {
        name: value for name, value in CHANGED.items() if isinstance(value, float | int)
    }
    assert values["base_model"] == CHANGED["base_model"] and values["output_dir"] == "null"


def test_commented_recipe_is_a_recipe_with_defaults(tmp_path):
    text = commented_recipe("Qwen/Qwen2.5-0.5B", "data/a.jsonl", "runs/a")
    expected = Recipe(base_model="Qwen/Qwen2.5-0.5B", datasets=["data/a.jsonl"], output_dir="runs/a")
    assert read_back(text, tmp_path) == expected


def test_commented_recipe_shows_every_field_with_its_meaning_once():
    lines = commented_recipe("m", "a", "o").splitlines()
    for name, info in Recipe.model_fields.items():
        shown = [line for line in lines if re.match(rf"(# )?{name}:", line)]
        assert len(shown) == 1 and f"# {info.description}" in shown[0], name
    assert max(map(len, lines)) <= 140


def test_the_common_fields_are_set_and_the_others_are_not(tmp_path):
    text = commented_recipe("m", "a", "o")
    assert re.findall(r"^(\w+):", text, re.MULTILINE) == [
        *("base_model", "adapter", "lora_r", "datasets", "val_set_size", "sequence_len", "learning_rate"),
        *("num_epochs", "output_dir"),
    ]


def test_every_commented_line_can_be_turned_on(tmp_path):
    text = commented_recipe("m", "a", "o")
    turned_on = re.sub(r"^# (\w+:)", r"\1", text, flags=re.MULTILINE)
    assert re.findall(r"^(\w+):", turned_on, re.MULTILINE) == list(Recipe.model_fields)
    assert read_back(turned_on, tmp_path) == read_back(text, tmp_path)


def test_commented_recipe_refuses_an_empty_model():
    with pytest.raises(RecipeError, match="base_model must be a text, not an empty text"):
        commented_recipe("", "a", "o")
