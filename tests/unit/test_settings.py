"""What `auto` becomes, from the data, the model and the machine."""

from pathlib import Path
from typing import Any

import pytest

from helpers_models import decoder_of, make_twin
from luthier.models.spec import Spec
from luthier.recipe import Recipe
from luthier.train.settings import (
    CPU_MICRO_TOKENS,
    GPU_MICRO_TOKENS,
    MAX_SAVE_STEPS,
    Settings,
    auto_learning_rate,
    decide,
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    folder: Path = tmp_path_factory.mktemp("model")
    make_twin(folder, "llama")
    return decoder_of(folder).spec


def settings(spec: Spec, rows: int, length: int, *, on_gpu: bool = False, **fields: Any) -> Settings:
    recipe = Recipe(base_model="m", datasets=[{"path": "d.jsonl"}], output_dir="o", **fields)
    return decide(recipe, spec, [length] * rows, on_gpu=on_gpu)


def test_a_large_set_gets_sixteen_rows_a_step(spec: Spec) -> None:
    decided = settings(spec, 3200, 100)
    assert decided.batch_tokens == 16 * 100 // 256 * 256
    assert decided.total_steps == round(3200 * 100 / decided.batch_tokens)


def test_a_small_set_still_gets_enough_steps(spec: Spec) -> None:
    """Sixteen rows a step would be 7 steps; the batch shrinks to its least instead."""
    decided = settings(spec, 112, 400)
    assert decided.batch_tokens == 1024
    assert decided.total_steps == round(112 * 400 / 1024)


def test_long_rows_do_not_make_an_endless_batch(spec: Spec) -> None:
    assert settings(spec, 5000, 8000).batch_tokens == 32768


@pytest.mark.parametrize(("epochs", "validations"), [(0.5, 4), (1.0, 4), (3.0, 9), (5.0, 15), (40.0, 20)])
def test_more_epochs_are_validated_more_often(spec: Spec, epochs: float, validations: int) -> None:
    decided = settings(spec, 3200, 100, num_epochs=epochs)
    assert validations - 1 < decided.total_steps / decided.eval_steps <= validations


@pytest.mark.parametrize(("on_gpu", "tokens"), [(False, CPU_MICRO_TOKENS), (True, GPU_MICRO_TOKENS)])
def test_a_microstep_is_what_the_device_likes(spec: Spec, on_gpu: bool, tokens: int) -> None:
    decided = settings(spec, 5000, 1000, on_gpu=on_gpu)
    assert decided.micro_batch_tokens == tokens
    assert all(len(micro) == tokens // 1000 for _, step in decided.steps[:3] for micro in step[:-1])


def test_a_microstep_is_no_larger_than_its_step(spec: Spec) -> None:
    assert settings(spec, 500, 100, batch_tokens=300).micro_batch_tokens == 300


def test_the_learning_rate_falls_with_the_hidden_size() -> None:
    assert auto_learning_rate(4096) == 2e-4
    assert auto_learning_rate(576) == pytest.approx(2e-4 * (4096 / 576) ** 0.78, rel=0.05)
    assert auto_learning_rate(1024) > auto_learning_rate(2048) > auto_learning_rate(8192)


def test_validation_four_times_and_checkpoints_at_least_that_often(spec: Spec) -> None:
    decided = settings(spec, 3200, 100)
    assert 3 < decided.total_steps / decided.eval_steps <= 4
    assert decided.save_steps == min(decided.eval_steps, MAX_SAVE_STEPS)
    assert settings(spec, 30_000, 100).save_steps == MAX_SAVE_STEPS


def test_what_is_set_is_taken_and_not_noted(spec: Spec) -> None:
    fields = {"batch_tokens": 700, "micro_batch_tokens": 350, "learning_rate": 5e-5, "eval_steps": 9, "save_steps": 3}
    decided = settings(spec, 3200, 100, **fields)
    assert {name: getattr(decided, name) for name in fields} == fields
    assert decided.notes == []


def test_every_auto_is_noted(spec: Spec) -> None:
    said = {note.split(":")[0] for note in settings(spec, 3200, 100).notes}
    assert said == {"batch_tokens", "micro_batch_tokens", "learning_rate", "eval_steps", "save_steps"}
