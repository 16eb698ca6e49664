"""The summary of a run folder: status, what a resume supersedes, and folders that lack or add things."""

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import RunError
from luthier.core.lock import RunLock
from luthier.evaluate.adapter_words import adapter_words
from luthier.evaluate.run_parts import Answer, General, RangeTest, StrengthPoint, Validation
from luthier.evaluate.summary import list_runs, read_summary
from luthier.recipe import Recipe

START = {
    "event": "start",
    "recipe": {"val_set_size": 0.1},
    "model": {"name": "tiny", "parameters": 1000},
    "adapter": {"r": 16, "parameters": 50},
    "total_steps": 4,
}


def _run(folder: Path, *events: dict[str, Any], first_minute: int = 0) -> Path:
    """A run folder whose events are a minute apart."""
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"time": f"2026-03-01T10:{first_minute + index:02}:00+00:00", **event})
        for index, event in enumerate(events)
    ]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _step(step: int, loss: float = 2.0, **fields: Any) -> dict[str, Any]:
    return {"event": "step", "step": step, "loss": loss, "total_tokens": 100 * step, **fields}


def _validation(step: int, loss: float) -> dict[str, Any]:
    return {"event": "validation", "step": step, "loss": loss}


def test_a_finished_run(tmp_path: Path) -> None:
    heldout = {"event": "heldout", "rows": 9, "groups": 9, "label_tokens": 90, "before": 2.0, "after": 1.5}
    heldout |= {"change_percent": 25.0, "interval": [20, 30], "loss_interval": [0.4, 0.6], "verdict": "clearly better"}
    run = read_summary(
        _run(
            tmp_path / "a",
            START,
            _validation(0, 2.0),
            _step(1, 2.4, tokens_per_second=10),
            _step(2, 2.2, tokens_per_second=30),
            _validation(2, 1.5),
            _step(3, 2.0, tokens_per_second=20),
            _step(4, 1.9, tokens_per_second=20),
            _validation(4, 1.6),
            {"event": "checkpoint", "step": 4, "path": "checkpoints/step-000004"},
            heldout,
            {"event": "end", "status": "finished", "step": 4, "best_step": 2, "peak_rss_bytes": 77},
        )
    )
    assert (run.name, run.status, run.model, run.adapter) == ("a", "finished", "tiny", "LoRA, rank 16")
    assert (run.steps_done, run.total_steps, run.best_step, run.checkpoint_step) == (4, 4, 2, 4)
    assert run.best_validation == Validation(2, 1.5) and run.train_loss == 1.9
    assert run.heldout is not None and run.heldout.interval == (20, 30) and run.heldout_step == 2
    assert (run.tokens_per_second, run.total_tokens, run.peak_rss_bytes, run.seconds) == (20, 400, 77, 600)
    assert run.peak_gpu_bytes is None and run.started is not None and run.started.hour == 10


def test_what_sets_an_adapter_apart_is_said(tmp_path: Path) -> None:
    recipe = {
        "adapter": "qlora", "lora_r": 16, "lora_targets": ["q_proj", "lm_head"], "dora": True, "rslora": True,
        "lora_dropout": 0.1, "adapter_dtype": "bf16", "optim": "adamw_8bit", "nf4_head": True,
        "gradient_checkpointing": True,
    }  # fmt: skip
    run = read_summary(_run(tmp_path / "a", {**START, "recipe": recipe}))
    assert run.adapter == (
        "QLoRA (base in 4 bits), rank 16 on q_proj, lm_head; DoRA, scaled by √r, dropout 0.1, weights in bf16, "
        "AdamW in 8 bits, head in 4 bits, layers run twice"
    )
    for field, usual in Recipe(base_model="m", datasets=["a"], output_dir="o").model_dump().items():
        assert adapter_words({"lora_r": 16, field: usual if field != "lora_r" else 16}) == "LoRA, rank 16", field


def test_a_resume_supersedes_what_came_after_its_step(tmp_path: Path) -> None:
    run = read_summary(
        _run(
            tmp_path / "a",
            START,
            {"event": "sample", "when": "before", "record_id": "r", "prompt": "p", "answer": "b", "expected": "e"},
            _step(1, 3.0),
            _step(2, 2.9),
            _validation(2, 2.9),
            _step(3, 0.1),
            _validation(3, 0.1),
            {"event": "interrupted", "step": 3},
            {"event": "end", "status": "interrupted", "step": 3},
            {"event": "resume", "step": 2},
            _step(3, 2.8),
            _validation(3, 2.8),
            _step(4, 2.7),
        )
    )
    assert [(step.step, step.loss) for step in run.steps] == [(1, 3.0), (2, 2.9), (3, 2.8), (4, 2.7)]
    assert run.validations == (Validation(2, 2.9), Validation(3, 2.8)) and run.best_step == 3
    assert run.resumed_at == (2,) and run.status == "crashed"  # the old end is not the resumed run's end
    assert run.samples[0].before == Answer("b", True) and run.samples[0].after is None
    assert run.seconds == (8 + 3) * 60  # the minute between end and resume is not work


