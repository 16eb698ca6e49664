"""The paired comparison: known answers, the interval's coverage, and what it says when there is too little data."""

import dataclasses
import json

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.evaluate.interval import BETTER, SAME, UNKNOWN, WORSE, compare


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
