"""The schema alone: defaults, strictness, refused combinations, recipes made in Python."""

import subprocess
import sys
from pathlib import Path

import pytest

from luthier.core.errors import RecipeError
from luthier.recipe import Dataset, Recipe
from luthier.recipe.messages import allowed_text

DEFAULTS = {
    "base_model": "m",
    "adapter": "lora",
    "lora_r": 16,
    "lora_alpha": 32,
    "rslora": False,
    "lora_dropout": 0.0,
    "dora": False,
    "lora_targets": "all",
    "adapter_dtype": "fp32",
    "datasets": [{"path": "a.jsonl", "type": "auto"}],
    "val_datasets": [],
    "val_set_size": 0.05,
    "eval_sets": [],
    "allow_leaks": False,
    "general_datasets": [],
    "replay_share": 0.05,
    "sequence_len": 2048,
    "too_long": "cut",
    "on_bad_row": "stop",
    "chat_template": None,
    "batch_tokens": "auto",
    "micro_batch_tokens": "auto",
    "gradient_checkpointing": False,
    "nf4_head": False,
    "embedding_on_host": False,
    "learning_rate": "auto",
    "optim": "adamw",
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.05,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "num_epochs": 1.0,
    "max_steps": None,
    "stages": [],
    "eval_steps": "auto",
    "save_steps": "auto",
    "keep_checkpoints": 2,
    "early_stopping_patience": 0,
    "overfitting_patience": 3,
    "max_forgetting": 0.08,
    "num_samples": 4,
    "max_new_tokens": 128,
    "seed": 0,
    "dtype": "auto",
    "device": "auto",
    "output_dir": "runs/x",
}

ALLOWED = {
    "adapter": "lora or qlora",
    "lora_r": "a whole number from 1 to 512",
    "lora_alpha": "a whole number above 0",
    "rslora": "true or false",
    "gradient_checkpointing": "true or false",
    "nf4_head": "true or false",
    "embedding_on_host": "true or false",
    "lora_dropout": "a number from 0 to below 1",
    "dora": "true or false",
    "lora_targets": "all or a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, qkv_proj, "
    "gate_up_proj, query_key_value, dense, dense_h_to_4h, dense_4h_to_h, c_attn, c_proj, c_fc, fc1, fc2, in_proj, "
    "out_proj, lm_head or embed_tokens",
    "datasets": "a list of at least one file",
    "val_datasets": "a list of files",
    "val_set_size": "a number from 0 to below 1",
    "eval_sets": "a list of files",
    "allow_leaks": "true or false",
    "general_datasets": "a list of files",
    "replay_share": "a number from 0 to 0.5",
    "max_forgetting": "null or a number above 0",
    "sequence_len": "a whole number from 16 up",
    "too_long": "cut or drop",
    "chat_template": "the path of a .jinja file or null",
    "batch_tokens": "auto or a whole number from 1 up",
    "learning_rate": "auto or a number above 0 and at most 1",
    "adapter_dtype": "fp32 or bf16",
    "optim": "adamw or adamw_8bit",
    "lr_scheduler": "cosine, linear, constant or wsd",
    "max_steps": "null or a whole number from 1 up",
    "num_epochs": "a number above 0",
    "stages": "a list of stages",
    "output_dir": "a text",
}


def make(**fields: object) -> Recipe:
    return Recipe(**{"base_model": "m", "datasets": ["a.jsonl"], "output_dir": "runs/x", **fields})


def refusal(**fields: object) -> str:
    with pytest.raises(RecipeError) as caught:
        make(**fields)
    return str(caught.value)


def test_defaults_are_the_documented_ones_and_in_this_order():
    assert list(make().model_dump().items()) == list(DEFAULTS.items())


@pytest.mark.parametrize("model", [Recipe, Dataset])
def test_every_field_has_a_one_line_description(model):
    for name, info in model.model_fields.items():
        assert info.description and "\n" not in info.description and len(info.description) < 90, name


