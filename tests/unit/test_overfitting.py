"""The rule on overfitting, on scripted losses: alarms, patience, ties, few groups, lost files, a resume."""

import copy
import json
from typing import Any

import numpy as np
import pytest

from luthier.evaluate.interval import paired_change
from luthier.evaluate.losses import RowLosses
from luthier.evaluate.overfitting import Measured, Overfit, OverfitWatch

ROWS = 40
TOKENS = np.full(ROWS, 50)
RISING = [2.0, 1.8, 1.7, 1.75, 1.8, 1.85, 1.9, 1.95, 2.0, 2.05]  # validation: best at the third
FALLING = [2.0, 1.7, 1.4, 1.2, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5]  # the probe


def losses(mean: float, *, seed: int = 0, noise: float = 0.02, rows: int = ROWS) -> RowLosses:
    """Rows of lasting differences and a little noise about a mean."""
    lasting = np.random.default_rng(99).normal(0, 0.3, rows)
    fresh = np.random.default_rng(seed).normal(0, noise, rows)
    spread = lasting + fresh
    return RowLosses((mean + spread - spread.mean()) * TOKENS[:rows], TOKENS[:rows])


def course(val: list[float], probe: list[float], **more: Any) -> list[Measured]:
    """One measurement a validation."""
    return [
        Measured(losses(a, seed=2 * n, **more), losses(b, seed=2 * n + 1, **more))
        for n, (a, b) in enumerate(zip(val, probe, strict=True))
    ]


