"""No field of the recipe is read by nothing: changing it changes what a run does, not only what it says it was asked.

Each case is a pair of tiny runs that differ in one field; the echo of the recipe and the run's folder are left out of
the comparison.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_runs import events, make_chat_model, make_recipe, rows_of, tensors, write_rows
from luthier.core.errors import LuthierError, RecipeError
from luthier.core.files import read_json, write_json
from luthier.data.pack import plan_run
from luthier.models.device import choose_place
from luthier.models.recompute import recomputed
from luthier.models.spec import read_spec
from luthier.models.weights import load_decoder
from luthier.recipe import Recipe
from luthier.serve.chat import load
from luthier.stages.prepare import prepare
from luthier.stages.run import train

BASE: dict[str, Any] = {"max_steps": 4, "eval_steps": 2, "save_steps": 1, "keep_checkpoints": 1}
# field: (what both runs have, the changed value)
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "adapter": ({}, "qlora"),
    "lora_r": ({}, 3),
    "lora_alpha": ({}, 8),
    "rslora": ({}, True),
    "lora_dropout": ({}, 0.25),
    "dora": ({}, True),
    "lora_targets": ({}, ["q_proj", "v_proj", "up_proj"]),
    "val_set_size": ({}, 0.5),
    "sequence_len": ({}, 85),
    "too_long": ({"sequence_len": 85}, "drop"),
    "batch_tokens": ({}, 512),
    "learning_rate": ({}, 1e-3),
    "adapter_dtype": ({}, "bf16"),
    "optim": ({}, "adamw_8bit"),
    "nf4_head": ({"adapter": "qlora"}, True),
    "lr_scheduler": ({}, "constant"),
    "warmup_ratio": ({}, 0.9),
    "weight_decay": ({}, 0.9),
    "num_epochs": ({"max_steps": None, "batch_tokens": 512, "num_epochs": 1.0}, 2.0),
    "max_grad_norm": ({}, 1e-4),
    "max_steps": ({}, 3),
    "eval_steps": ({}, 1),
    "save_steps": ({}, 3),
    "keep_checkpoints": ({}, 3),
    "early_stopping_patience": ({"learning_rate": 1e-12, "eval_steps": 1}, 1),
    "num_samples": ({}, 2),
    "seed": ({}, 1),
    "dtype": ({}, "bf16"),
}
OWN_TESTS = {
    "allow_leaks", "base_model", "chat_template", "datasets", "device", "eval_sets", "gradient_checkpointing",
    "embedding_on_host",
    "general_datasets", "max_forgetting", "replay_share",  # tests/faults/test_forgetting_run.py
    "stages",  # tests/invariants/test_stages.py
    "max_new_tokens", "overfitting_patience",  # the latter: tests/faults/test_overfitting_run.py
    "micro_batch_tokens", "on_bad_row", "output_dir", "val_datasets",
}  # fmt: skip
UNSAID = {"time", "seconds", "training_seconds", "tokens_per_second", "peak_rss_bytes", "recipe", "settings"}


def test_every_field_has_a_case() -> None:
    assert CASES.keys() | OWN_TESTS == Recipe.model_fields.keys()
    assert not CASES.keys() & OWN_TESTS


def outcome(recipe: Recipe) -> dict[str, Any]:
    """What a run did: its events without times and echoes, its checkpoints, and its adapter."""
    result = train(recipe)
    said = [{key: value for key, value in event.items() if key not in UNSAID} for event in events(result.run_dir)]
    kept = sorted(folder.name for folder in (result.run_dir / "checkpoints").iterdir())
    folder = result.adapter_dir or result.rejected_dir  # what learned next to nothing is not published
    adapter = {name: t.tolist() for name, t in tensors(folder / "adapter_model.safetensors").items()}
    return {"events": said, "kept": kept, "adapter": adapter}


@pytest.mark.parametrize("field", CASES)
def test_field_changes_the_run(field: str, home: Path, chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    both, value = CASES[field]
    fields = {**BASE, **both}
    plain = outcome(make_recipe(chat_model, conversations, tmp_path / "plain", **fields))
    changed = outcome(make_recipe(chat_model, conversations, tmp_path / "changed", **{**fields, field: value}))
    assert plain != changed


def test_the_same_recipe_gives_the_same_run(home: Path, chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    """Otherwise the comparisons above would prove nothing."""
    one, other = (outcome(make_recipe(chat_model, conversations, tmp_path / name, **BASE)) for name in "ab")
    assert one == other


def test_base_model(home: Path, chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    other = make_chat_model(tmp_path / "other", seed=1)
    one, two = (make_recipe(model, conversations, tmp_path / name) for model, name in ((chat_model, "a"), (other, "b")))
    assert outcome(one)["adapter"] != outcome(two)["adapter"]


def test_datasets_and_val_datasets(home: Path, chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    few = write_rows(tmp_path / "few.jsonl", rows_of(("sitar", "oud")))
    one, two, three = (
        outcome(make_recipe(chat_model, data, tmp_path / name, **more))["events"][0]["data"]
        for name, data, more in (
            ("a", conversations, {}),
            ("b", few, {}),
            ("c", conversations, {"val_datasets": [few], "val_set_size": 0.0}),
        )
    )
    assert (one["rows_in"], two["rows_in"], three["rows_in"]) == (40, 8, 48)
    assert three["val_rows"] == 8 and three["train_rows"] == 40


def test_eval_sets_and_allow_leaks(home: Path, chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    known = write_rows(tmp_path / "exam.jsonl", [{"question": "What is a harp?"}, {"question": "What is a spoon?"}])
    with pytest.raises(LuthierError, match=r"1 training record repeats .*\(1 of .*exam\.jsonl\)"):
        train(make_recipe(chat_model, conversations, tmp_path / "stop", eval_sets=[known]))
    recipe = make_recipe(chat_model, conversations, tmp_path / "on", eval_sets=[known], allow_leaks=True)
    notes = outcome(recipe)["events"][0]["data"]["notes"]
    assert any("exam.jsonl: 1 of 2 items occur" in note for note in notes)
    assert any("allowed by allow_leaks" in note for note in notes)


def test_chat_template(home: Path, chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.jinja"
    file.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}!\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant!\n{% endif %}"
    )
    plain, other = (
        outcome(make_recipe(chat_model, conversations, tmp_path / name, chat_template=template))["events"][0]["data"]
        for name, template in (("a", None), ("b", str(file)))
    )
    assert plain["hash"] != other["hash"]


def test_on_bad_row(home: Path, chat_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [*rows_of(), "{broken"])
    with pytest.raises(LuthierError, match=r"rows\.jsonl:41"):
        train(make_recipe(chat_model, data, tmp_path / "stop"))
    data_event = outcome(make_recipe(chat_model, data, tmp_path / "skip", on_bad_row="skip"))["events"][0]["data"]
    assert sum(data_event["dropped"].values()) == 1 and data_event["rows_in"] == 41


def test_micro_batch_tokens() -> None:
    fine, coarse = (
        plan_run([50] * 20, batch_tokens=500, micro_batch_tokens=micro, seed=0, num_epochs=1) for micro in (50, 500)
    )
    assert [len(step) for _, step in fine] == [10, 10] and [len(step) for _, step in coarse] == [1, 1]


def test_device() -> None:
    assert choose_place("cpu").device.type == "cpu"
    if torch.cuda.is_available():
        assert choose_place("cuda").device.type == "cuda"
    else:
        with pytest.raises(RecipeError, match="no CUDA device"):
            choose_place("cuda")


def test_a_run_over_four_bits_is_talked_to_over_four_bits(
    home: Path, chat_model: Path, conversations: Path, tmp_path: Path
) -> None:
    result = train(make_recipe(chat_model, conversations, tmp_path / "run", **BASE, adapter="qlora"))
    weights = [
        load_decoder(chat_model, dtype=torch.float32, nf4=nf4).layers[0].qkv.weight.dense() for nf4 in (True, False)
    ]
    talked_to = load(result.run_dir, dtype="fp32").decoder.layers[0].qkv.weight.dense()
    assert torch.equal(talked_to, weights[0]) and not torch.equal(talked_to, weights[1])


def test_a_model_stored_in_four_bits_needs_qlora(
    home: Path, model_copy: Path, conversations: Path, tmp_path: Path
) -> None:
    config = read_json(model_copy / "config.json")
    kind = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    write_json(model_copy / "config.json", config | {"quantization_config": kind})
    with pytest.raises(RecipeError, match="stored in 4 bits"):
        train(make_recipe(model_copy, conversations, tmp_path / "run"))


def test_gradient_checkpointing(
    home: Path, chat_model: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every layer of every step runs again, and the result is the same to the last bit."""
    again: list[int] = []

    def counted(run: Any, x: Any, leaves: Any) -> Any:
        again.append(1)
        return recomputed(run, x, leaves)

    monkeypatch.setattr("luthier.models.decoder.recomputed", counted)
    plain = outcome(make_recipe(chat_model, conversations, tmp_path / "plain", **BASE))
    assert not again
    with_it = make_recipe(chat_model, conversations, tmp_path / "again", **BASE, gradient_checkpointing=True)
    assert outcome(with_it) == plain and len(again) >= BASE["max_steps"] * 2


