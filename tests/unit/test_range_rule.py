"""Rows of the learning-rate test, its smoothing, and what is read from its curve; no model."""

import numpy as np
import pytest

from luthier.data.pack import plan_run
from luthier.data.render import Row
from luthier.train.range_test import (
    CLIP,
    COST,
    DIVISOR,
    LOST,
    MAX_STEPS,
    MIN_STEPS,
    SHARE,
    USUAL_STEPS,
    choose,
    range_rows,
    run_tokens,
    smooth,
)
from luthier.train.settings import Settings


def row(length: int, name: int) -> Row:
    return Row(np.zeros(length, np.int32), np.arange(length) > 1, str(name), str(name), "")


def settings(rows: list[Row], *, epochs: float = 1.0, micro: int = 512) -> Settings:
    lengths = [len(row.ids) for row in rows]
    steps = plan_run(lengths, batch_tokens=1024, micro_batch_tokens=micro, seed=0, num_epochs=epochs)
    return Settings(batch_tokens=1024, micro_batch_tokens=micro, learning_rate=1e-3, eval_steps=1, save_steps=1,
                    steps=steps, notes=[])  # fmt: skip


def cost(steps: list[list[Row]]) -> float:
    return COST * sum(len(row.ids) for step in steps for row in step)


@pytest.mark.parametrize("epochs", [1.0, 3.0])
@pytest.mark.parametrize("number", [400, 1000, 8000])
def test_the_test_costs_no_more_than_its_share(number: int, epochs: float) -> None:
    rng = np.random.default_rng(0)
    rows = [row(int(length), i) for i, length in enumerate(rng.integers(20, 200, number))]
    plan = settings(rows, epochs=epochs)
    steps = range_rows(rows, plan, seed=0)
    assert MIN_STEPS <= len(steps) <= MAX_STEPS
    assert 0 < cost(steps) <= SHARE * run_tokens(rows, plan)
    names = [row.record_id for step in steps for row in step]
    assert len(names) == len(set(names))
    assert all(sum(len(row.ids) for row in step) <= 512 for step in steps)


def test_more_tokens_make_larger_steps_rather_than_more() -> None:
    few, many = [row(20, i) for i in range(4000)], [row(20, i) for i in range(12000)]
    short, long = (range_rows(rows, settings(rows), seed=0) for rows in (few, many))
    assert abs(len(short) - USUAL_STEPS) <= 8 and abs(len(long) - USUAL_STEPS) <= 8
    assert len(long[0]) > 2 * len(short[0])


@pytest.mark.parametrize(("number", "enough"), [(235, False), (245, True)])
def test_a_short_run_has_no_test(number: int, enough: bool) -> None:
    """Eight rows of equal length are 5 % of the cost of 8 · 1.5 / 0.05 = 240 rows."""
    rows = [row(50, i) for i in range(number)]
    assert bool(range_rows(rows, settings(rows), seed=0)) == enough


def test_epochs_count_as_length() -> None:
    rows = [row(50, i) for i in range(200)]
    assert not range_rows(rows, settings(rows), seed=0)
    assert len(range_rows(rows, settings(rows, epochs=2.0), seed=0)) >= MIN_STEPS


def test_rows_too_long_for_a_step_or_without_labels_are_left_out() -> None:
    rows = [row(50, i) for i in range(600)]
    blank = Row(np.zeros(50, np.int32), np.zeros(50, bool), "blank", "blank", "")
    steps = range_rows([row(400, 999), *([blank] * 300), *rows], settings(rows), seed=0)
    names = {row.record_id for step in steps for row in step}
    assert steps and not names & {"blank", "999"}


def test_another_seed_draws_other_rows() -> None:
    rows = [row(50, i) for i in range(600)]
    a, b, again = (range_rows(rows, settings(rows), seed=seed) for seed in (0, 1, 0))
    assert [[r.record_id for r in step] for step in a] != [[r.record_id for r in step] for step in b]
    assert [[r.record_id for r in step] for step in a] == [[r.record_id for r in step] for step in again]


def test_smoothing_keeps_a_line_and_cuts_what_is_lost() -> None:
    assert smooth([0.0, -0.1, -0.2, -0.3])[1:3] == pytest.approx([-0.1, -0.2])
    assert smooth([0.0, 0.0, 9.0, 0.0, 0.0]) == pytest.approx([0, CLIP / 4, CLIP / 2, CLIP / 4, 0])
    assert smooth([]) == [] and smooth([0.5]) == [0.5]


RATES = [1e-4 * 2.0**i for i in range(12)]
SPACING = float(np.log(2))


def test_a_fixed_part_of_the_limit_is_taken() -> None:
    smoothed = [0.0, 0.0, -0.1, -0.2, -0.2, -0.1, 0.0, LOST - 0.4, LOST, 1.0, 1.0, 1.0]
    chosen, why = choose(RATES, smoothed, guess=1e-3, spacing=SPACING, broke=None)
    limit = RATES[7] * 2**0.5  # it is LOST above the least half-way between the two
    assert chosen == pytest.approx(limit / (DIVISOR * SPACING**0.5), rel=0.05)
    assert f"{chosen:g}" in why and f"{limit:.2g}" in why and "12 rates" in why


def test_the_limit_is_the_first_passing_and_later_luck_changes_nothing() -> None:
    smoothed = [0.0, -0.1, -0.1, -0.1, 0.0, 0.75, 0.75, -0.9, 0.9, 1.0, 1.0, 1.0]
    same = [*smoothed[:7], 0.8, *smoothed[8:]]
    assert choose(RATES, smoothed, guess=1e-3, spacing=SPACING, broke=None) == choose(
        RATES, same, guess=1e-3, spacing=SPACING, broke=None
    )


@pytest.mark.parametrize("level", [LOST - 0.01, LOST + 0.01])
def test_the_border_of_what_is_lost(level: float) -> None:
    chosen, why = choose(RATES, [0.0] * 11 + [level], guess=1e-3, spacing=SPACING, broke=None)
    assert (chosen == 1e-3) == (level < LOST) == ("none was too high" in why)


def test_a_slower_rise_reaches_its_limit_earlier_so_less_is_divided() -> None:
    smoothed = [0.0] * 8 + [1.0] * 4
    fast = choose(RATES, smoothed, guess=1e-3, spacing=SPACING, broke=None)[0]
    slow = choose(RATES, smoothed, guess=1e-3, spacing=SPACING / 4, broke=None)[0]
    assert slow == pytest.approx(2 * fast, rel=0.1)


def test_what_is_not_finite_is_a_limit() -> None:
    chosen, _ = choose(RATES[:5], [0.0, -0.1, -0.2, -0.2, -0.2], guess=1e-3, spacing=SPACING, broke=RATES[5])
    assert chosen == pytest.approx(RATES[5] / (DIVISOR * SPACING**0.5), rel=0.05)


def test_nothing_tried_takes_the_guess() -> None:
    chosen, why = choose([], [], guess=1e-3, spacing=SPACING, broke=1e-4)
    assert chosen == 1e-3 and "no rate could be tried" in why
