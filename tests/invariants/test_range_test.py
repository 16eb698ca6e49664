"""The learning-rate test leaves no trace: weights, gradient, optimizer, random states and the run after it."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers_models import decoder_of, make_twin
from luthier.data.collate import collate
from luthier.data.render import Row
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.recipe import Recipe
from luthier.train.objective import sft_loss
from luthier.train.optim import DTYPES, make_optimizer
from luthier.train.range_test import MIN_STEPS, RangeTest, range_test

GUESS = 2e-3


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = tmp_path_factory.mktemp("model")
    make_twin(folder, "llama")
    return decoder_of(folder)


def recipe(**fields: Any) -> Recipe:
    return Recipe(base_model="m", datasets=["d.jsonl"], output_dir="o", lora_r=4, **fields)


def adapter_of(decoder: Decoder, recipe: Recipe) -> Adapter:
    adapter = Adapter(
        decoder.spec, recipe.lora_r, recipe.lora_alpha, rslora=recipe.rslora, dropout=recipe.lora_dropout,
        dora=recipe.dora, dtype=DTYPES[recipe.adapter_dtype], seed=3,
    )  # fmt: skip
    adapter.start_magnitudes(decoder.layers)
    return adapter


def microsteps(number: int = MIN_STEPS) -> list[list[Row]]:
    """Steps of two rows that count upwards, which is learned quickly."""
    rng = np.random.default_rng(0)
    starts = rng.integers(3, 60, (number, 2))
    return [
        [Row((start + np.arange(24)).astype(np.int32) % 150 + 3, np.arange(24) > 3, "", "", "") for start in pair]
        for pair in starts
    ]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().clone().view(torch.uint8).numpy().tobytes()


def sweep(decoder: Decoder, adapter: Adapter, recipe: Recipe, number: int = MIN_STEPS, **more: Any) -> RangeTest:
    return range_test(decoder, adapter, recipe, microsteps(number), **{"guess": GUESS, "seed": 0, **more})


KINDS: list[dict[str, Any]] = [
    {},
    {"lora_dropout": 0.2, "rslora": True},
    {"dora": True},
    {"optim": "adamw_8bit"},
    {"adapter_dtype": "bf16"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_everything_is_as_before_bit_for_bit(decoder: Decoder, kind: dict[str, Any]) -> None:
    asked = recipe(**kind)
    adapter = adapter_of(decoder, asked)
    optimizer = make_optimizer(adapter, asked)
    adapter.grad.fill_(0.25)
    optimizer.step(1e-2, 1.0)  # so that neither weights nor moments are those of a fresh start
    adapter.grad.copy_(torch.linspace(-1, 1, len(adapter.grad)))
    base = [bits(layer.attention_norm) for layer in decoder.layers] + [bits(decoder.embedding)]

    def state() -> list[Any]:
        drawn = [torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())]
        moments = [bits(tensor) for tensor in optimizer.tensors().values()]
        return [bits(adapter.flat), bits(adapter.grad), *moments, *drawn]

    before, grad = state(), adapter.flat.grad
    test = sweep(decoder, adapter, asked)
    assert state() == before and adapter.flat.grad is grad is adapter.grad
    assert base == [bits(layer.attention_norm) for layer in decoder.layers] + [bits(decoder.embedding)]
    assert test.steps > 3 and min(test.losses) < -0.01, "the test trained something"


def test_the_same_seed_gives_the_same_test(decoder: Decoder) -> None:
    asked = recipe(lora_dropout=0.2)
    first, again, other = (sweep(decoder, adapter_of(decoder, asked), asked, seed=seed) for seed in (1, 1, 2))
    assert first.losses == again.losses != other.losses


def test_the_first_loss_is_compared_with_itself(decoder: Decoder) -> None:
    test = sweep(decoder, adapter_of(decoder, recipe()), recipe())
    assert test.losses[0] == 0
    assert test.rates[0] == pytest.approx(GUESS / 4) and test.rates == sorted(test.rates)
    assert len(test.rates) == len(test.losses) == len(test.smoothed) == test.steps


def test_rates_that_destroy_end_the_test_early_and_bound_what_is_chosen(decoder: Decoder) -> None:
    """From an adapter that has learned something, as a later stage begins with."""
    adapter, number = adapter_of(decoder, recipe()), 30
    optimizer = make_optimizer(adapter, recipe())
    for step in microsteps(40):
        stream = collate(step)
        logprobs = decoder.logprobs(
            stream.tokens, Segments.of(stream.lengths, decoder.device, parents=stream.parents), stream.targets, adapter
        )
        (sft_loss(logprobs) / len(logprobs)).backward()
        optimizer.step(1e-2, 1.0)
        adapter.grad.zero_()
    test = sweep(decoder, adapter, recipe(), number, guess=1e-2)
    assert test.steps < number and test.losses[-1] > 0.5 and test.losses[-2] > 0.5
    assert test.rates[0] < test.chosen < test.rates[-1] / 2
    assert test.tokens == round(number * 48 / 2 + test.steps * 48)  # all rows forward once, and the steps


def test_a_loss_that_is_not_finite_ends_the_test(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1000))

    def loss(logprobs: torch.Tensor) -> torch.Tensor:
        return sft_loss(logprobs) * (float("nan") if next(calls) == MIN_STEPS + 6 else 1)

    monkeypatch.setattr(sys.modules["luthier.train.range_test"], "sft_loss", loss)
    adapter = adapter_of(decoder, recipe())
    before = bits(adapter.flat), bits(adapter.grad)
    test = sweep(decoder, adapter, recipe())
    assert (bits(adapter.flat), bits(adapter.grad)) == before
    assert len(test.losses) == 6 and test.steps == 7 and np.isfinite([*test.losses, *test.smoothed, test.chosen]).all()
    assert test.chosen < test.rates[-1]


def test_what_progress_raises_goes_through_and_leaves_no_trace(decoder: Decoder) -> None:
    adapter = adapter_of(decoder, recipe())
    before = bits(adapter.flat), bits(adapter.grad)

    def stop(done: int, total: int) -> None:
        assert total == 2 * MIN_STEPS
        if done == MIN_STEPS + 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(decoder, adapter, recipe(), progress=stop)
    assert (bits(adapter.flat), bits(adapter.grad)) == before


def test_no_rows_are_no_test_and_the_words_say_why(decoder: Decoder) -> None:
    adapter = adapter_of(decoder, recipe())
    test = range_test(decoder, adapter, recipe(), [], guess=GUESS, seed=0)
    assert (test.chosen, test.steps, test.rates, test.tokens) == (GUESS, 0, [], 0)
    assert "5%" in test.why and "240 rows" in test.why
