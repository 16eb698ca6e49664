"""What a report tells of a run that did not go as planned: its entries, verdicts, charts and stages."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from luthier.evaluate.report import write_report
from luthier.evaluate.report_happened import Happening, happenings
from luthier.evaluate.report_watch_charts import watch_charts
from luthier.evaluate.report_words import Verdict, judge
from luthier.evaluate.summary import RunSummary, read_summary

START = {"event": "start", "total_steps": 60, "model": {"name": "tiny"}, "adapter": {"r": 8}}
STEPS = [{"event": "step", "step": n, "epoch": n / 60, "loss": 2.0, "total_tokens": n} for n in range(1, 31)]
HELDOUT = {
    "event": "heldout", "rows": 300, "groups": 20, "label_tokens": 900, "before": 2.0, "after": 1.8,
    "change_percent": 10.0, "interval": [8.0, 12.0], "loss_interval": [0.16, 0.24], "verdict": "clearly better",
}  # fmt: skip


def _outcome(status: str, folder: str, text: str = "", step: int = 20) -> list[dict[str, Any]]:
    outcome = {"event": "outcome", "status": status, "folder": folder, "text": text, "step": step, "strength": 1.0}
    return [outcome, {"event": "end", "status": status}]


def _skipped(step: int, **fields: Any) -> dict[str, Any]:
    return {
        "event": "skipped",
        "step": step,
        "reason": "the loss is not finite",
        "loss": None,
        "grad_norm": None,
        **fields,
    }


def _validation(step: int, loss: float, probe: float) -> dict[str, Any]:
    return {"event": "validation", "step": step, "loss": loss, "probe_loss": probe, "label_tokens": 900}


def _overfit(step: int, times: int, since: int, text: str) -> dict[str, Any]:
    return {"event": "overfit", "step": step, "times": times, "since": since, "text": text}


@pytest.fixture
def told(tmp_path: Path) -> Any:
    """The summary of a run with these events after its start."""

    def made(*events: dict[str, Any]) -> RunSummary:
        (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in (START, *events)))
        return read_summary(tmp_path)

    return made


def _one(run: RunSummary) -> Happening:
    (only,) = happenings(run)
    return only


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_a_run_that_went_as_planned_has_nothing_to_tell(told: Any) -> None:
    assert happenings(told(*STEPS, HELDOUT, *_outcome("finished", "adapter"))) == []


def test_skipped_steps_are_told_together_with_their_records(told: Any) -> None:
    events = [_skipped(n, wheres=[f"a:{n}", "a:7"]) for n in (3, 4, 5)]
    spike = _skipped(9, reason="the loss is far above what it was", loss=8.125, limit=3.0, records=["id9"])
    entry = _one(told(*events, spike))
    assert entry.tone == "care" and _plain(entry.title) == "4 steps skipped"
    assert _plain(entry.text) == (
        "Steps 3, 4 and 5: the loss is not finite; 4 records: a:3, a:7, a:4 and more; step 9: the loss is far above "
        "what it was (loss 8.12, limit 3); 1 record: id9. No weight was changed by them."
    )
    assert "Look at the records" in entry.advice
    assert _one(told(_skipped(3))).advice == ""  # none are named


def test_many_skipped_steps_are_cut_and_counted(told: Any) -> None:
    text = _plain(_one(told(*[_skipped(n, reason=f"r{n % 2}") for n in range(20)])).text)
    assert "and 16 more steps." in text
    text = _plain(_one(told(*[_skipped(n) for n in range(20)])).text)
    assert text.startswith("Steps 0, 1, 2, 3, 4, 5 and 14 more: the loss is not finite.")


def test_rewinds_say_where_from_where_to_and_how(told: Any) -> None:
    rewind = {"event": "rewind", "to_step": 20, "next_step": 40, "reason": "the loss is rising", "rate_scale": 0.5}
    first, second = happenings(told({**rewind, "step": 30}, {**rewind, "step": 50}))
    assert first.text == (
        "The run went back to step 20, since the loss is rising; on after step 40, past the rows between, at 0.5 of "
        "the learning rate."
    )
    assert first.advice == "" and "lower learning_rate" in second.advice


def test_a_pause_is_told_with_its_end(told: Any) -> None:
    paused = {"event": "paused", "step": 9, "text": "the disk is full: 80 MB needed"}
    entry = _one(told(paused, {"event": "unpaused", "step": 9, "seconds": 75}))
    assert entry.tone == "note" and _plain(entry.text) == (
        "The disk is full: 80 MB needed; there is room on the disk again after 1 min 15 s."
    )
    assert _one(told(paused)).tone == "care"


def test_each_alarm_is_told_once_with_its_last_words(told: Any) -> None:
    suspicion = _overfit(10, 1, 10, "Perhaps.")
    alarm = [_overfit(20, 1, 20, "Perhaps."), _overfit(30, 2, 20, "It is."), _overfit(60, 5, 20, "Stopped.")]
    between = {"event": "forgetting", "step": 30, "verdict": "kept", "text": "kept"}  # of each validation between
    entries = happenings(told(suspicion, *alarm[:2], between, alarm[2]))
    assert [(entry.tone, entry.title, entry.text) for entry in entries] == [
        ("note", "A suspicion of overfitting, step 10", "Perhaps."),
        ("bad", "Overfitting, step 60", "Stopped."),
    ]


def test_forgetting_is_told_by_what_was_done_against_it(told: Any) -> None:
    kept = {"event": "forgetting", "step": 10, "verdict": "kept", "text": "kept: +0.01"}
    bad = {"event": "forgetting", "verdict": "too much", "text": "too much: +0.20 (n = 9)"}
    action = {"event": "action", "step": 30, "what": "replay", "text": "replay_share is raised to 0.1", "value": 0.1}
    entries = happenings(told(kept, {**bad, "step": 20}, {**bad, "step": 30}, action, {**bad, "step": 40}))
    assert [(entry.title, entry.text) for entry in entries] == [
        ("Against forgetting, step 30", "replay_share is raised to 0.1. Too much: +0.20 (n = 9)."),
        ("The model begins to forget, step 40", "Too much: +0.20 (n = 9)."),
    ]
    assert happenings(told(kept)) == []
    assert _one(told({**action, "what": "stop", "text": "stopped"})).tone == "bad"


def test_other_entries(told: Any) -> None:
    strength = {"event": "strength", "points": [], "chosen": 0.75, "accepted": True, "text": "strength 0.75: why"}
    assert _one(told(strength)).title == "The adapter acts at strength 0.75"
    refused = _one(told({**strength, "accepted": False}))
    assert refused.tone == "bad" and "max_forgetting" in refused.advice
    ranged = {"event": "range_test", "rates": [], "chosen": 4.2e-4, "why": "it falls fastest", "steps": 60}
    assert _plain(_one(told(ranged)).text) == "It falls fastest. It took 60 steps on a copy."
    assert _one(told(ranged)).title == "Learning rate 4.2e-4 by a range test"
    assert _one(told({"event": "advice", "text": "batch_tokens is small"})).text == "batch_tokens is small."
    gate = {"event": "gate", "stage": "two", "passed": False, "text": "stage two did not pass: x"}
    assert _one(told(*STEPS, gate)).title == "Gate of stage two" and happenings(told(gate)) == []
    assert _one(told({"event": "diverged", "step": 9, "reason": "r", "text": "at step 9 x"})).text == "At step 9 x"


def _verdict(run: RunSummary) -> Verdict:
    found = judge(run)
    assert found.question == ""
    return found


def test_the_verdict_on_overfitting(told: Any) -> None:
    course = [_validation(0, 2.0, 2.0), _validation(20, 1.8, 1.7), _validation(30, 2.1, 1.0)]
    events = [*STEPS, *course, _overfit(30, 2, 25, "It is."), HELDOUT, *_outcome("overfitting", "adapter")]
    found = _verdict(told(*events))
    assert (found.tone, found.words) == ("care", "Stopped for overfitting")
    assert "The adapter is that of step 20 (validation loss 1.80), and it is clearly better" in found.belief
    assert "Held-out loss 2.00 → 1.80" in found.line
    said = " ".join(remark.text for remark in found.remarks)
    assert "learned by heart (overfitting)" in said and "Loss on training rows, measured in the same way, 1.00" in said


def test_a_rise_that_was_not_shown_is_not_called_overfitting(told: Any) -> None:
    course = [_validation(0, 2.0, 2.0), _validation(20, 1.8, 1.7), _validation(30, 1.9, 1.6)]
    found = judge(told(*STEPS, *course, HELDOUT, *_outcome("finished", "adapter")))
    said = " ".join(remark.text for remark in found.remarks)
    assert found.question == "Can this be believed?"
    assert "that this is overfitting was not shown surely" in said and "by heart" not in said


def test_the_verdict_on_divergence(told: Any) -> None:
    diverged = {
        "event": "diverged",
        "step": 44,
        "text": "at step 44 the loss is not finite. Try a lower learning_rate.",
    }
    nothing = _verdict(told(*STEPS, diverged, *_outcome("diverged", "", "nothing is kept")))
    assert (nothing.tone, nothing.words, nothing.line) == ("bad", "Diverged", "It ended at step 44 of 60.")
    assert nothing.belief.startswith("At step 44 the loss") and nothing.belief.endswith("There is no adapter to use.")
    kept = _verdict(told(*STEPS, diverged, HELDOUT, *_outcome("diverged", "rejected", "it diverged")))
    assert "in the folder rejected: to be looked at" in kept.belief


def test_the_verdict_on_forgetting(told: Any) -> None:
    stop = {"event": "action", "step": 30, "what": "stop", "text": "the training is stopped: +0.30"}
    found = _verdict(told(*STEPS, stop, HELDOUT, *_outcome("forgetting", "adapter")))
    assert (found.tone, found.words) == ("bad", "Stopped for forgetting")
    assert found.belief.startswith("The training is stopped: +0.30. The adapter is that of step 20")


def test_the_verdict_on_what_is_not_accepted(told: Any) -> None:
    found = _verdict(told(*STEPS, HELDOUT, *_outcome("not accepted", "rejected", "at no strength is it kept")))
    assert (found.tone, found.words) == ("bad", "Not accepted")
    assert found.belief.startswith("At no strength is it kept. The best adapter is in the folder rejected")


STAGES = [
    {"event": "stage", "name": "one", "number": 1, "of": 2, "parent": "", "path": "stages/01-one"},
    {
        "event": "gate",
        "stage": "one",
        "passed": True,
        "text": "stage one passed: y",
        "base": HELDOUT,
        "parent": HELDOUT,
    },
    {"event": "stage", "name": "two", "number": 2, "of": 2, "parent": "one", "path": "stages/02-two"},
]


def _gate(passed: bool) -> dict[str, Any]:
    text = "stage two passed: z" if passed else "stage two did not pass: z"
    return {"event": "gate", "stage": "two", "passed": passed, "text": text, "base": HELDOUT, "parent": HELDOUT}


def test_a_training_in_stages(told: Any, tmp_path: Path) -> None:
    run = told(*STAGES, _gate(True), {"event": "end", "status": "finished"})
    found = judge(run)
    assert (found.tone, found.words) == ("good", "All stages accepted") and "clearly better than the base" in found.line
    page = _plain(write_report(tmp_path).read_text())
    assert 'href="stages/01-one/report.html"' in page and "from stage one on" in page
    assert page.count("10.0 % lower, 95 % interval 8.0–12.0 %") == 3  # two beside the base, one beside stage one
    assert "Too few steps" not in page and "What happened" not in page


def test_a_gate_that_does_not_pass(told: Any, tmp_path: Path) -> None:
    run = told(*STAGES, _gate(False), {"event": "end", "status": "not accepted"})
    found = _verdict(run)
    assert found.belief == "Stage two did not pass: z. What is published is the adapter of stage one."
    page = write_report(tmp_path).read_text()
    assert '<li class="bad">' in page and '<li class="good">' in page
    waiting = told(*STAGES, {"event": "interrupted", "stage": "two"})
    assert judge(waiting).words == "Interrupted" and "not judged yet" in write_report(tmp_path).read_text()


def _everything() -> list[dict[str, Any]]:
    rates = [10.0**-n for n in range(6, 1, -1)]
    point = {"target_interval": [-0.3, -0.1], "general_interval": [0.0, 0.04], "target_change": -0.2, "inside": True}
    forget = {"event": "forgetting", "n": 40, "budget": 0.08, "verdict": "kept", "text": "kept"}
    losses = {"losses": [3, 2, 1, 2, 99], "smoothed": [3, 2, 1, 2, 50]}
    return [
        {"event": "range_test", "rates": rates, **losses, "chosen": 1e-4},
        *STEPS,
        _validation(0, 2.0, 2.0), _validation(20, 1.8, 1.7),
        {**forget, "step": 10, "change": 0.01, "interval": [0.0, 0.02]},
        {**forget, "step": 20, "change": 0.03, "interval": [0.01, 0.05]},
        {"event": "action", "step": 20, "what": "replay", "text": "x"},
        {"event": "strength", "chosen": 0.5, "accepted": True, "text": "t",
         "points": [{**point, "strength": s, "general_change": s * 0.1} for s in (0.25, 0.5, 1.0)]},
    ]  # fmt: skip


def test_there_is_a_chart_for_what_was_watched_and_none_for_what_was_not(told: Any) -> None:
    titles = [chart.title for chart in watch_charts(told(*_everything()))]
    assert titles == [
        "Learning rates that were tried", "Held-out rows beside training rows", "What the model may have forgotten",
        "What each strength of the adapter gains and costs",
    ]  # fmt: skip
    assert watch_charts(told(*STEPS)) == []


def test_the_charts_show_what_was_chosen_and_the_budget(told: Any) -> None:
    rates, _, general, strength = watch_charts(told(*_everything()))
    for chart in (rates, general, strength):
        root = ElementTree.fromstring(chart.wide)
        assert "nan" not in chart.wide and root.get("aria-label")
    assert "chosen: 1e-4" in rates.wide and "logarithmic scale" not in rates.wide  # the cliff is cut off
    assert "0.08 allowed" in general.wide and "more replay" in general.wide and "n = 40 rows" in general.legend
    assert "0.5, chosen" in strength.wide and 'class="ring"' in strength.wide and "0.08 allowed" in strength.wide


def test_the_page_draws_skips_rewinds_and_pauses(told: Any, tmp_path: Path) -> None:
    rewind = {"event": "rewind", "step": 30, "to_step": 20, "next_step": 36, "reason": "r", "rate_scale": 0.5}
    later = [{"event": "step", "step": n, "epoch": n / 60, "loss": 1.9} for n in range(37, 50)]
    told(*STEPS, _skipped(31), {"event": "paused", "step": 12, "text": "full"}, rewind, *later)
    page = write_report(tmp_path).read_text()
    (wide, _) = re.findall(r'<svg class="chart" viewBox="0 0 (?:904|360).*?</svg>', page, flags=re.DOTALL)
    root = ElementTree.fromstring(wide)
    assert root.find("rect") is not None and "curve gone" in wide and 'class="spot"' in wide
    assert {"disk full", "rewound"} <= {text.text for text in root.findall("text")}
    assert "steps that" not in page and "a step that was skipped" in page and "What happened" in page


def test_text_of_decisions_cannot_become_markup(told: Any, tmp_path: Path) -> None:
    evil = "<script>x</script>"
    told(
        *STEPS, _skipped(3, reason=evil, wheres=[evil]), _overfit(9, 2, 9, evil), {"event": "advice", "text": evil},
        {"event": "stage", "name": evil, "number": 1, "of": 1}, {"event": "gate", "stage": evil, "text": evil},
        {"event": "paused", "step": 4, "text": evil}, *_everything(), *_outcome("not accepted", "rejected", evil),
    )  # fmt: skip
    assert "<script" not in write_report(tmp_path).read_text()
    (tmp_path / "events.jsonl").write_text(
        json.dumps({"event": "stage", "name": evil, "number": 1, "path": '"><b>', "parent": evil}) + "\n"
    )
    page = write_report(tmp_path).read_text()
    assert "<script" not in page and "<b>" not in page


def test_damaged_decisions_are_told_as_far_as_they_go(told: Any, tmp_path: Path) -> None:
    names = ("skipped", "rewind", "diverged", "paused", "unpaused", "overfit", "forgetting", "action", "strength",
             "range_test", "gate", "outcome", "advice", "stage")  # fmt: skip
    odd = [
        {"event": "skipped", "step": 3, "wheres": 7, "records": "x", "reason": 5},
        {"event": "strength", "points": 3},
        {"event": "rewind", "step": 4, "to_step": "a", "next_step": None},
        {"event": "overfit", "step": 5, "times": "many", "since": [1]},
        {"event": "forgetting", "step": 5, "change": "x", "interval": 3},
    ]
    for status in ("finished", "overfitting", "forgetting", "diverged", "not accepted"):
        told(*STEPS, *[{"event": name} for name in names], *odd, {"event": "end", "status": status})
        assert "<h2>What happened" in write_report(tmp_path).read_text()
