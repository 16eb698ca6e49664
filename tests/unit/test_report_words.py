"""The sentences of the report: each state of the numbers has its own words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthier.core.readable import compact, decimal, duration, losses, percent, size
from luthier.evaluate.interval import Comparison, verdict
from luthier.evaluate.report_words import change_text, judge, sample_size
from luthier.evaluate.summary import RunSummary, Validation, read_summary

BASE = Comparison(
    300, 20, 9000, 2.0, 1.8, 10.0, (8.0, 12.0), (0.16, 0.24), "bootstrap over 20 groups", "clearly better"
)


def _comparison(change: float, interval: tuple[float, float] | None, **fields: Any) -> Comparison:
    return replace(BASE, change_percent=change, interval=interval, verdict=verdict(interval), **fields)


@pytest.fixture
def run(tmp_path: Path) -> RunSummary:
    """A finished run with flat losses of 1.8."""
    steps = [{"event": "step", "step": n, "loss": 1.8} for n in range(1, 61)]
    events = [{"event": "start", "total_steps": 60}, *steps, {"event": "end", "status": "finished"}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return read_summary(tmp_path)


def _course(run: RunSummary, *losses: float, **fields: Any) -> str:
    """The remarks on a run that was validated every 20 steps, first at step 0."""
    points = tuple(Validation(20 * index, loss) for index, loss in enumerate(losses))
    best = min(points[1:], key=lambda point: point.loss).step
    judged = judge(replace(run, validations=points, best_step=best, heldout=BASE, **fields))
    return " ".join(f"[{remark.tone}] {remark.text}" for remark in judged.remarks).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("change", "interval", "text"),
    [
        (21.2, (18.9, 23.4), "21.2 % lower, 95 % interval 18.9–23.4 %"),
        (-3.2, (-5.4, -1.0), "3.2 % higher, 95 % interval 1.0–5.4 %"),
        (0.4, (-1.1, 1.9), "0.4 % lower, 95 % interval from 1.1 % higher to 1.9 % lower"),
        (0.0, (0.0, 0.0), "unchanged, 95 % interval from unchanged to unchanged"),
        (0.3, (0.02, 0.5), "0.30 % lower, 95 % interval 0.02–0.50 %"),  # never "0.0–0.5 %, clearly better"
        (-0.001, (-0.9, 0.9), "under 0.1 % higher, 95 % interval from 0.9 % higher to 0.9 % lower"),
        (12.0, None, "12.0 % lower, no interval"),
    ],
)
def test_change_text(change: float, interval: tuple[float, float] | None, text: str) -> None:
    assert change_text(_comparison(change, interval)).replace("\u00a0", " ") == text


def test_groups_are_told_only_where_there_are_some() -> None:
    assert sample_size(BASE).replace("\u00a0", " ") == "n = 300 records in 20 groups"
    assert sample_size(replace(BASE, groups=300)).replace("\u00a0", " ") == "n = 300 records"


@pytest.mark.parametrize(
    ("comparison", "tone", "words", "belief"),
    [
        (BASE, "good", "Clearly better", "Yes: these records took no part in training"),
        (replace(BASE, groups=3), "good", "Clearly better", "a strong hint, not as proof"),
        (_comparison(-5, (-8.0, -2.0)), "bad", "Clearly worse", "Do not use this adapter"),
        (_comparison(1, (-2.0, 4.0)), "flat", "No measurable difference", "nothing to believe yet"),
        (_comparison(9, None, rows=3, groups=3), "flat", "Too few records to tell", "may be chance"),
    ],
)
def test_verdicts(run: RunSummary, comparison: Comparison, tone: str, words: str, belief: str) -> None:
    judged = judge(replace(run, heldout=comparison))
    assert (judged.tone, judged.words) == (tone, words) and belief in judged.belief


def test_the_course_of_the_validation_loss(run: RunSummary) -> None:
    falling = "[note] The last validation was the best, and still falling (5.3 % since step 40)"
    assert f"{falling}: training longer may help." in _course(run, 2.5, 2.2, 1.9, 1.8)
    assert f"{falling}." in _course(replace(run, status="not accepted"), 2.5, 2.2, 1.9, 1.8)
    assert "[good] The last validation was the best and had levelled off" in _course(run, 2.5, 1.81, 1.805)
    assert "[care] The validation loss was lowest at step 20 and rose 11.1 % by step 60" in _course(
        run, 2.5, 1.8, 1.9, 2.0
    )
    assert "[good] The validation loss was lowest at step 40 and stayed level" in _course(run, 2.5, 1.9, 1.8, 1.801)
    assert "[bad] No validation was better than the base model" in _course(run, 1.7, 1.9, 1.8)
    assert "[note] There was one validation only" in _course(run, 2.5, 1.9)


def test_an_earlier_adapter_is_named_and_its_choice_admitted(run: RunSummary) -> None:
    assert "is that of step 20. It was picked by these same records" in _course(run, 2.5, 1.8, 1.9, heldout_step=20)
    assert "picked by these same records" not in _course(run, 2.5, 1.8, 1.9, heldout_step=40)


def test_the_gap_between_training_and_validation(run: RunSummary) -> None:
    assert "[good] Training loss 1.80 at the end, validation loss 1.90: the gap of 5.3 %" in _course(run, 2.5, 1.9)
    assert "[care] Training loss 1.80 at the end, validation loss 3.00, a gap of 40.0 %" in _course(run, 3.5, 3.0)
    assert "the held-out records are the easier ones" in _course(run, 2.5, 1.5)


def test_where_the_records_came_from(run: RunSummary) -> None:
    assert "Whole groups were held out" in _course(run, 2.5, 1.8)
    recipe = {"val_datasets": [{"path": "v"}]}
    assert "[good] The held-out records come from val_datasets" in _course(run, 2.5, 1.8, recipe=recipe)
    assert "[care] allow_leaks is set" in _course(run, 2.5, 1.8, recipe=recipe | {"allow_leaks": True})


def test_a_comparison_in_an_unfinished_run_is_a_caution(run: RunSummary) -> None:
    assert "[care] The run is not complete: it is running at step 60 of 60." in _course(run, 2.5, 1.8, status="running")


def test_numbers() -> None:
    plain = [text.replace("\u00a0", " ") for text in (percent(-0.04), percent(21.25, 2), size(3 * 2**30), size(12))]
    assert plain == ["0.0 %", "21.25 %", "3.0 GiB", "12 B"]
    assert decimal(-1234.56, 1) == "−1,234.6"
    assert losses(2.31, 1.82) == ("2.31", "1.82") and losses(1.8201, 1.8204) == ("1.8201", "1.8204")
    assert losses(1.0, 1.0) == ("1.00", "1.00")
    assert [compact(x).replace("\u00a0", " ") for x in (9999, 1_234_567, 134_515_008)] == ["9,999", "1.23 M", "135 M"]
    times = [duration(seconds).replace("\u00a0", " ") for seconds in (12.4, 402, 600, 3599, 4356, 3 * 86400)]
    assert times == ["12 s", "6 min 42 s", "10 min", "1 h 0 min", "1 h 13 min", "3 d 0 h"]
