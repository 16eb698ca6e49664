"""The paired comparison: known answers, the interval's coverage, and what it says when there is too little data."""

import dataclasses
import json

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.evaluate.interval import BETTER, MOST_UNITS, SAME, UNKNOWN, WORSE, _heaps, compare, gap, paired_change


def _losses(rng: np.random.Generator, groups: int, rows: int, drop: float) -> tuple[np.ndarray, ...]:
    """Records in groups that share a level and an effect: nll before, after, tokens, group names."""
    member = np.repeat(np.arange(groups), rows)
    tokens = rng.integers(20, 400, len(member))
    before = 2 + 0.3 * rng.normal(size=groups)[member] + 0.3 * rng.normal(size=len(member))
    after = before - drop + 0.05 * rng.normal(size=groups)[member] + 0.15 * rng.normal(size=len(member))
    return before * tokens, after * tokens, tokens, np.array([f"g{index}" for index in member])


def test_means_are_weighted_by_tokens() -> None:
    result = compare(np.array([10.0, 90.0]), np.array([5.0, 60.0]), np.array([10, 30]), ["a", "b"])
    assert (result.before, result.after) == (100 / 40, 65 / 40)
    assert result.change_percent == pytest.approx(35.0)
    assert (result.rows, result.groups, result.label_tokens) == (2, 2, 40)


def test_a_clear_drop_and_the_same_drop_backwards() -> None:
    before, after, tokens, groups = _losses(np.random.default_rng(0), 20, 5, 0.4)
    better, worse = compare(before, after, tokens, groups), compare(after, before, tokens, groups)
    assert better.interval is not None and better.loss_interval is not None
    assert better.interval[0] < better.change_percent < better.interval[1]
    assert better.loss_interval[0] < better.before - better.after < better.loss_interval[1]
    assert better.verdict == BETTER and worse.verdict == WORSE
    assert "bootstrap over 20 groups" in better.method


def test_identical_losses_are_no_change() -> None:
    nll = np.random.default_rng(1).uniform(10, 100, 30)
    result = compare(nll, nll, np.full(30, 20), [""] * 30)
    assert result.change_percent == 0 and result.interval == (0, 0) and result.loss_interval == (0, 0)
    assert result.verdict == SAME


def test_the_same_share_everywhere_gives_a_point() -> None:
    nll = np.random.default_rng(1).uniform(10, 100, 30)
    low, high = compare(nll, nll * 0.9, np.full(30, 20), [""] * 30).interval or (0, 0)
    assert low == pytest.approx(10) and high == pytest.approx(10)


def test_noise_alone_is_not_measurable() -> None:
    rng = np.random.default_rng(2)
    nll = rng.uniform(50, 100, 100)
    assert compare(nll, nll + rng.normal(0, 5, 100), np.full(100, 30), [""] * 100).verdict == SAME


def test_one_record_has_no_interval() -> None:
    result = compare(np.array([30.0]), np.array([10.0]), np.array([10]), ["a"])
    assert result.interval is None and result.loss_interval is None and result.verdict == UNKNOWN
    assert result.method == "no interval: 1 record, at least 8 needed"


def test_few_groups_fall_back_to_records_and_say_so() -> None:
    before, after, tokens, groups = _losses(np.random.default_rng(3), 3, 20, 0.4)
    result = compare(before, after, tokens, groups)
    assert result.groups == 3 and "over 60 records" in result.method and "only 3 groups" in result.method