def watch(
    points: list[Measured],
    *,
    patience: int = 3,
    groups: list[str] | None = None,
    lost: set[int] = frozenset(),  # type: ignore[assignment]
    state: dict[str, Any] | None = None,
    first: int = 0,
) -> tuple[list[Overfit], dict[str, Any]]:
    """The verdicts on validations every 10 steps, from number `first` on, and the state after them."""
    state = {} if state is None else state
    names = [""] * len(points[0].val.nll) if groups is None else groups

    def read(step: int) -> Measured | None:
        return None if step in lost else points[step // 10]

    found = []
    for number in range(first, len(points)):
        watching = OverfitWatch(state, (names, names), patience=patience, read=read)
        found.append(watching.add(10 * number, points[number]))
    return found, state


def test_two_in_a_row_are_an_alarm_and_patience_ends_the_run() -> None:
    found, _ = watch(course(RISING, FALLING))
    assert [verdict.times for verdict in found] == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert [verdict.stop for verdict in found].index(True) == 4 + 3  # three validations after the alarm
    assert [bool(verdict.text) for verdict in found] == [False] * 3 + [True] * 2 + [False] * 2 + [True] * 3
    assert {verdict.best_step for verdict in found[3:]} == {20} and {verdict.since for verdict in found[3:]} == {30}
    val, probe = found[4].val, found[4].probe
    assert val is not None and probe is not None
    assert val.change == pytest.approx(0.1) and probe.change == pytest.approx(-0.4)
    assert val.interval is not None and 0 < val.interval[0] < 0.1 < val.interval[1]
    assert (val.rows, val.groups) == (ROWS, ROWS)


@pytest.mark.parametrize(("last", "times"), [(31, 1), (34, 1), (35, 2), (40, 2)])
def test_a_validation_just_after_another_is_no_second_witness(last: int, times: int) -> None:
    """The last of a run may come a step after the one before."""
    points = dict(zip([0, 10, 20, 30, last], course(RISING[:5], FALLING[:5]), strict=True))
    state: dict[str, Any] = {}
    found = [
        OverfitWatch(state, ([""] * ROWS, [""] * ROWS), patience=3, read=points.get).add(step, now)
        for step, now in points.items()
    ]
    assert (found[3].times, found[4].times, found[4].since) == (1, times, 30)
    assert bool(found[3].text) and bool(found[4].text) == (times == 2)


def test_the_interval_allows_for_the_best_of_those_before() -> None:
    points = course(RISING, FALLING)
    found, _ = watch(points)
    losses = points[2].val.nll, points[4].val.nll, TOKENS, [""] * ROWS
    assert found[4].val == paired_change(*losses, picked=4) != paired_change(*losses) and found[4].picked == 4


def test_the_words_have_the_numbers() -> None:
    found, _ = watch(course(RISING, FALLING))
    suspicion, alarm, end = (found[n].text.replace("\u00a0", " ") for n in (3, 4, 7))
    assert suspicion.startswith("Perhaps overfitting. Since step 20 the loss on rows that are trained on fell by 0.20")
    assert "that on held-out rows rose by 0.05 nats a token (95 % interval, widened for the best of 3" in suspicion
    assert "n = 40 rows)" in suspicion and "being learned by heart" in alarm
    assert "The run ends if 3 more validations in a row say the same. The adapter of step 20" in alarm
    assert end.startswith("Stopped for overfitting, seen at 5 validations in a row.") and "To try: fewer epochs" in end


def test_patience_0_only_warns() -> None:
    found, _ = watch(course(RISING, FALLING), patience=0)
    assert not any(verdict.stop for verdict in found)
    assert "goes on, since overfitting_patience is 0" in found[4].text and found[5].text == ""


def test_patience_1_stops_at_the_next() -> None:
    found, _ = watch(course(RISING, FALLING), patience=1)
    assert [verdict.stop for verdict in found].index(True) == 5
    assert "1 more validation in a row says the same" in found[4].text.replace("\u00a0", " ")


def test_worse_than_the_base_from_the_start_on_is_overfitting_too() -> None:
    found, _ = watch(course([2.0, 2.1, 2.2], [2.0, 1.5, 1.0]))
    assert found[2].times == 2 and "Since before the training" in found[2].text
    assert "No step was better than no training" in found[2].text


@pytest.mark.parametrize(
    ("val", "probe"),
    [
        ([2.0, 1.8, 1.7, 1.65, 1.62, 1.60], FALLING[:6]),  # healthy
        (RISING[:6], [2.0, 1.7, 1.6, 1.65, 1.7, 1.8]),  # both worse: too high a rate, not overfitting
        ([2.0, 1.7, 1.7, 1.7, 1.7, 1.7], FALLING[:6]),  # ties: exactly as good as the best
        ([2.0, 1.7, 1.8, 1.69, 1.8, 1.68], FALLING[:6]),  # never twice in a row
    ],
)
def test_what_is_no_overfitting(val: list[float], probe: list[float]) -> None:
    found, _ = watch(course(val, probe))
    assert max(verdict.times for verdict in found) < 2


def test_a_rise_that_rows_do_not_share_is_no_alarm() -> None:
    """One row of 40 makes the mean worse: the interval holds zero."""
    points = course([2.0, 1.7, 1.7, 1.7, 1.7], FALLING[:5], noise=0.0)
    for point in points[2:]:
        point.val.nll[0] += 40 * 50 * 0.05
    found, _ = watch(points)
    assert found[3].val is not None and found[3].val.change == pytest.approx(0.05) and found[3].times == 0


def test_a_better_validation_ends_the_count() -> None:
    found, _ = watch(course([2.0, 1.7, 1.8, 1.6, 1.7, 1.8], FALLING[:6]))
    assert [verdict.times for verdict in found] == [0, 0, 1, 0, 1, 2] and found[5].best_step == 30


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_resume_in_the_middle_changes_nothing(cut: int) -> None:
    points = course(RISING, FALLING)
    straight, at_the_end = watch(points)
    first, state = watch(points[:cut])
    state = json.loads(json.dumps(state))
    rest, state = watch(points, state=state, first=cut)
    assert first + rest == straight and state == at_the_end


def test_the_state_survives_json() -> None:
    _, state = watch(course(RISING, FALLING))
    assert json.loads(json.dumps(state, allow_nan=False)) == state


@pytest.mark.parametrize("groups", [["a", "b"] * 20, [f"g{n % 7}" for n in range(ROWS)]])
def test_fewer_than_8_groups_are_said_once_and_never_alarm(groups: list[str]) -> None:
    found, _ = watch(course(RISING, FALLING), groups=groups)
    assert not any(verdict.times or verdict.text for verdict in found)
    said = [text for verdict in found for text in verdict.remarks]
    assert len(said) == 1 and f"there are {len(set(groups))} groups of held-out rows" in said[0].replace("\u00a0", " ")
    assert found[3].val is not None and found[3].val.interval is None


def test_lost_losses_of_the_best_give_way_to_the_next_best() -> None:
    found, _ = watch(course(RISING, FALLING), lost={20})
    assert found[4].best_step == 30  # 1.75, the best of those that can be read
    assert max(verdict.times for verdict in found) >= 2


def test_with_all_losses_lost_it_begins_again() -> None:
    found, state = watch(course(RISING, FALLING), lost=set(range(0, 100, 10)))
    assert all(verdict.val is None and verdict.times == 0 for verdict in found) and state["best"] == 90


def test_a_stall_is_said_once() -> None:
    flat = [2.0, 1.5, 1.5, 1.5001, 1.4999, 1.5, 1.5, 1.5001, 1.5, 1.5]
    found, _ = watch(course(flat, flat))
    said = [(number, text) for number, verdict in enumerate(found) for text in verdict.remarks]
    assert len(said) == 1 and said[0][0] == 1 + 5 and "for 5 validations, since step 10" in said[0][1]
    slow = [2.0 - 0.01 * n for n in range(10)]  # slow is not still
    assert not any(verdict.remarks for verdict in watch(course(slow, slow))[0])


def test_held_out_rows_of_another_kind_are_told_before_the_training() -> None:
    found, _ = watch(course([2.6, 2.4], [2.0, 1.8]))
    (text,) = found[0].remarks
    assert "0.60 nats a token higher" in text and "n = 40 and 40 rows" in text.replace("\u00a0", " ")
    assert "0.60 nats a token lower" in watch(course([2.0, 1.8], [2.6, 1.8]))[0][0].remarks[0]
    assert watch(course([2.05, 1.8], [2.0, 1.8]))[0][0].remarks == ()


def test_losses_that_are_not_numbers_are_not_overfitting() -> None:
    points = course(RISING[:5], FALLING[:5])
    points[3].val.nll[3] = np.nan
    found, _ = watch(copy.deepcopy(points))
    assert found[3].times == 0
