"""Explosions given to whole runs: what is skipped, what is rewound, what ends a run, and what a crash in it changes.

The numbers F… are those of the fault matrix. F7 (a loss scaler overflows) cannot happen, as nothing is in fp16; nor can
F25 (an asynchronous writer fails), as a checkpoint is on the disk before the next step begins.
"""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers_fit import Rig, holds, infinite_gradient, make_rows, make_taught, same_bits
from helpers_models import decoder_of, make_twin
from luthier.data.render import Row
from luthier.models.decoder import Decoder
from luthier.train import checkpoint
from luthier.train.guards import MAX_REWINDS
from luthier.train.keeper import Keeper
from luthier.train.loop import REWARM, Judged, NotFinite
from luthier.train.progress import Progress


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tmp_path_factory.mktemp("model")
    make_twin(folder, "llama", num_hidden_layers=1, hidden_size=32, num_attention_heads=4, intermediate_size=32)
    return decoder_of(folder)


def not_a_number(values: Tensor) -> Tensor:
    return values * torch.nan


def spoil(rig: Rig, steps: list[int], how: Callable[[Tensor], Tensor]) -> list[Row]:
    """Make the first row of each of these steps do something to the whole microstep; returns these rows."""
    bad = [rig.rows_of_step(step)[0] for step in steps]
    rig.change = lambda tokens, logprobs: how(logprobs) if holds(tokens, bad) else logprobs
    return bad


def saved_weights(run_dir: Path) -> list[Tensor]:
    files = run_dir.glob("checkpoints/*/*.safetensors")
    return [tensor for file in files for tensor in load_file(file).values()]


def watch_bits(rig: Rig) -> dict[tuple[str, int], list[Tensor]]:
    """Weights and moments at each step and skip, by event and step."""
    seen: dict[tuple[str, int], list[Tensor]] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["event"] in ("step", "skipped"):
            seen[event["event"], event["step"]] = rig.bits()

    rig.listen = listen
    return seen


@pytest.mark.parametrize("how", [not_a_number, lambda values: values * torch.inf, infinite_gradient])
def test_f1_f2_one_bad_microstep_is_skipped_and_nothing_moves(
    decoder: Decoder, tmp_path: Path, how: Callable[[Tensor], Tensor]
) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=8)
    (bad,) = spoil(rig, [5], how)
    seen = watch_bits(rig)
    assert rig.run() == "finished"
    assert same_bits(seen["step", 4], seen["skipped", 5])
    assert (rig.progress.step, rig.progress.updates) == (8, 7)
    assert [event["step"] for event in rig.named("step")] == [1, 2, 3, 4, 6, 7, 8]
    (skipped,) = rig.named("skipped")
    (number,) = skipped["microsteps"]
    together = [rig.rows[index] for index in rig.plan()[4][1][number]]
    assert bad in together and len(together) == 2
    assert sorted(skipped["records"]) == sorted(row.record_id for row in together)
    assert sorted(skipped["wheres"]) == sorted(row.where for row in together)
    assert skipped["tensors"] and set(skipped["tensors"]) <= rig.adapter.named().keys()
    assert skipped["count_in_window"] == 1
    assert ("gradient" in skipped["reason"]) == (how is infinite_gradient)

    without = Rig(decoder, tmp_path / "without", steps=8, without=(5,))
    assert without.run() == "finished"
    assert same_bits(rig.bits(), without.bits()), "the step left something behind"
    assert rig.progress.guard["losses"] == without.progress.guard["losses"]


def test_f2_one_infinite_element_is_found_by_name(decoder: Decoder, tmp_path: Path) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=6)
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(rig.progress.step)
        if asked[-1] == 3 and asked.count(3) == 2:  # between the two microsteps of step 4
            dict(rig.adapter.layers[0])["down"].a.grad[1, 2] = torch.inf
        return False

    rig.should_stop = should_stop
    seen = watch_bits(rig)
    assert rig.run() == "finished"
    assert same_bits(seen["step", 3], seen["skipped", 4])
    (skipped,) = rig.named("skipped")
    assert skipped["tensors"] == ["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"]
    assert np.isfinite(skipped["loss"]) and skipped["grad_norm"] == np.inf