def test_right_after_a_resume_nothing_stale_is_left(tmp_path: Path) -> None:
    sample = {"event": "sample", "record_id": "r", "prompt": "p", "answer": "a", "expected": "e"}
    heldout = {"event": "heldout", "before": 2.0, "after": 1.0}
    before, after = {**sample, "when": "before"}, {**sample, "when": "after"}
    events = [START, before, _step(1), _step(2), _validation(2, 1.0), heldout, after]
    run = read_summary(_run(tmp_path / "a", *events, {"event": "resume", "step": 1}))
    assert run.steps_done == 1 and run.validations == () and run.heldout is None and run.samples[0].after is None
    assert read_summary(_run(tmp_path / "b", *events)).samples[0].after == Answer("a", True)


def test_the_pause_before_a_resume_is_not_work_even_with_a_warning_in_it(tmp_path: Path) -> None:
    warning = {"event": "warning", "text": "damaged checkpoint", "time": "2026-03-05T10:00:00+00:00"}
    resume = {"event": "resume", "step": 1, "time": "2026-03-05T10:00:01+00:00"}
    run = read_summary(_run(tmp_path / "a", START, _step(1), warning, resume))
    assert run.seconds == 60 and run.warnings == ("damaged checkpoint",)


def test_steps_that_are_redone_without_a_resume_count_once(tmp_path: Path) -> None:
    run = read_summary(_run(tmp_path / "a", START, _step(1), _step(2), _step(3), _step(2, 1.0), _validation(0, 2)))
    assert [(step.step, step.loss) for step in run.steps] == [(1, 2.0), (2, 1.0)]


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([{"event": "end", "status": "early stop"}], "early stop"),
        ([{"event": "interrupted", "step": 1}], "interrupted"),
        ([{"event": "interrupted", "step": 1}, {"event": "resume", "step": 1}], "crashed"),
        ([], "crashed"),
    ],
)
def test_status(tmp_path: Path, events: list[dict[str, Any]], status: str) -> None:
    assert read_summary(_run(tmp_path / "a", START, _step(1), *events)).status == status


def test_a_locked_run_without_an_end_is_running(tmp_path: Path) -> None:
    run = _run(tmp_path / "a", START)
    with RunLock(run):
        assert read_summary(run).status == "running"
    assert read_summary(run).status == "crashed"


def test_missing_fields_and_unknown_events_are_no_error(tmp_path: Path) -> None:
    run = read_summary(
        _run(
            tmp_path / "a",
            {"event": "from the future", "step": "x"},
            {"event": "start", "model": "not an object", "total_steps": "many", "time": "no time"},
            {"event": "step", "step": 1, "loss": None, "learning_rate": "fast"},
            {"event": "step"},
            {"event": "validation", "step": 1},
            {"event": "heldout", "rows": 3},
            {"event": "sample", "answer": None},
            {"event": "warning"},
        )
    )
    assert run.steps_done == 1 and run.steps[0].loss is None and run.train_loss is None
    assert (run.model, run.adapter, run.total_steps, run.heldout, run.validations) == ("", "", None, None, ())


def test_a_folder_without_events_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        read_summary(tmp_path)


def test_list_runs_looks_one_and_two_levels_deep_and_sorts_by_age(tmp_path: Path) -> None:
    _run(tmp_path / "late", START, first_minute=30)
    _run(tmp_path / "group" / "early", START, first_minute=10)
    _run(tmp_path / "group" / "deep" / "too-deep", START)
    _run(tmp_path / ".hidden", START)
    (tmp_path / "empty").mkdir()
    assert [run.name for run in list_runs(tmp_path)] == ["early", "late"]
    assert [run.name for run in list_runs(tmp_path / "late")] == ["late"]
    assert list_runs(tmp_path / "nothing") == []


REWIND = {"event": "rewind", "step": 5, "to_step": 2, "next_step": 8, "reason": "r", "rate_scale": 0.5, "rewinds": 1}


def _skipped(step: int) -> dict[str, Any]:
    return {"event": "skipped", "step": step, "reason": "the loss is not finite", "loss": None, "wheres": ["a:1"]}


def test_what_a_rewind_took_back_does_not_stand_and_is_not_lost(tmp_path: Path) -> None:
    steps = [_step(n) for n in range(1, 5)]
    after = [_step(9, 1.5), _validation(9, 1.7)]
    before = [*steps[:2], _validation(2, 1.9), *steps[2:], _validation(4, 1.6), _skipped(5)]
    run = read_summary(_run(tmp_path / "a", START, *before, REWIND, *after))
    assert [step.step for step in run.steps] == [1, 2, 9] and [step.step for step in run.thrown] == [3, 4]
    assert run.validations == (Validation(2, 1.9), Validation(9, 1.7))
    assert run.thrown_validations == (Validation(4, 1.6),)
    assert run.best_step == 4 and run.best_validation == Validation(4, 1.6)  # its checkpoint is kept over a rewind
    assert [(one.kind, one.step) for one in run.decisions] == [("skipped", 5), ("rewind", 5)]