@pytest.mark.parametrize(("name", "text"), ALLOWED.items())
def test_allowed_values_in_words(name, text):
    assert allowed_text(Recipe.model_fields[name]) == text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lora_r", 1),
        ("lora_r", 512),
        ("lora_alpha", 1),
        ("val_set_size", 0),
        ("val_set_size", 0.999),
        ("sequence_len", 16),
        ("too_long", "drop"),
        ("on_bad_row", "skip"),
        ("chat_template", "my/template.jinja"),
        ("chat_template", "template.jinja2"),
        ("batch_tokens", 1),
        ("micro_batch_tokens", 1),
        ("learning_rate", 1e-4),
        ("learning_rate", 1),
        ("lr_scheduler", "wsd"),
        ("warmup_ratio", 0),
        ("weight_decay", 0.1),
        ("num_epochs", 0.25),
        ("max_steps", 1),
        ("eval_steps", 1),
        ("save_steps", 7),
        ("keep_checkpoints", 1),
        ("replay_share", 0),
        ("replay_share", 0.5),
        ("max_forgetting", None),
        ("num_samples", 0),
        ("max_new_tokens", 1),
        ("dtype", "fp32"),
        ("device", "cuda"),
    ],
)
def test_values_at_the_edge_are_taken(field, value):
    assert getattr(make(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("base_model", "", "an empty text"),
        ("base_model", 7, "7"),
        ("adapter", "peft", '"peft"'),
        ("lora_r", 0, "0"),
        ("lora_r", 513, "513"),
        ("lora_r", 16.0, "16.0"),
        ("lora_r", True, "true"),
        ("lora_r", "16", '"16"'),
        ("lora_alpha", 0, "0"),
        ("datasets", [], "an empty list"),
        ("datasets", None, "empty"),
        ("val_set_size", 1, "1"),
        ("val_set_size", -0.1, "-0.1"),
        ("sequence_len", 15, "15"),
        ("too_long", "truncate", '"truncate"'),
        ("on_bad_row", None, "empty"),
        ("chat_template", "chatml", '"chatml"'),
        ("batch_tokens", 0, "0"),
        ("batch_tokens", "Auto", '"Auto"'),
        ("micro_batch_tokens", 1.5, "1.5"),
        ("learning_rate", 0, "0"),
        ("learning_rate", float("nan"), "nan"),
        ("learning_rate", 1.5, "1.5"),
        ("lr_scheduler", ["cosine"], "a list of 1"),
        ("warmup_ratio", 1, "1"),
        ("weight_decay", -1, "-1"),
        ("max_grad_norm", 0, "0"),
        ("max_grad_norm", float("inf"), "inf"),
        ("num_epochs", 0, "0"),
        ("max_steps", 0, "0"),
        ("eval_steps", 0, "0"),
        ("save_steps", "never", '"never"'),
        ("keep_checkpoints", 0, "0"),
        ("early_stopping_patience", -1, "-1"),
        ("overfitting_patience", -1, "-1"),
        ("replay_share", 0.6, "0.6"),
        ("max_forgetting", 0, "0"),
        ("num_samples", -1, "-1"),
        ("max_new_tokens", 0, "0"),
        ("seed", -1, "-1"),
        ("dtype", "int8", '"int8"'),
        ("device", {"index": 0}, "a section with index"),
        ("output_dir", None, "empty"),
    ],
)
def test_wrong_values_say_field_allowed_values_and_what_was_given(field, value, shown):
    allowed = allowed_text(Recipe.model_fields[field])
    assert refusal(**{field: value}).splitlines()[0] == f"{field} must be {allowed}, not {shown}"


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("adapter", "dora", "write adapter: lora, and dora: true beside it"),
        ("adapter", "none", "this version trains LoRA: write adapter: lora, or qlora for a base in 4 bits"),
        ("lr_scheduler", "cosin", "did you mean cosine?"),
        ("dtype", "bfloat16", "write bf16"),
        ("learning_rate", "1e-4", "write the number without quotes"),
        ("output_dir", 2026, "put it in quotes"),
        ("datasets", {"path": "a.jsonl"}, "start the entry with a dash: - path: FILE"),
        ("datasets", [{"path": "a.jsonl", "type": "chat_template"}], "write messages or sharegpt"),
    ],
)
def test_likely_mistakes_come_with_what_to_write(field, value, fix):
    assert f"→ {fix}" in refusal(**{field: value})


def test_long_values_are_shown_in_part():
    assert len(refusal(device="x" * 10_000)) < 200


def test_unknown_field_in_python_names_the_nearest_field_or_the_reason():
    assert refusal(lora_rank=8) == 'unknown key "lora_rank"\n  → did you mean lora_r?'
    assert "always packed" in refusal(packing=True)


def test_several_mistakes_are_listed_together():
    text = refusal(lora_r=0, seed=-1, foo=1)
    assert text.startswith("recipe: 3 mistakes\n")
    assert all(part in text for part in ("lora_r must be", "seed must be", 'unknown key "foo"'))


def test_a_very_long_list_of_mistakes_is_cut():
    text = refusal(**{f"key_{index}": 1 for index in range(50)})
    assert text.startswith("recipe: 50 mistakes") and text.endswith("… and 30 more")


def test_missing_fields_come_with_their_meaning():
    with pytest.raises(RecipeError) as caught:
        Recipe(base_model="m", datasets=["a"])
    assert str(caught.value) == (
        "output_dir is missing\n  → add output_dir: folder of the run: events, checkpoints, adapter, report"
    )


def test_bare_strings_paths_and_tuples_become_datasets():
    expected = [Dataset(path="a.jsonl")]
    for datasets in ("a.jsonl", Path("a.jsonl"), ["a.jsonl"], (Path("a.jsonl"),), [{"path": "a.jsonl"}], expected):
        assert make(datasets=datasets).datasets == expected
    assert make(datasets=[{"path": Path("b"), "type": "text"}]).datasets == [Dataset(path="b", type="text")]