def test_embedding_on_host(
    home: Path, chat_model: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the loading of the weights; what it does there on a GPU is tested with the weights."""
    wanted: list[Any] = []

    def noted(*args: Any, **options: Any) -> Any:
        wanted.append(options["embedding_on_host"])
        return load_decoder(*args, **options)

    for module in ("luthier.stages.session", "luthier.serve.chat"):
        monkeypatch.setattr(f"{module}.load_decoder", noted)
    result = train(make_recipe(chat_model, conversations, tmp_path / "run", **BASE, embedding_on_host=True))
    load(result.run_dir)
    assert wanted == [True, True]


def test_targets_that_the_model_has_not_are_refused(
    home: Path, chat_model: Path, conversations: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="the model has no qkv_proj"):
        train(make_recipe(chat_model, conversations, tmp_path / "run", lora_targets=["qkv_proj", "o_proj"]))


def test_parts_that_are_left_out_are_said(
    home: Path, chat_model: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(chat_model, conversations, tmp_path / "run")
    told = []
    for left_out in ((), ("vision_tower.",)):
        spec = replace(read_spec(chat_model), left_out=left_out)
        monkeypatch.setattr("luthier.stages.prepare.read_any_spec", lambda folder, spec=spec: spec)
        prepared = prepare(recipe)
        prepared.close()
        told.append([note for note in prepared.accounts.notes if "only its text part" in note])
    assert [len(notes) for notes in told] == [0, 1]


def test_nf4_head_is_for_a_base_in_four_bits(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nf4_head is for a base in 4 bits"):
        Recipe(base_model="m", datasets=["d"], output_dir="o", nf4_head=True)


def test_adapter_refuses_what_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="adapter"):
        Recipe(base_model="m", datasets=["d"], output_dir="o", adapter="dora")


def test_output_dir(home: Path, chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    result = train(make_recipe(chat_model, conversations, tmp_path / "here"))
    assert result.run_dir == tmp_path / "here" and (result.run_dir / "report.html").is_file()


def test_max_new_tokens(home: Path, conversations: Path, tmp_path: Path) -> None:
    talker = make_chat_model(tmp_path / "talker", seed=2)  # the usual tiny model says nothing at all

    def longest(number: int) -> int:
        recipe = make_recipe(
            talker, conversations, tmp_path / str(number), max_steps=1, num_samples=3, max_new_tokens=number
        )
        return max(len(event["answer"]) for event in events(train(recipe).run_dir, "sample"))

    assert longest(1) < longest(6)