def test_a_resume_after_a_rewind_keeps_it_and_one_before_it_takes_it_back(tmp_path: Path) -> None:
    before = [START, *[_step(n) for n in range(1, 5)], _skipped(5), REWIND, _step(9), _skipped(10)]
    later = read_summary(_run(tmp_path / "a", *before, {"event": "resume", "step": 8}, _step(9)))
    assert [step.step for step in later.thrown] == [3, 4] and [one.kind for one in later.decisions] == [
        "skipped",
        "rewind",
    ]
    assert [step.step for step in later.steps] == [1, 2, 9]
    early = read_summary(_run(tmp_path / "b", *before, {"event": "resume", "step": 2}, _step(3)))
    assert early.thrown == () and early.decisions == () and [step.step for step in early.steps] == [1, 2, 3]


def test_the_probe_is_read_beside_validation(tmp_path: Path) -> None:
    run = read_summary(_run(tmp_path / "a", START, {**_validation(0, 2.0), "probe_loss": 1.9}, _validation(2, 1.8)))
    assert run.validations == (Validation(0, 2.0, 1.9), Validation(2, 1.8))


def test_decisions_of_a_start_that_is_made_again_are_there_once(tmp_path: Path) -> None:
    advice = {"event": "advice", "text": "larger batches"}
    run = read_summary(_run(tmp_path / "a", START, advice, _step(1), {"event": "resume", "step": 0}, advice))
    assert [one.fields["text"] for one in run.decisions] == ["larger batches"]


def test_forgetting_strength_and_range_test(tmp_path: Path) -> None:
    base = {"event": "forgetting", "step": 0, "n": 9, "change": None, "verdict": "base", "text": "the base"}
    seen = {**base, "step": 5, "change": 0.1, "interval": [0.05, 0.15], "budget": 0.08, "verdict": "too much"}
    point = {"strength": 0.5, "target_change": -0.3, "target_interval": [-0.4, -0.2], "general_change": 0.02}
    strength = {"event": "strength", "points": [{**point, "general_interval": None, "inside": True}, {"strength": 1}]}
    rates = {
        "event": "range_test",
        "rates": [1e-5, 1e-4],
        "losses": [2, 1],
        "smoothed": [2, 1],
        "chosen": 5e-5,
        "why": "w",
    }
    events = [START, rates, base, _step(5), seen, {**strength, "chosen": 0.5, "accepted": True, "text": "t"}]
    run = read_summary(_run(tmp_path / "a", *events))
    assert run.general == (General(5, 0.1, (0.05, 0.15), 9, 0.08, "too much"),)
    assert run.strength is not None and (run.strength.chosen, run.strength.accepted) == (0.5, True)
    assert run.strength.points == (StrengthPoint(0.5, -0.3, (-0.4, -0.2), 0.02, None, True),)
    assert run.range_test == RangeTest((1e-5, 1e-4), (2, 1), (2, 1), 5e-5, "w")
    again = read_summary(_run(tmp_path / "b", *events, {"event": "resume", "step": 4}))
    assert again.general == () and again.strength is None and again.range_test is not None


def test_stages_and_their_gates(tmp_path: Path) -> None:
    beside = {"rows": 9, "groups": 9, "label_tokens": 90, "before": 2.0, "after": 1.5, "change_percent": 25.0}
    run = read_summary(
        _run(
            tmp_path / "a",
            {**START, "stages": ["one", "two"]},
            {"event": "stage", "name": "one", "number": 1, "of": 2, "parent": "", "path": "stages/01-one"},
            {"event": "gate", "stage": "one", "passed": True, "text": "fine", "status": "finished", "base": beside},
            {"event": "stage", "name": "two", "number": 2, "of": 2, "parent": "one", "path": "stages/02-two"},
            {"event": "end", "status": "interrupted", "stage": "two"},
        )
    )
    one, two = run.stages
    assert (one.passed, one.text, one.status) == (True, "fine", "finished") and one.base is not None
    assert (two.parent, two.passed, two.before) == ("one", None, None) and run.status == "interrupted"


@pytest.mark.parametrize("status", ["overfitting", "forgetting", "diverged", "not accepted"])
def test_new_ends_and_what_was_published(tmp_path: Path, status: str) -> None:
    outcome = {"event": "outcome", "status": status, "folder": "rejected", "text": "why", "step": 2, "strength": 1.0}
    run = read_summary(_run(tmp_path / "a", START, _step(1), outcome, {"event": "end", "status": status}))
    assert (run.status, run.published, run.heldout_step) == (status, "rejected", 2)


def test_damaged_decisions_are_no_error(tmp_path: Path) -> None:
    broken = [
        {"event": name} for name in ("skipped", "rewind", "overfit", "forgetting", "strength", "range_test", "gate")
    ]
    odd = [
        {"event": "rewind", "step": "x", "to_step": None},
        {"event": "range_test", "rates": [1, "b"], "losses": 3},
        {"event": "strength", "points": [None, 3, {"strength": 1}]},
        {"event": "stage", "number": "first"},
        {"event": "skipped", "step": 3, "wheres": 7},
    ]
    run = read_summary(_run(tmp_path / "a", START, *broken, *odd, _step(1)))
    assert run.range_test is None and run.strength is not None and run.strength.points == () and run.stages == ()
