"""What the terminal says of a run's decisions: one line each, and none for what needs none."""

from typing import Any

import pytest

from luthier.cli import progress, runs
from luthier.evaluate.decision_words import decision_line, rate_text
from luthier.evaluate.run_parts import Decision, StageLine

SKIPPED = {
    "event": "skipped", "step": 31, "reason": "the loss is far above what it was", "loss": 8.125, "grad_norm": 40.0,
    "limit": 3.0, "wheres": ["a:1", "a:2"],
}  # fmt: skip
LINES: list[tuple[dict[str, Any], str]] = [
    (
        SKIPPED,
        "step 31: skipped, the loss is far above what it was (loss 8.12, gradient norm 40, limit 3); 2 records: a:1, "
        "a:2",
    ),
    (
        {
            "event": "rewind",
            "step": 35,
            "to_step": 20,
            "next_step": 40,
            "reason": "the loss is rising",
            "rate_scale": 0.5,
        },
        "step 35: went back to step 20, since the loss is rising; on after step 40, past the rows between, at 0.5 of "
        "the learning rate",
    ),
    ({"event": "unpaused", "step": 9, "seconds": 75}, "step 9: there is room on the disk again after 1 min 15 s"),
    ({"event": "range_test", "chosen": 4.2e-4, "why": "it falls fastest"}, "learning rate 4.2e-4: it falls fastest"),
    ({"event": "range_test", "why": "nothing falls"}, "no learning rate found: nothing falls"),
    ({"event": "stage", "name": "b", "number": 2, "of": 3, "parent": "a"}, "stage 2 of 3: b, from stage a on"),
    ({"event": "stage", "name": "a", "number": 1, "of": 3, "parent": ""}, "stage 1 of 3: a, from the base on"),
    ({"event": "overfit", "step": 40, "text": "Perhaps."}, "step 40: Perhaps."),
    ({"event": "advice", "text": "a larger batch"}, "a larger batch"),
    ({"event": "diverged", "step": 9, "reason": "r", "text": ""}, "step 9: r"),
    ({"event": "gate", "stage": "a", "text": "stage a passed"}, "stage a passed"),
    ({"event": "forgetting", "step": 0, "verdict": "base", "text": "the base"}, ""),
    ({"event": "outcome", "text": ""}, ""),
    ({"event": "step", "step": 3, "loss": 2.0}, ""),
    ({"event": "from the future", "text": "x"}, ""),
]


@pytest.mark.parametrize(("event", "line"), LINES)
def test_a_line_for_each_decision(event: dict[str, Any], line: str) -> None:
    assert decision_line(event).replace("\u00a0", " ") == line


def test_rates_are_written_as_in_a_recipe() -> None:
    assert [rate_text(rate) for rate in (3e-4, 4.25e-4, 0.01, 0.25)] == ["3e-4", "4.2e-4", "0.01", "0.25"]


def test_the_terminal_tells_decisions_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.RunProgress() as shown:
        shown.listen({"event": "start", "total_steps": 50})
        shown.listen(
            {"event": "validation", "step": 0, "loss": 2.5, "label_tokens": 9, "best": False, "probe_loss": 2.25}
        )
        shown.listen({**SKIPPED, "wheres": ["[bold]a:1"]})
        shown.listen({"event": "gate", "stage": "a", "passed": False, "text": "stage a did not pass"})
        shown.listen({"event": "validation", "step": 5, "loss": float("nan"), "label_tokens": 0, "best": False})
        shown.listen({"event": "resume", "stage": "two"})
        shown.listen({"event": "interrupted", "stage": "two"})
        shown.listen({"event": "interrupted", "step": 7})
        shown.listen({"event": "from the future"})
    out, err = capsys.readouterr()
    assert "before training: held-out loss 2.5000, training rows 2.2500" in out and "nan" not in out
    assert "guard step 31: skipped" in err and "[bold]a:1" in err and "gate stage a did not pass" in err
    assert "Going on with stage two." in out and "stopped in stage two" in out and "stopped after step 7" in out


class Summary:
    """What `luthier runs` asks of a summary."""

    def __init__(self, *decisions: dict[str, Any]) -> None:
        self.decisions = [Decision(event["event"], event.get("step"), event) for event in decisions]
        self.stages = (StageLine(1, "a", passed=True), StageLine(2, "b"))
        self.steps, self.steps_done, self.total_steps = (), 0, 60


def test_runs_show_has_the_same_lines_without_validations_that_found_nothing() -> None:
    kept = {"event": "forgetting", "step": 9, "verdict": "kept", "text": "kept: +0.01"}
    stage = {"event": "stage", "name": "a", "number": 1}
    run: Any = Summary(kept, SKIPPED, stage, {**kept, "verdict": "too much", "text": "too much: +0.20"})
    assert runs._decisions(run) == [decision_line(SKIPPED), "step 9: too much: +0.20"]
    assert runs._steps(run) == "1/2 stages"


def test_without_a_terminal_long_work_has_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.RunProgress()
    for done in range(1, 41):
        now[0] += 1
        shown.say("validation", done, 40)
    lines = [f"validation: {done} of 40" for done in (16, 32)]
    assert capsys.readouterr().out.splitlines() == lines


def test_a_run_that_goes_on_knows_how_long_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.RunProgress()
    shown.listen({"event": "resume", "step": 11, "total_steps": 12})
    shown.listen({"event": "step", "step": 12, "loss": 2.0, "tokens_per_second": 100.0, "seconds": 3.0})
    assert "step 12/12" in capsys.readouterr().out