def test_f3_four_of_a_hundred_rewind_once(decoder: Decoder, tmp_path: Path) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=32)
    bad = spoil(rig, [8, 12, 17, 23], not_a_number)
    assert rig.run() == "finished"
    (rewind,) = rig.named("rewind")
    assert [event["step"] for event in rig.named("skipped")] == [8, 12, 17, 23]
    assert (rewind["step"], rewind["to_step"], rewind["next_step"]) == (23, 20, 24)
    assert {row.record_id for row in bad} <= set(rewind["records"])
    after = [event for event in rig.named("step") if event["step"] > 23]
    assert [event["step"] for event in after] == list(range(25, 33))
    for event in after:
        assert event["learning_rate"] == pytest.approx(1e-2 * 0.5 * (event["step"] - 24) / REWARM)
    assert after[0]["updates"] == 20 - 3 + 1
    assert (rig.progress.rate_scale, rig.progress.warm_from) == (0.5, 24)


def test_f4_nothing_but_nan_ends_as_diverged(decoder: Decoder, tmp_path: Path) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=200, eval_steps=3, evaluate=lambda progress: Judged(5.0, 1))
    rig.change = lambda tokens, logprobs: logprobs * (torch.nan if rig.progress.step >= 10 else 1)
    at_five: list[list[Tensor]] = []
    rig.listen = lambda event: at_five.append(rig.bits()) if event["event"] == "step" and event["step"] == 9 else None
    assert rig.run() == "diverged"
    assert len(rig.named("rewind")) == MAX_REWINDS
    (diverged,) = rig.named("diverged")
    assert diverged["to_step"] == 9
    assert same_bits(rig.bits(), at_five[0]), "the adapter is not that of a good checkpoint"
    assert rig.progress.best_step == 3
    assert (tmp_path / "run/checkpoints/step-000003/manifest.json").is_file()
    assert all(tensor.isfinite().all() for tensor in saved_weights(tmp_path / "run"))
    assert diverged["records"] and diverged["records"][0] in diverged["text"] and "fp32" in diverged["text"]
    assert rig.run() == "diverged", "a second try ends otherwise"


def test_f5_a_rate_a_thousand_times_too_high_is_seen_soon(tmp_path: Path) -> None:
    decoder = make_taught(tmp_path / "model", steps=40)
    rig = Rig(decoder, tmp_path / "run", steps=50, rows=make_rows(160, known=9), rows_a_step=8, micro_rows=8)
    rig.start = {"learning_rate": 10.0}
    assert rig.run() == "diverged"
    losses = [event["loss"] for event in rig.named("step", "skipped")]
    ema = lowest = losses[0]
    too_high = None
    for number, loss in enumerate(losses, 1):
        ema = 0.9 * ema + 0.1 * loss
        lowest = min(lowest, ema)
        if too_high is None and ema > 1.3 * lowest:
            too_high = number
    assert too_high is not None, "the rate was harmless"
    assert rig.named("rewind")[0]["step"] <= too_high + 10
    (diverged,) = rig.named("diverged")
    assert "learning_rate of 1 (it was 10)" in diverged["text"]
    assert len(rig.named("rewind")) <= MAX_REWINDS
    assert not rig.adapter.named()["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"].any(), "not the start"


def test_f6_an_early_spike_does_not_hide_a_later_one(decoder: Decoder, tmp_path: Path) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=38, save_steps=50)
    steep = spoil(rig, [7, 37], lambda values: values + 300 * (values - values.detach()))
    assert rig.run() == "finished"
    assert [event["step"] for event in rig.named("skipped")] == [7, 37]
    for event, row in zip(rig.named("skipped"), steep, strict=True):
        assert event["grad_norm"] > event["limit"] == event["norm_limit"]
        assert row.record_id in event["records"]
    assert not rig.named("rewind", "warning")


def test_f6_what_keeps_coming_among_usual_steps_is_taken_and_told(decoder: Decoder, tmp_path: Path) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=40, save_steps=50)
    spoil(rig, [14, 21, 28, 35], lambda values: values + 300 * (values - values.detach()))
    assert rig.run() == "finished"
    assert [event["step"] for event in rig.named("skipped")] == [14, 21, 28]
    (warning,) = rig.named("warning")
    assert warning["text"].startswith("step 35 is taken: ") and "they are the data's" in warning["text"]
    assert 35 in [event["step"] for event in rig.named("step")] and not rig.named("rewind")


