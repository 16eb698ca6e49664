"""Validations of a run: what is measured and kept, lost files, an interruption, and losses that are no numbers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers_models import make_twin
from luthier.core.errors import Interrupted, RunError
from luthier.data.render import Row
from luthier.evaluate.losses import row_losses
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.models.weights import load_decoder
from luthier.recipe import Recipe
from luthier.stages.validate import Validator, choose_probe, losses_file, try_longest
from luthier.train.progress import Progress
from luthier.train.settings import Settings

STEPS = [(0, [[0, 1], [2, 3, 4]]), (0, [[5], [6, 7]])]


def rows(number: int, *, seed: int, longest: int = 12) -> list[Row]:
    """Random rows of 6 to `longest` tokens, the second half of each trained."""
    rng, made = np.random.default_rng(seed), []
    for index in range(number):
        length = int(rng.integers(6, longest + 1))
        ids = rng.integers(0, 90, length).astype(np.int32)
        made.append(Row(ids, np.arange(length) >= length // 2, f"{seed}-{index}", f"{seed}-{index}", f"f:{index + 1}"))
    return made


class Run:
    """A tiny model with a validator, and what it said."""

    def __init__(self, folder: Path, decoder: Decoder, **fields: Any) -> None:
        self.decoder, self.run_dir = decoder, folder / "run"
        self.adapter = Adapter(decoder.spec, 2, 4, dropout=0.5, seed=1)
        self.train, self.val = rows(20, seed=1), rows(10, seed=2)
        self.said: list[dict[str, Any]] = []
        self.progress = Progress()
        self.recipe = Recipe(base_model="m", datasets=["d"], output_dir=str(self.run_dir), **fields)

    def validator(self, **more: Any) -> Validator:
        settings = Settings(
            batch_tokens=64, micro_batch_tokens=32, learning_rate=1e-3, eval_steps=10, save_steps=10, steps=STEPS,
            notes=[],
        )  # fmt: skip
        return Validator(
            self.decoder, self.adapter, self.train, self.val,
            recipe=self.recipe, settings=settings, run_dir=self.run_dir, emit=self.emit, **more,
        )  # fmt: skip

    def emit(self, event: str, **fields: Any) -> None:
        self.said.append({"event": event, **fields})

    def shift(self, size: float) -> None:
        """Other weights of the adapter, so that the losses change."""
        with torch.no_grad():
            self.adapter.flat.normal_(0, size, generator=torch.Generator().manual_seed(3))

    def names(self) -> list[str]:
        return [event["event"] for event in self.said]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tmp_path_factory.mktemp("model")
    make_twin(folder, "llama")
    return load_decoder(folder, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def run(tmp_path: Path, decoder: Decoder) -> Run:
    return Run(tmp_path, decoder)


def test_both_sets_are_measured_without_dropout_and_kept_row_by_row(run: Run) -> None:
    run.shift(0.3)
    run.progress.step = 10
    judged = run.validator()(run.progress)
    expected = row_losses(
        run.decoder, run.val, adapter=run.adapter, micro_batch_tokens=500
    )  # dropout is 0.5 in training
    assert judged.loss == pytest.approx(expected.mean) and judged.label_tokens == expected.tokens.sum()
    kept = json.loads(losses_file(run.run_dir, 10).read_text())
    assert kept["nll"] == pytest.approx(expected.nll.tolist()) and kept["tokens"] == expected.tokens.tolist()
    probe = choose_probe(run.train, 10, seed=0)
    inside = row_losses(run.decoder, probe, adapter=run.adapter, micro_batch_tokens=500)
    assert kept["probe_nll"] == pytest.approx(inside.nll.tolist()) and judged.more["probe_loss"] == inside.mean
    assert judged.more["probe_rows"] == judged.more["rows"] == 10 and judged.stop == ""
    assert run.progress.watch["validated"] == 10


def test_the_probe_is_a_fixed_sample_of_the_training_rows() -> None:
    train = rows(50, seed=1)
    chosen = choose_probe(train, 10, seed=0)
    assert len(chosen) == 10 and all(any(row is one for one in train) for row in chosen)
    assert choose_probe(train[::-1], 10, seed=0) == chosen  # whatever the order
    more = choose_probe([*train, *rows(5, seed=3)], 10, seed=0)
    assert sum(any(row is one for one in chosen) for row in more) >= 7  # new rows move it little
    assert [row.record_id for row in choose_probe(train, 10, seed=1)] != [row.record_id for row in chosen]
    assert len(choose_probe(train[:3], 10, seed=0)) == 3


def test_before_the_first_step(run: Run) -> None:
    weights = run.adapter.flat.clone()
    run.validator().before(run.progress)
    assert torch.equal(run.adapter.flat, weights) and not run.adapter.grad.any()
    (event,) = (event for event in run.said if event["event"] == "validation")
    assert event["step"] == 0 and event["best"] is False and event["probe_loss"] > 0
    base = row_losses(run.decoder, run.val, adapter=None, micro_batch_tokens=500)
    assert event["loss"] == pytest.approx(base.mean) and losses_file(run.run_dir, 0).is_file()
    assert run.progress.watch["overfit"]["course"][0][0] == 0


def test_a_later_stage_begins_with_its_adapter(run: Run) -> None:
    run.shift(0.3)
    run.validator().before(run.progress, under=run.adapter)
    start = row_losses(run.decoder, run.val, adapter=run.adapter, micro_batch_tokens=500)
    assert run.said[-1]["loss"] == pytest.approx(start.mean)


def test_the_longest_microstep_runs_and_too_little_memory_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = run.decoder.logprobs

    def logprobs(tokens: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        seen.append(len(tokens))
        return whole(tokens, *args, **more)

    monkeypatch.setattr(run.decoder, "logprobs", logprobs)
    try_longest(run.decoder, run.adapter, run.train, STEPS)
    sizes = [sum(len(run.train[i].ids) for i in microstep) for _, step in STEPS for microstep in step]
    assert seen == [max(sizes)]
    replay = sorted(run.train, key=lambda row: len(row.ids))
    more = {"replay": replay, "micro_batch_tokens": max(sizes) + len(replay[0].ids)}
    try_longest(run.decoder, run.adapter, run.train, STEPS, **more)
    assert seen[1] == more["micro_batch_tokens"], "replay fills a microstep up"
    long = Row(np.tile(replay[0].ids, 40), np.tile(replay[0].mask, 40), "long", "long", "long")
    try_longest(run.decoder, run.adapter, run.train, STEPS, replay=[*replay, long], micro_batch_tokens=max(sizes))
    assert seen[2] == len(long.ids) > max(sizes), "or is longer alone"
    more = {"replay": [*replay, long], "micro_batch_tokens": len(long.ids) + len(replay[0].ids)}
    try_longest(run.decoder, run.adapter, run.train, STEPS, **more)
    assert seen[3] > len(long.ids), "and others come beside it"

    def none_left(*args: Any, **more: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(run.decoder, "logprobs", none_left)
    with pytest.raises(
        RunError, match=r"too little memory for the longest microstep, \d+ tokens.*\n.*micro_batch_tokens"
    ):
        run.validator().before(run.progress)
    assert run.said == []


def test_an_interruption_changes_nothing(run: Run) -> None:
    run.validator().before(run.progress)
    before, said = json.dumps(run.progress.watch), len(run.said)
    run.progress.step = 10
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run.validator(should_stop=lambda: next(asked))(run.progress)
    assert json.dumps(run.progress.watch) == before and len(run.said) == said
    assert not losses_file(run.run_dir, 10).exists()


def test_progress_is_said(run: Run) -> None:
    said: list[tuple[str, int, int]] = []
    run.validator(say=lambda *parts: said.append(parts)).before(run.progress)
    assert ("validation", 10, 10) in said and ("held-in probe", 10, 10) in said


@pytest.mark.parametrize("side", ["validation", "probe"])
def test_a_loss_that_is_not_finite_is_an_error_with_its_row(
    run: Run, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = row_losses

    def broken(decoder: Decoder, rows: list[Row], **more: Any) -> Any:
        found = whole(decoder, rows, **more)
        if (rows is run.val) == (side == "validation"):
            found.nll[2] = math.nan
        return found

    monkeypatch.setattr("luthier.stages.validate.row_losses", broken)
    run.progress.step = 10
    with pytest.raises(RunError, match=rf"the {side} loss of 1 of 10 rows is not finite at step 10 \(the first is f:"):
        run.validator()(run.progress)
    assert run.progress.watch == {}


def _damage_json(path: Path) -> None:
    path.write_text(path.read_text()[:50])


def _damage_rows(path: Path) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "tokens": value["tokens"][1:], "nll": value["nll"][1:]}))


def _damage_number(path: Path) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "nll": [None, *value["nll"][1:]]}))


def _damage_bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe" + path.read_bytes())


@pytest.mark.parametrize("damage", [Path.unlink, _damage_json, _damage_rows, _damage_number, _damage_bytes])
def test_lost_losses_are_measured_again_for_the_comparison(run: Run, damage: Callable[[Path], None]) -> None:
    run.validator().before(run.progress)
    run.shift(0.3)
    run.progress.step = 10
    run.validator()(run.progress)
    whole = run.validator().compare(10)
    for step in (0, 10):
        damage(losses_file(run.run_dir, step))
    again = run.validator().compare(10)
    assert again.before == pytest.approx(whole.before) and again.after == pytest.approx(whole.after)
    warned = [event["text"] for event in run.said if event["event"] == "warning"]
    assert len(warned) == 2 and all("are measured again: step-0000" in text for text in warned)
    with pytest.raises(RunError, match="before the training cannot be read"):
        run.validator().compare(10, start=run.adapter)


def test_lost_losses_of_the_best_are_told_and_the_watch_goes_on(run: Run) -> None:
    run.validator().before(run.progress)
    run.progress.step = 10
    run.validator()(run.progress)
    losses_file(run.run_dir, 0).unlink()
    losses_file(run.run_dir, 10).unlink()
    run.progress.step = 20
    run.validator()(run.progress)
    warned = [event["text"] for event in run.said if event["event"] == "warning"]
    assert any("step-000000.json is missing" in text for text in warned)
    assert run.progress.watch["overfit"]["best"] == 20


class Watch:
    """A watch on forgetting that asks for an end."""

    def at(
        self, progress: Progress, decoder: Decoder, adapter: Adapter, *, last: bool = False
    ) -> tuple[list[dict[str, Any]], str]:
        progress.replay_share = 0.2
        return [{"event": "forgetting", "step": progress.step, "text": "bad"}], "forgetting"


def test_the_watch_on_forgetting_is_asked_at_the_same_time(run: Run) -> None:
    run.progress.step = 10
    judged = run.validator(forgetting=Watch())(run.progress)
    assert judged.stop == "forgetting" and "forgetting" in run.names() and run.progress.replay_share == 0.2


def test_without_validation_rows_only_the_watch_on_forgetting_is_asked(run: Run) -> None:
    run.val = []
    validator = run.validator(forgetting=Watch())
    validator.before(run.progress)
    run.progress.step = 10
    judged = validator(run.progress)
    assert math.isnan(judged.loss) and judged.label_tokens == 0 and judged.stop == "forgetting"
    assert run.names() == ["forgetting"] and not (run.run_dir / "validation").exists()


def test_an_alarm_is_an_event_with_its_numbers_and_ends_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    level = {"val": 2.0, "probe": 2.0}

    def scripted(decoder: Decoder, rows: list[Row], **more: Any) -> Any:
        found = row_losses(decoder, rows, **more)
        found.nll[:] = level["val" if rows is run.val else "probe"] * found.tokens + 0.01 * np.arange(len(rows))
        return found

    monkeypatch.setattr("luthier.stages.validate.row_losses", scripted)
    run.validator().before(run.progress)
    stops = []
    for number in range(1, 7):
        level.update(val=2.0 + 0.1 * number, probe=2.0 - 0.2 * number)
        run.progress = Progress(**json.loads(json.dumps(vars(run.progress))))  # as a resumed run has it
        run.progress.step = 10 * number
        stops.append(run.validator()(run.progress).stop)
    assert stops == [""] * 4 + ["overfitting"] * 2
    first = next(event for event in run.said if event["event"] == "overfit")
    assert (first["times"], first["since"], first["best_step"], first["stop"]) == (1, 10, 0, False)
    assert first["val_change"] == pytest.approx(0.1) and first["probe_change"] == pytest.approx(-0.2)
    assert first["val_interval"][0] > 0 > first["probe_interval"][1] and first["val_rows"] == 10
    assert json.dumps(first, allow_nan=False)
