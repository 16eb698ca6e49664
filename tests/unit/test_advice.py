"""Advice: each rule on both sides of its border, and silence for recipes that are sensible."""

from pathlib import Path
from typing import Any

import pytest

from helpers_models import decoder_of, make_twin
from luthier.models.spec import Spec
from luthier.recipe import Recipe, load_recipe
from luthier.train.advice import RULES, Facts, advice
from luthier.train.settings import Settings, guessed_learning_rate

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    folder: Path = tmp_path_factory.mktemp("model")
    make_twin(folder, "llama")
    return decoder_of(folder).spec


def facts(**changes: Any) -> Facts:
    """2,000 rows of 100 tokens, half of them trained, of which 100 groups are held out."""
    values: dict[str, Any] = {
        "train_rows": 2000, "train_tokens": 200_000, "label_tokens": 100_000, "longest": 400, "cut_rows": 0,
        "held_out_groups": 100, "adapter_parameters": 1_000_000,
    }  # fmt: skip
    return Facts(**{**values, **changes})


def settings(*, steps: int = 100, batch: int = 2048, eval_steps: int = 25, rows: int = 2000) -> Settings:
    """A plan of so many steps that see `rows` rows in all."""
    plan = [(0, [list(range(rows // steps + (i < rows % steps)))]) for i in range(steps)]
    return Settings(batch_tokens=batch, micro_batch_tokens=batch, learning_rate=1e-3, eval_steps=eval_steps,
                    save_steps=25, steps=plan, notes=[])  # fmt: skip


def recipe(**fields: Any) -> Recipe:
    return Recipe(base_model="m", datasets=["d.jsonl"], output_dir="o", **fields)


def told(spec: Spec, fields: dict[str, Any], plan: dict[str, Any], seen: dict[str, Any]) -> list[str]:
    return advice(recipe(**fields), spec, settings(**plan), facts(**seen))


Case = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]
R, S, F = ({}, {}, {})
# What it is about, and recipe, settings and facts: first where it is told, then just where it is not.
BORDERS: dict[str, tuple[Case, Case]] = {
    "few steps": (
        ("batch_tokens", {"batch_tokens": 8192}, {"steps": 29, "batch": 8192}, F),
        ("", {"batch_tokens": 8192}, {"steps": 30, "batch": 8192}, F),
    ),
    "few steps of a batch that is small already": (
        ("num_epochs", R, {"steps": 29}, F),
        ("", {"max_steps": 29}, {"steps": 29}, F),
    ),
    "a large batch": (
        ("batch_tokens", R, {"batch": 12_900, "steps": 299}, F),
        ("", R, {"batch": 12_800, "steps": 299}, F),
    ),
    "a large batch in a long run": (
        ("batch_tokens", R, {"batch": 30_000, "steps": 299}, F),
        ("", R, {"batch": 30_000, "steps": 300}, F),
    ),
    "a small batch": (
        ("batch_tokens", R, {"batch": 127}, F),
        ("", R, {"batch": 128}, F),
    ),
    "a large rank": (
        ("lora_r", {"lora_r": 32, "lora_alpha": 64}, S, {"adapter_parameters": 10_000_001}),
        ("", {"lora_r": 32, "lora_alpha": 64}, S, {"adapter_parameters": 10_000_000}),
    ),
    "many weights at a usual rank": (
        ("lora_r", {"lora_r": 32, "lora_alpha": 64}, S, {"adapter_parameters": 40_000_000}),
        ("", {"lora_r": 31, "lora_alpha": 62}, S, {"adapter_parameters": 40_000_000}),
    ),
    "a small rank": (
        ("lora_r", {"lora_r": 1, "lora_alpha": 2}, S, {"adapter_parameters": 49_999}),
        ("", {"lora_r": 1, "lora_alpha": 2}, S, {"adapter_parameters": 50_000}),
    ),
    "a strong scale": (
        ("lora_alpha", {"lora_r": 8, "lora_alpha": 65}, S, F),
        ("", {"lora_r": 8, "lora_alpha": 64}, S, F),
    ),
    "a weak scale": (
        ("lora_alpha", {"lora_r": 16 * 17, "lora_alpha": 16}, S, F),
        ("", {"lora_r": 16 * 16, "lora_alpha": 16}, S, F),
    ),
    "a strong scale of rslora": (
        ("lora_alpha", {"lora_r": 4, "lora_alpha": 65, "rslora": True}, S, F),
        ("", {"lora_r": 4, "lora_alpha": 64, "rslora": True}, S, F),
    ),
    "a long warmup": (
        ("warmup_ratio", {"warmup_ratio": 0.34}, S, F),
        ("", {"warmup_ratio": 0.33}, S, F),
    ),
    "many epochs": (
        ("num_epochs", R, {"rows": 4501}, {"train_rows": 900, "train_tokens": 90_000}),
        ("", R, {"rows": 4500}, {"train_rows": 900, "train_tokens": 90_000}),
    ),
    "many epochs over more rows": (
        ("num_epochs", R, {"rows": 9990}, {"train_rows": 999}),
        ("", R, {"rows": 10_000}, {"train_rows": 1000}),
    ),
    "many epochs with a patience": (
        ("num_epochs", R, {"rows": 9990}, {"train_rows": 999}),
        ("", {"early_stopping_patience": 2}, {"rows": 9990}, {"train_rows": 999}),
    ),
    "cut rows": (
        ("sequence_len", R, S, {"cut_rows": 201}),
        ("", R, S, {"cut_rows": 200}),
    ),
    "rows as long as allowed that were not cut": (
        ("sequence_len", R, S, {"cut_rows": 2000}),
        ("", {"too_long": "drop"}, S, {"cut_rows": 2000}),
    ),
    "far more room than rows need": (
        ("sequence_len", {"sequence_len": 4096}, S, {"longest": 512}),
        ("", {"sequence_len": 4096}, S, {"longest": 513}),
    ),
    "the default's room": (
        ("sequence_len", {"sequence_len": 2049}, S, {"longest": 40}),
        ("", {"sequence_len": 2048}, S, {"longest": 40}),
    ),
    "few held out": (
        ("val_set_size", R, S, {"held_out_groups": 15}),
        ("", R, S, {"held_out_groups": 16}),
    ),
    "none held out, which is a warning already": (
        ("val_set_size", R, S, {"held_out_groups": 1}),
        ("", R, S, {"held_out_groups": 0}),
    ),
    "rare validations": (
        ("eval_steps", R, {"eval_steps": 50, "rows": 4000}, F),
        ("", R, {"eval_steps": 49, "rows": 4000}, F),
    ),
    "rare validations of rows that are seen once": (
        ("eval_steps", R, {"eval_steps": 100, "rows": 2001}, F),
        ("", R, {"eval_steps": 100, "rows": 2000}, F),
    ),
    "rare validations of a trial": (
        ("eval_steps", {"max_steps": 20}, {"steps": 20, "eval_steps": 20, "rows": 4000}, F),
        ("", {"max_steps": 19}, {"steps": 19, "eval_steps": 19, "rows": 4000}, F),
    ),
    "a falling course before another stage": (
        ("lr_scheduler", R, S, {"more_stages": True}),
        ("", {"lr_scheduler": "wsd"}, S, {"more_stages": True}),
    ),
    "a falling course in the last stage": (
        ("lr_scheduler", {"lr_scheduler": "linear"}, S, {"more_stages": True}),
        ("", {"lr_scheduler": "linear"}, S, {"more_stages": False}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BORDERS)
def test_a_rule_speaks_on_one_side_of_its_border(name: str, spec: Spec) -> None:
    (about, *wrong), (nothing, *right) = BORDERS[name]
    assert [text.split(":")[0] for text in told(spec, *wrong)] == [about]
    assert told(spec, *right) == [] and nothing == ""


@pytest.mark.parametrize("times", [1 / 10.5, 1 / 9.5, 9.5, 10.5])
def test_a_rate_far_from_what_fits(times: float, spec: Spec) -> None:
    usual = guessed_learning_rate(recipe(), spec)
    texts = told(spec, {"learning_rate": usual * times}, {}, {})
    if 0.1 < times < 10:
        assert texts == []
    else:
        assert len(texts) == 1 and texts[0].startswith("learning_rate: ") and f"try {usual:g}" in texts[0]
        assert ("above" in texts[0]) == (times > 1) == ("diverge" in texts[0])


def test_what_fits_depends_on_the_adapters_strength(spec: Spec) -> None:
    usual = guessed_learning_rate(recipe(), spec)
    assert told(spec, {"learning_rate": usual / 6}, {}, {}) == []
    weak = {"learning_rate": usual / 6, "lora_alpha": 2, "lora_r": 2}
    assert [text.split(":")[0] for text in told(spec, weak, {}, {})] == ["learning_rate"]


def test_the_numbers_of_this_run_are_told(spec: Spec) -> None:
    (text,) = told(spec, {}, {"rows": 9990}, {"train_rows": 999, "held_out_groups": 0})
    assert "999 rows" in text and "10.0 times" in text and "val_set_size" in text
    (text,) = told(spec, {"batch_tokens": 8192}, {"steps": 20, "batch": 8192}, {})
    assert "only 20 steps" in text and "8,192" in text and "try 3,264" in text
    (text,) = told(spec, {}, {}, {"held_out_groups": 8})
    assert "n = 8" in text and "val_set_size: 0.1" in text
    (text,) = told(spec, {"val_datasets": ["v.jsonl"]}, {}, {"held_out_groups": 8})
    assert "val_datasets" in text


def test_every_rule_has_a_border_here(spec: Spec) -> None:
    spoke = set()
    for (_, *wrong), _ in BORDERS.values():
        fields, plan, seen = wrong
        arguments = (recipe(**fields), spec, settings(**plan), facts(**seen))
        spoke |= {rule.__name__ for rule in RULES if rule(*arguments)}
    assert spoke == {rule.__name__ for rule in RULES} - {"_rate"}


def test_the_default_recipe_gets_none(spec: Spec) -> None:
    assert told(spec, {}, {}, {}) == []


def test_the_quick_start_gets_none() -> None:
    """With the numbers that its data and SmolLM2-135M have."""
    asked = load_recipe(QUICKSTART, []).recipe
    seen = Facts(train_rows=2977, train_tokens=287_093, label_tokens=132_360, longest=481, cut_rows=0,
                 held_out_groups=20, adapter_parameters=4_884_480)  # fmt: skip
    plan = settings(steps=45, batch=2048, eval_steps=23, rows=950)

    class Smol:
        hidden_size = 576

    assert advice(asked, Smol(), plan, seen) == []  # type: ignore[arg-type]
