"""The adapter's strength: scaled exactly, swept, and chosen within the budget."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from helpers_models import decoder_of, full_adapter
from luthier.data.render import Row
from luthier.evaluate.interval import Change
from luthier.evaluate.losses import RowLosses, row_losses
from luthier.kernels.segments import Segments
from luthier.stages.forgetting_rule import BAD, KEPT, Judgement
from luthier.stages.strength import STRENGTHS, choose_strength, scale_adapter

TOKENS = torch.arange(40) * 7 % 90


@pytest.fixture(scope="module")
def model(chat_model: Path) -> Any:
    return decoder_of(chat_model)


def rows(number: int = 9) -> list[Row]:
    return [
        Row(np.arange(12, dtype=np.int32) * (i + 2) % 90, np.arange(12) > 5, f"r{i}", f"g{i}", "")
        for i in range(number)
    ]


def logits(decoder: Any, adapter: Any) -> torch.Tensor:
    with torch.no_grad():
        return decoder.logits(decoder.hidden(TOKENS, Segments.of([40]), adapter), adapter)


@pytest.mark.parametrize("targets", [None, ["q_proj", "lm_head", "embed_tokens"]])
def test_scaling_is_the_adapters_scale_and_goes_back_bit_for_bit(model: Any, targets: list[str] | None) -> None:
    adapter = full_adapter(model, targets=targets)
    if adapter.head is not None and adapter.embedding is not None:
        with torch.no_grad():
            adapter.head.b.normal_(generator=torch.Generator().manual_seed(1))
            adapter.embedding.a.normal_(generator=torch.Generator().manual_seed(2))
    start, before = adapter.flat.clone(), logits(model, adapter)
    scale_adapter(adapter, start, 0.5)
    halved = logits(model, adapter)
    assert not torch.allclose(halved, before)
    scale_adapter(adapter, start, 1.0)
    assert torch.equal(adapter.flat, start)
    adapter.scale /= 2  # another way to half the strength
    for table in (adapter.head, adapter.embedding):
        if table is not None:
            table.scale /= 2
    torch.testing.assert_close(logits(model, adapter), halved, rtol=1e-4, atol=1e-4)


class Watch:
    """Stands in for the watch: the general loss rises in proportion to the strength."""

    budget = 0.08

    def __init__(self, slope: float) -> None:
        self.slope, self.measured, self.known_steps = slope, 0, []

    def known(self, step: int) -> Any:
        self.known_steps.append(step)
        return SimpleNamespace(strength=1.0)

    def measure(self, decoder: Any, adapter: Any, *, moved: bool) -> Any:
        assert not moved
        self.measured += 1
        return SimpleNamespace(strength=STRENGTHS[self.measured - 1])

    def judged(self, now: Any) -> Judgement:
        rise = self.slope * now.strength
        change = Change(rise, (rise - 0.01, rise + 0.01), 9, 9)
        return Judgement(change, None, None, None, None, BAD if rise > 0.08 else KEPT, False, True, False, rise <= 0.08)


def sweep(model: Any, monkeypatch: pytest.MonkeyPatch, losses: dict[float, float], slope: float, **more: Any) -> Any:
    """A sweep in which the validation loss of each strength is given."""
    adapter = full_adapter(model, **more)
    start, val = adapter.flat.clone(), rows()
    tokens = np.full(len(val), 6)
    order = iter([losses[strength] for strength in STRENGTHS if strength != 1.0])

    def measured(*args: Any, **kwargs: Any) -> RowLosses:
        return RowLosses(next(order) * tokens + np.linspace(-0.01, 0.01, len(val)), tokens)

    monkeypatch.setattr("luthier.stages.strength.row_losses", measured)
    watch = Watch(slope)
    chosen = choose_strength(
        model, adapter, val, watch, base=RowLosses(2.0 * tokens, tokens), full=RowLosses(losses[1.0] * tokens, tokens),
        step=7, seed=0, micro_batch_tokens=64,
    )  # fmt: skip
    assert watch.known_steps == [7] and watch.measured == (0 if adapter.dora else 3)
    return chosen, adapter, start


BETTER = {0.25: 1.9, 0.5: 1.8, 0.75: 1.7, 1.0: 1.6}


def test_the_whole_adapter_where_it_is_inside(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, adapter, start = sweep(model, monkeypatch, BETTER, 0.05)
    assert (chosen.chosen, chosen.accepted) == (1.0, True)
    assert torch.equal(adapter.flat, start)
    assert [point.strength for point in chosen.points] == list(STRENGTHS)
    assert "whole adapter is best" in chosen.text


def test_the_best_point_inside_the_budget(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, adapter, start = sweep(model, monkeypatch, BETTER, 0.1)  # 0.75 → 0.075
    assert (chosen.chosen, chosen.accepted) == (0.75, True)
    assert [point.inside for point in chosen.points] == [True, True, True, False]
    expected = adapter.flat.clone()
    scale_adapter(adapter, start, 0.75)
    assert torch.equal(adapter.flat, expected) and not torch.equal(adapter.flat, start)
    assert "forgets too much (+0.100)" in chosen.text and "0.100 nats a token" in chosen.text


def test_a_weaker_adapter_that_is_better_on_the_target(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _, _ = sweep(model, monkeypatch, {**BETTER, 0.75: 1.5}, 0.01)
    assert (chosen.chosen, chosen.accepted) == (0.75, True)
    assert "is better on the target than the whole adapter" in chosen.text


def test_none_inside_is_not_accepted(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, adapter, start = sweep(model, monkeypatch, BETTER, 1.0)
    assert (chosen.chosen, chosen.accepted) == (1.0, False) and chosen.text.startswith("not accepted")
    assert torch.equal(adapter.flat, start), "the adapter is left as it was"


def test_a_target_that_got_worse_is_not_accepted(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, adapter, start = sweep(model, monkeypatch, dict.fromkeys(STRENGTHS, 2.5), 0.05)
    assert not chosen.accepted and "surely worse" in chosen.text
    assert torch.equal(adapter.flat, start)


def test_dora_is_measured_whole_and_says_so(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _, _ = sweep(model, monkeypatch, BETTER, 0.05, dora=True)
    assert [point.strength for point in chosen.points] == [1.0] and "DoRA" in chosen.text


def test_what_is_not_known_is_measured(model: Any) -> None:
    """Without losses at full strength they are those of `row_losses`, and the event is made of JSON values."""
    adapter, val = full_adapter(model), rows()
    watch = Watch(0.05)
    base = row_losses(model, val, adapter=None, micro_batch_tokens=64)
    chosen = choose_strength(model, adapter, val, watch, base=base, full=None, step=7, seed=0, micro_batch_tokens=64)
    scale_adapter(adapter, adapter.flat.clone(), 1.0)
    if chosen.chosen == 1.0:
        full = row_losses(model, val, adapter=adapter, micro_batch_tokens=64)
        assert chosen.points[-1].target_loss == full.mean
    event = chosen.event()
    assert set(event) == {"points", "chosen", "accepted", "text"}
    assert set(event["points"][0]) >= {"strength", "target_loss", "target_interval", "general_change", "inside"}


def test_of_many_rows_some_are_measured_and_that_is_said(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses that are known already are those of the same rows."""
    monkeypatch.setattr("luthier.stages.strength.MOST_ROWS", 5)
    adapter, val = full_adapter(model), rows()
    base, full = (row_losses(model, val, adapter=one, micro_batch_tokens=64) for one in (None, adapter))
    alone = [row_losses(model, [row], adapter=adapter, micro_batch_tokens=64).nll[0] for row in val]
    chosen = choose_strength(model, adapter, val, Watch(0.05), base=base, full=full, step=7, seed=0,
                             micro_batch_tokens=64)  # fmt: skip
    assert "Measured on 5 of the 9 held-out rows" in chosen.text
    sums = [sum(some) / (5 * 6) for some in itertools.combinations(alone, 5)]
    assert any(chosen.points[-1].target_loss == pytest.approx(one) for one in sums)
    assert chosen.points[-1].target_loss != pytest.approx(full.mean)


def test_after_an_earlier_stage_strength_0_is_that_stage(model: Any) -> None:
    adapter = full_adapter(model)
    start = adapter.flat.clone()
    origin = torch.randn(len(start), generator=torch.Generator().manual_seed(3))
    scale_adapter(adapter, start, 0.25, origin)
    assert torch.equal(adapter.flat, torch.lerp(origin, start, 0.25))
    scale_adapter(adapter, start, 1.0, origin)
    assert torch.equal(adapter.flat, start)