def test_paths_from_python_become_text():
    recipe = make(base_model=Path("models/m"), output_dir=Path("runs/y"), chat_template=Path("t.jinja"))
    assert (recipe.base_model, recipe.output_dir, recipe.chat_template) == ("models/m", "runs/y", "t.jinja")


def test_dataset_entry_of_the_wrong_kind():
    assert refusal(datasets=["a", 3]) == "datasets[1] must be a path, or a path and a type, not 3"


def test_recipe_and_dataset_cannot_be_changed():
    recipe = make()
    for thing, name in ((recipe, "lora_r"), (recipe.datasets[0], "path")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(thing, name, 1)


def test_val_datasets_turn_the_share_off():
    assert make(val_datasets=["v.jsonl"]).val_set_size == 0
    assert make(val_datasets=["v.jsonl"], val_set_size=0).val_set_size == 0
    assert make(val_datasets=[]).val_set_size == 0.05


def test_val_datasets_with_a_share_is_refused():
    text = refusal(val_datasets=["v.jsonl"], val_set_size=0.1)
    assert text == (
        "val_set_size is 0.1, but val_datasets already names the validation data\n"
        "  → remove val_set_size, or remove val_datasets"
    )


def test_early_stopping_needs_validation():
    text = refusal(early_stopping_patience=3, val_set_size=0)
    assert "early_stopping_patience is 3, but val_set_size is 0 and there are no val_datasets" in text
    assert "→ set val_set_size to 0.05, or early_stopping_patience to 0" in text
    assert make(early_stopping_patience=3).early_stopping_patience == 3
    assert make(early_stopping_patience=3, val_datasets=["v"]).early_stopping_patience == 3


def test_micro_batch_is_part_of_the_batch():
    text = refusal(batch_tokens=1024, micro_batch_tokens=1025)
    assert "micro_batch_tokens (1025) is larger than batch_tokens (1024)" in text
    assert "→ set micro_batch_tokens to 1024 or less, or to auto" in text
    make(batch_tokens=1024, micro_batch_tokens=1024)
    make(batch_tokens="auto", micro_batch_tokens=1024)
    make(batch_tokens=1024, micro_batch_tokens="auto")


def test_combinations_that_are_fine():
    make(sequence_len=4096, batch_tokens=1024)  # rows are never split, a step may be one long row
    make(lr_scheduler="constant", warmup_ratio=0.1)


def test_several_impossible_combinations_are_listed_together():
    text = refusal(early_stopping_patience=1, val_set_size=0, batch_tokens=1, micro_batch_tokens=2)
    assert text.startswith("recipe: 2 mistakes\n")


def test_importing_the_recipe_room_is_light():
    heavy = ("torch", "transformers", "numpy", "pyarrow", "ruamel.yaml", "luthier.data", "luthier.models")
    code = f"import sys, luthier.recipe; print([name for name in {heavy!r} if name in sys.modules])"
    source = Path(sys.modules["luthier.recipe"].__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(source)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("entry", "advice"),
    [("q_porj", "\n  → did you mean q_proj?"), ("wte", ""), (3, ""), ("LM_Head", "\n  → did you mean lm_head?")],
)
def test_a_wrong_target_is_named(entry, advice):
    said = refusal(lora_targets=["v_proj", entry, "nonsense"])
    assert said.startswith("lora_targets[1] must be q_proj, k_proj, ")
    assert said.endswith(f"embed_tokens, not {entry!r}{advice}".replace("'", '"'))


@pytest.mark.parametrize("targets", ["some", [], 3, {"q_proj": 1}])
def test_what_is_no_list_of_targets_is_refused_as_a_whole(targets):
    assert refusal(lora_targets=targets).startswith("lora_targets must be all or a list of q_proj")


@pytest.mark.parametrize(
    ("text", "read"),
    [("q_proj", ["q_proj"]), ("q_proj, v_proj", ["q_proj", "v_proj"]), ("fc1,fc2", ["fc1", "fc2"]), ("all", "all")],
)
def test_targets_as_a_text(text, read):
    assert make(lora_targets=text).lora_targets == read


@pytest.mark.parametrize("text", ["q_porj", "Q_PROJ"])
def test_a_wrong_target_as_a_text(text):
    assert refusal(lora_targets=text).endswith(f'embed_tokens, not "{text}"\n  → did you mean q_proj?')


@pytest.mark.parametrize(
    "fields", [{"lora_targets": ["q_proj", "lm_head"]}, {"lora_targets": ["embed_tokens"]}, {"adapter_dtype": "bf16"}]
)
def test_dora_is_for_linear_layers_in_float32(fields):
    assert refusal(dora=True, **fields).startswith("dora ")
    make(**fields)