def test_groups_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    effect = rng.normal(0.2, 0.2, 10).repeat(20)  # the effect differs from group to group
    before, tokens = np.full(200, 2.0), np.full(200, 50)
    after = before - effect + 0.05 * rng.normal(size=200)
    groups = [str(index // 20) for index in range(200)]
    together = compare(before * tokens, after * tokens, tokens, groups).interval
    alone = compare(before * tokens, after * tokens, tokens, [""] * 200).interval
    assert together is not None and alone is not None
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_records_without_a_group_are_their_own() -> None:
    assert compare(np.ones(9), np.ones(9), np.ones(9), ["", "", "a", "a", "", "", "", "", ""]).groups == 8


def test_the_seed_decides_the_interval() -> None:
    data = _losses(np.random.default_rng(5), 20, 5, 0.1)
    assert compare(*data, seed=7) == compare(*data, seed=7)
    assert compare(*data, seed=7).interval != compare(*data, seed=8).interval


@pytest.mark.parametrize(("groups", "rows"), [(60, 1), (10, 4)])
def test_coverage(groups: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 intervals about 190 hold the true change; the bounds are about 2.6 standard errors wide."""
    monkeypatch.setattr("luthier.evaluate.interval.RESAMPLES", 2000)
    rng = np.random.default_rng(6)
    hits = 0
    for seed in range(200):
        low, high = compare(*_losses(rng, groups, rows, 0.2), seed=seed).interval or (0, 0)
        hits += low <= 10 <= high  # 0.2 of 2
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize(
    ("before", "after", "tokens", "message"),
    [
        ([1.0, 1.0], [1.0, 1.0], [0, 0], "no label tokens"),
        ([1.0, 1.0], [1.0, float("nan")], [1, 1], "the loss of 1 of 2 held-out records is not a finite number"),
        ([0.0, 0.0], [1.0, 1.0], [1, 1], "nothing to compare"),
    ],
)
def test_what_cannot_be_compared(before: list[float], after: list[float], tokens: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare(np.array(before), np.array(after), np.array(tokens), ["", ""])


def test_it_fits_into_an_event() -> None:
    fields = dataclasses.asdict(compare(np.ones(9), np.ones(9), np.ones(9), [""] * 9))
    assert json.loads(json.dumps(fields))["interval"] == [0, 0]


def test_a_quick_change_agrees_with_the_comparison() -> None:
    before, after, tokens, groups = _losses(np.random.default_rng(7), 40, 5, 0.1)
    quick, whole = paired_change(before, after, tokens, groups), compare(before, after, tokens, groups)
    assert quick.change == pytest.approx(whole.after - whole.before) and quick.fell and not quick.rose
    assert quick.interval is not None and whole.loss_interval is not None
    width = whole.loss_interval[1] - whole.loss_interval[0]
    assert quick.interval == pytest.approx((-whole.loss_interval[1], -whole.loss_interval[0]), abs=0.15 * width)
    assert (quick.rows, quick.groups) == (200, 40)
    back = paired_change(after, before, tokens, groups)
    assert back.rose and not back.fell and back.change == pytest.approx(-quick.change)
    assert paired_change(before, after, tokens, groups) == quick


def test_a_quick_change_of_few_groups_has_no_interval() -> None:
    quick = paired_change(np.ones(30), np.full(30, 2.0), np.ones(30), ["a", "b", "c"] * 10)
    assert (quick.change, quick.interval, quick.rose, quick.groups) == (1.0, None, False, 3)


def test_many_groups_are_dealt_into_heaps_with_the_same_interval() -> None:
    rng = np.random.default_rng(8)
    tokens, before = rng.integers(20, 400, 4 * MOST_UNITS), rng.uniform(1, 3, 4 * MOST_UNITS)
    after = before + rng.normal(0.01, 0.2, len(before))
    change = paired_change(before * tokens, after * tokens, tokens, [""] * len(before))
    assert change.interval is not None and change.groups == 4 * MOST_UNITS
    residual = (after - before - change.change) * tokens
    error = np.sqrt((residual**2).sum()) / tokens.sum()  # of a ratio of sums, by linearisation
    assert (change.interval[1] - change.interval[0]) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_what_a_quick_change_costs_is_bounded() -> None:
    rng = np.random.default_rng(0)
    units = rng.uniform(size=(4 * MOST_UNITS + 1, 3))
    heaps = _heaps(units, rng)
    assert heaps.shape == (MOST_UNITS, 3) and heaps.sum(axis=0) == pytest.approx(units.sum(axis=0))
    assert len(_heaps(units[:9], rng)) == 9


def test_quick_changes_cover() -> None:
    """Of 200 intervals about 190 hold the true change."""
    rng = np.random.default_rng(9)
    hits = 0
    for seed in range(200):
        low, high = paired_change(*_losses(rng, 60, 1, 0.2), seed=seed).interval or (0, 0)
        hits += low <= -0.2 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_gap_between_two_sets() -> None:
    rng = np.random.default_rng(10)
    one, other = ((rng.normal(level, 0.3, 200) * 50, np.full(200, 50), [""] * 200) for level in (2.0, 2.5))
    found = gap(one, other, seed=0)
    assert found.rose and found.interval is not None and found.change == pytest.approx(0.5, abs=0.1)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * 0.3 * np.sqrt(2 / 200), rel=0.2)
    assert not gap(one, one, seed=0).rose and found.rows == 400
    few = (other[0][:7], other[1][:7], [""] * 7)
    assert gap(one, few, seed=0).interval is None