def test_f8_a_step_without_labels_is_skipped_and_counted(decoder: Decoder, tmp_path: Path) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=6)
    blank = {row.record_id for row in rig.rows_of_step(3)} | {rig.rows_of_step(5)[0].record_id}
    rig.rows = [replace(row, mask=row.mask & (row.record_id not in blank)) for row in rig.rows]
    seen = watch_bits(rig)
    assert rig.run() == "finished"
    (skipped,) = rig.named("skipped")
    assert skipped["step"] == 3 and "trained on" in skipped["reason"]
    assert set(skipped["records"]) == {row.record_id for row in rig.rows_of_step(3)}
    assert same_bits(seen["step", 2], seen["skipped", 3])
    assert {event["step"]: event["label_tokens"] for event in rig.named("step")} == {1: 36, 2: 36, 4: 36, 5: 27, 6: 36}
    assert rig.progress.guard["skips"] == []


def test_weights_that_are_not_finite_are_never_saved(decoder: Decoder, tmp_path: Path) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=20)

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 10:
            rig.adapter.flat[7] = torch.nan

    rig.listen = listen
    assert rig.run() == "finished"
    (rewind,) = rig.named("rewind")
    assert (rewind["step"], rewind["to_step"]) == (10, 5) and "weights" in rewind["reason"]
    assert all(tensor.isfinite().all() for tensor in saved_weights(tmp_path / "run"))


class Crash(BaseException):
    """The process dies."""


def broken_rig(decoder: Decoder, run_dir: Path) -> Rig:
    """A run that is rewound at step 16 and ends at step 26."""
    rig = Rig(decoder, run_dir, steps=26, save_steps=3)
    spoil(rig, [13, 14, 15, 16], not_a_number)
    return rig


