"""The rule of the gates, on comparisons made by hand."""

from pathlib import Path

import numpy as np
import pytest

from luthier.evaluate.interval import BETTER, SAME, UNKNOWN, WORSE, Comparison, compare
from luthier.stages.gate import clear_rise, judge
from luthier.stages.link import Link


def link(gate: str = "not worse", max_unlearning: float | None = None, parent: str = "broad") -> Link:
    return Link("special", 2, 3, "stages/02-special", gate, max_unlearning, parent, Path("x"), "00")


def comparison(change: float, *, spread: float = 0.05, rows: int = 40) -> Comparison:
    """Losses of 2 nats a token that change by `change` nats, one row a group."""
    before = 20 * np.ones(rows)
    after = before + 10 * (change + spread * np.sin(np.arange(rows)))
    return compare(before, after, np.full(rows, 10), [""] * rows)


def test_the_comparisons_of_this_test_are_what_they_should_be() -> None:
    assert [comparison(change).verdict for change in (-0.1, 0.0, 0.1)] == [BETTER, SAME, WORSE]
    assert comparison(-0.1, rows=4).verdict == UNKNOWN


@pytest.mark.parametrize(
    ("gate", "change", "passed"),
    [
        ("better", -0.1, True),
        ("better", 0.0, False),
        ("better", 0.1, False),
        ("not worse", -0.1, True),
        ("not worse", 0.0, True),
        ("not worse", 0.1, False),
        ("none", 0.1, True),
    ],
)
def test_what_each_gate_asks_for(gate: str, change: float, passed: bool) -> None:
    verdict = judge(link(gate), comparison(change), [])
    assert verdict.passed is passed
    assert verdict.text.startswith("stage special passed: " if passed else "stage special did not pass: ")
    assert "2.000 with stage broad" in verdict.text and "(n = 40)" in verdict.text


@pytest.mark.parametrize(("gate", "passed"), [("better", False), ("not worse", True), ("none", True)])
def test_too_few_rows_are_no_proof_of_better(gate: str, passed: bool) -> None:
    for beside in (None, comparison(-0.1, rows=4)):
        verdict = judge(link(gate), beside, [])
        assert verdict.passed is passed
    assert "too few records to tell" in judge(link(gate), comparison(-0.1, rows=4), []).text


def test_the_first_stage_is_compared_with_the_base() -> None:
    assert "2.000 with the base" in judge(link(parent=""), comparison(-0.1), []).text


def test_what_earlier_stages_hold_out_may_rise_as_far_as_is_said() -> None:
    worse = comparison(0.3)
    low = clear_rise(worse)
    assert 0.27 < low < 0.3
    for budget, passed in ((None, True), (low + 1e-6, True), (low - 1e-6, False), (0.0, False)):
        verdict = judge(link(max_unlearning=budget), comparison(-0.1), [("broad", worse)])
        assert verdict.passed is passed, budget
        assert "on what stage broad holds out, held-out loss 2.000 with stage broad, 2.3" in verdict.text
    assert judge(link(max_unlearning=0.0), comparison(-0.1), [("broad", comparison(0.0))]).passed
    assert judge(link(max_unlearning=0.0), comparison(-0.1), [("broad", comparison(0.3, rows=4))]).passed


def test_refusals_fail_every_gate_and_are_told() -> None:
    for gate in ("none", "not worse", "better"):
        verdict = judge(link(gate), comparison(-0.1), [], ["the training diverged"])
        assert not verdict.passed and verdict.text == "stage special did not pass: the training diverged"
