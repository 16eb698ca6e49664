"""What a run is made of: named, compared, refused with every difference, and accepted by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers_runs import make_recipe, rows_of, write_rows
from luthier.core.errors import RunError
from luthier.recipe import Recipe
from luthier.stages.check import check
from luthier.stages.facts import FIXED, NOT_FACTS, TOLD, differences, require_same, run_facts
from luthier.train.progress import Progress
from luthier.train.stream import Stream

OLD: dict[str, Any] = {
    "data": {"hash": "ab" * 32, "training rows": 32},
    "lora_r": 2,
    "seed": 0,
    "order": "11" * 32,
    "rslora": False,
    "versions": {"torch": "2.1", "numpy": "2.0"},
}


def facts_of(recipe: Recipe) -> dict[str, Any]:
    checked = check(recipe)
    try:
        return run_facts(checked)
    finally:
        checked.prepared.close()


@pytest.fixture(scope="module")
def place(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and what a run of both is made of."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(chat_model, folder / "model")
    write_rows(folder / "talks.jsonl", rows_of())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder / "home"))
        facts = facts_of(make_recipe(folder / "model", folder / "talks.jsonl", folder / "run"))
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder


def test_facts_are_json_and_the_same_again(place: Path, home: Path) -> None:
    old = json.loads((place / "facts.json").read_text())
    again = make_recipe(place / "model", place / "talks.jsonl", place / "other", keep_checkpoints=5, num_samples=1)
    assert facts_of(again) == old
    assert require_same(old, facts_of(again)) == []


def test_every_recipe_field_is_a_fact_or_left_out_by_name(place: Path) -> None:
    facts = json.loads((place / "facts.json").read_text())
    assert set(Recipe.model_fields) <= facts.keys() | NOT_FACTS
    assert not NOT_FACTS & facts.keys()
    assert facts.keys() >= FIXED and set(TOLD) <= facts.keys()


def flip(folder: Path) -> None:
    weights = folder / "model/model.safetensors"
    bits = bytearray(weights.read_bytes())
    bits[-1] ^= 1
    weights.write_bytes(bits)


CHANGES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], set[str]]] = {
    "dataset": (lambda folder: write_rows(folder / "talks.jsonl", rows_of()[:-1]), {}, {"data"}),
    "base": (flip, {}, {"base_model"}),
    "rank": (lambda folder: None, {"lora_r": 4}, {"lora_r"}),
    "optimizer": (lambda folder: None, {"optim": "adamw_8bit"}, {"optim"}),
    "targets": (lambda folder: None, {"lora_targets": ["q_proj"]}, {"lora_targets"}),
    "seed": (lambda folder: None, {"seed": 1, "val_set_size": 0.2}, {"seed", "data"}),
    "batch": (lambda folder: None, {"batch_tokens": 512}, {"batch_tokens"}),
    "epochs": (lambda folder: None, {"max_steps": None, "num_epochs": 2.0}, {"max_steps", "num_epochs", "eval_steps"}),
    "rate": (lambda folder: None, {"learning_rate": "auto"}, {"learning_rate"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_f20_what_changed_is_refused_and_named(what: str, place: Path, tmp_path: Path, home: Path) -> None:
    change, fields, names = CHANGES[what]
    folder = Path(shutil.copytree(place, tmp_path / "place"))
    change(folder)
    old = json.loads((place / "facts.json").read_text())
    new = facts_of(make_recipe(folder / "model", folder / "talks.jsonl", folder / "run", **fields))
    assert {name for name, _, _ in differences(old, new)} == names
    with pytest.raises(RunError, match="cannot go on as it was") as caught:
        require_same(old, new)
    assert all(f"{name} was" in str(caught.value) for name in names)
    if not names & FIXED:
        assert len(require_same(old, new, accept=names)) == len(names)


@pytest.mark.parametrize("name", ["tokenizer", "chat_template"])
def test_f20_tokenizer_and_template_are_facts_of_their_own(name: str, place: Path) -> None:
    old = json.loads((place / "facts.json").read_text())
    assert len(old[name]) == 64
    with pytest.raises(RunError, match=f"{name} was .*… and is 00000000…: put it back, or go on with --accept {name}"):
        require_same(old, {**old, name: "0" * 64})


def test_f22_other_microsteps_have_the_same_rows_in_each_step(place: Path, home: Path) -> None:
    def steps(micro: int) -> tuple[list[list[str]], list[int], dict[str, Any]]:
        recipe = make_recipe(
            place / "model", place / "talks.jsonl", place / "run", micro_batch_tokens=micro, max_steps=8
        )
        checked = check(recipe)
        settings = checked.prepared.settings
        stream = Stream(checked.prepared.train, settings.steps, micro_batch_tokens=micro, seed=0)
        rows = [stream.rows_of(Progress(step=step)).microsteps for step in range(settings.total_steps)]
        facts = run_facts(checked)
        checked.prepared.close()
        return [sorted(r.record_id for m in step for r in m) for step in rows], [len(step) for step in rows], facts

    (ids, shape, old), (other_ids, other_shape, new) = steps(128), steps(256)
    assert ids == other_ids and shape != other_shape
    assert [name for name, _, _ in differences(old, new)] == ["micro_batch_tokens"]
    (told,) = require_same(old, new, accept=["micro_batch_tokens"])
    assert told == "since the checkpoint was written, micro_batch_tokens was 128 and is 256"


def test_an_order_that_changed_by_itself_is_refused() -> None:
    """The plan of another version of Luthier, say: same data, same seed, other rows in a step."""
    new = {**OLD, "order": "22" * 32}
    assert differences(OLD, new) == [("order", "11111111…", "22222222…")]
    assert differences(OLD, {**new, "seed": 1}) == [("seed", "0", "1")]  # explains it


def test_every_difference_is_listed_with_what_to_do() -> None:
    new = {**OLD, "lora_r": 4, "seed": 3, "data": {"hash": "cd" * 32, "training rows": 31}, "rslora": True}
    with pytest.raises(RunError) as caught:
        require_same(OLD, new, accept=["seed"], where="runs/a")
    assert str(caught.value).splitlines() == [
        "runs/a: the run cannot go on as it was: 3 things have changed",
        "  → data was hash abababab…, training rows 32 and is hash cdcdcdcd…, training rows 31: put it back, "
        "or go on with --accept data",
        "    lora_r was 2 and is 4: put it back, the saved state does not fit anything else",
        "    rslora was false and is true: put it back, the saved state does not fit anything else",
        "    or start a new run with another output_dir",
    ]


def test_versions_are_told_and_not_refused() -> None:
    new = {**OLD, "versions": {"torch": "2.2", "numpy": "2.0"}}
    assert require_same(OLD, new) == ["since the checkpoint was written, versions was torch 2.1 and is torch 2.2"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lora_r", "lora_r cannot be accepted: the saved state does not fit another lora_r"),
        ("dta", "dta cannot be accepted: there is no such fact"),
    ],
)
def test_only_a_fact_that_can_be_accepted_is(name: str, said: str) -> None:
    with pytest.raises(RunError, match=said) as caught:
        require_same(OLD, OLD, accept=[name])
    assert "what can be: data, order, seed, versions" in str(caught.value)


def test_a_fact_that_one_side_lacks_is_a_difference() -> None:
    assert differences(OLD, {**OLD, "dora": True}) == [("dora", "none", "true")]