@pytest.fixture(scope="module")
def straight(decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    rig = broken_rig(decoder, tmp_path_factory.mktemp("straight"))
    assert rig.run() == "finished"
    assert [(event["to_step"], event["next_step"]) for event in rig.named("rewind")] == [(9, 20)]
    return rig


def crash_at(rig: Rig, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    rewinding: list[bool] = []

    def listen(event: dict[str, Any]) -> None:
        rewinding.extend([True] * (event["event"] == "rewind"))
        if rewinding and event["event"] == where:
            raise Crash

    rig.listen = listen
    if where == "discard":
        monkeypatch.setattr(Keeper, "discard", lambda *_: (_ for _ in ()).throw(Crash()))


@pytest.mark.parametrize("where", ["rewind", "checkpoint", "discard"])
def test_a_crash_within_a_rewind_changes_nothing(
    decoder: Decoder, tmp_path: Path, straight: Rig, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    rig = broken_rig(decoder, tmp_path / "run")
    with monkeypatch.context() as patch:
        crash_at(rig, patch, where)
        with pytest.raises(Crash):
            rig.run()
    rig.listen = None
    assert rig.run() == "finished"
    assert same_bits(rig.bits(), straight.bits())
    worked = {"seconds": 0.0, "total_tokens": 0, "total_label_tokens": 0}  # the rewound steps were done twice
    assert replace(rig.progress, **worked) == replace(straight.progress, **worked)
    left = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (rig.run_dir, straight.run_dir)]
    assert left[0] == left[1]


def test_what_a_rewind_left_behind_is_not_gone_back_to(decoder: Decoder, tmp_path: Path) -> None:
    """The first rewind deletes the checkpoint of step 12; no usual step came after the landing at 20."""
    rig = Rig(decoder, tmp_path / "run", steps=60, save_steps=3)
    spoil(rig, [13, 14, 15, 16, 21, 22, 23, 24], not_a_number)
    assert rig.run() == "finished"
    assert [(event["to_step"], event["next_step"]) for event in rig.named("rewind")] == [(9, 20), (9, 36)]
    assert rig.progress.rate_scale == 0.25
    assert rig.progress.guard["void"] == [[9, 20], [9, 36]]


def test_a_plan_that_ends_within_the_gap_ends_the_run(decoder: Decoder, tmp_path: Path) -> None:
    judged: list[int] = []

    def evaluate(progress: Progress) -> Judged:
        judged.append(progress.step)
        return Judged(4.0, 10)

    rig = Rig(decoder, tmp_path / "run", steps=18, evaluate=evaluate)
    spoil(rig, [13, 14, 15, 16], not_a_number)
    assert rig.run() == "finished"
    assert (rig.progress.step, rig.progress.updates, judged) == (18, 10, [18])
    assert rig.named("validation")[0]["best"]
    again = replace(rig)
    assert again.run() == "finished" and judged == [18] and not again.named("step")


def test_a_full_disk_in_a_validation_waits_and_judges_once(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "TRY_SECONDS", 0)
    tries: list[int] = []

    def evaluate(progress: Progress) -> Judged:
        progress.watch["times"] = progress.watch.get("times", 0) + 1
        tries.append(progress.step)
        if len(tries) == 1:
            raise OSError(errno.ENOSPC, "no space")
        return Judged(3.0, 10)

    rig = Rig(decoder, tmp_path / "run", steps=4, evaluate=evaluate, eval_steps=2)
    assert rig.run() == "finished"
    assert tries == [2, 2, 4] and rig.progress.watch == {"times": 2}
    assert [event["event"] for event in rig.named("paused", "unpaused")] == ["paused", "unpaused"]
    assert [event["step"] for event in rig.named("validation")] == [2, 4]


def test_the_status_that_a_validation_gives_ends_the_run_for_good(decoder: Decoder, tmp_path: Path) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=9, eval_steps=3)
    rig.evaluate = lambda progress: Judged(3.0, 10, "overfitting" if progress.step == 6 else "", {"probe_loss": 1.0})
    assert rig.run() == "overfitting"
    assert rig.run() == "overfitting" and len(rig.named("step")) == 6
    assert [event["probe_loss"] for event in rig.named("validation")] == [1.0, 1.0]


def test_without_held_out_rows_a_watch_can_still_end_the_run(decoder: Decoder, tmp_path: Path) -> None:
    rig = Rig(decoder, tmp_path / "run", steps=4, eval_steps=2, recipe={"early_stopping_patience": 1})
    rig.evaluate = lambda progress: Judged(float("nan"), 0, "forgetting" if progress.step == 4 else "")
    assert rig.run() == "forgetting"
    assert not rig.named("validation") and rig.progress.best_loss is None


def test_general_rows_that_made_the_trouble_do_not_come_again(decoder: Decoder, tmp_path: Path) -> None:
    """The rewind passes them over, as it does the plan's rows; else each rewind would meet them again."""
    general = make_rows(60, seed=5, name="g")
    rig = Rig(decoder, tmp_path / "run", steps=44, replay_rows=general, start={"replay_share": 0.2})
    drawn: list[str] = []
    bad: list[Row] = []

    def spoiled(tokens: Tensor, logprobs: Tensor) -> Tensor:
        if 20 <= rig.progress.step < 24 and not rig.named("rewind"):
            here = [row for row in general if holds(tokens, [row])]
            bad.extend(row for row in here if row.record_id not in drawn)
            drawn.extend(row.record_id for row in here)
        return logprobs * torch.nan if bad and holds(tokens, bad) else logprobs

    rig.change = spoiled
    assert rig.run() == "finished"
    assert bad and len(rig.named("rewind")) == 1


def test_weights_that_give_no_loss_at_a_validation_are_gone_back_from(decoder: Decoder, tmp_path: Path) -> None:
    def evaluate(progress: Progress) -> Judged:
        if progress.step == 10 and not rig.named("rewind"):
            raise NotFinite("the validation loss of 3 of 9 rows is not finite at step 10")
        return Judged(2.0, 9)

    rig = Rig(decoder, tmp_path / "run", steps=30, eval_steps=5, evaluate=evaluate)
    assert rig.run() == "finished"
    (rewind,) = rig.named("rewind")
    assert rewind["step"] == 10 and rewind["to_step"] < 10
    assert any("not finite" in event["text"] for event in rig.named("warning"))


def test_a_stop_while_weights_are_broken_is_a_stop(decoder: Decoder, tmp_path: Path) -> None:
    """Nothing is saved, and the run goes on from the checkpoint before."""
    rig = Rig(decoder, tmp_path / "run", steps=12)
    stopped: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 7 and not stopped:
            rig.adapter.flat.fill_(torch.nan)
            stopped.append(7)

    rig.listen, rig.should_stop = listen, lambda: bool(stopped)
    assert rig.run() == "interrupted"
    assert all(tensor.isfinite().all() for tensor in saved_weights(rig.run_dir))
    rig.should_stop = lambda: False
    assert rig.run() == "finished"
