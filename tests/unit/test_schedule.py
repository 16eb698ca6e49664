"""Learning-rate courses."""

import pytest

from luthier.train.schedule import MIN_WARMUP, factor, warmup_steps

KINDS = ["cosine", "linear", "constant", "wsd"]


def course(kind: str, total: int = 100, warmup: float = 0.1) -> list[float]:
    return [factor(step, total, kind=kind, warmup_ratio=warmup) for step in range(1, total + 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_rises_to_the_peak_and_nothing_exceeds_it(kind: str) -> None:
    values = course(kind)
    assert values[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert max(values) == 1.0 and min(values) > 0


@pytest.mark.parametrize("total", [1, 4, 11, 19, 20, 68, 137, 1000])
def test_ends(total: int) -> None:
    if total > 1:
        assert course("cosine", total)[-1] == pytest.approx(0.1)
        assert course("linear", total)[-1] == pytest.approx(0.1)
    assert course("constant", total)[-1] == 1.0


def test_cosine_is_half_way_in_the_middle() -> None:
    assert factor(55, 100, kind="cosine", warmup_ratio=0.1) == pytest.approx(0.55)


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("total", [2, 7, 30, 200])
def test_after_the_peak_it_only_falls(kind: str, total: int) -> None:
    values = course(kind, total, 0.05)
    after = values[warmup_steps(total, 0.05) :]
    assert after == sorted(after, reverse=True) and values[-1] < 1


def test_wsd_holds_until_its_last_fifth_and_falls_in_a_straight_line() -> None:
    values = course("wsd")  # 10 steps of warmup, 72 at the peak, 18 that fall
    assert all(value == 1.0 for value in values[9:82])
    assert values[82:] == pytest.approx([left / 19 for left in range(18, 0, -1)])


def test_wsd_falls_in_a_short_run_too() -> None:
    assert course("wsd", 4, 0.0) == [1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("total", "ratio", "steps"),
    [
        (100, 0.1, 10),
        (101, 0.1, 11),  # rounded up
        (1000, 0.001, MIN_WARMUP),
        (50, 0.05, 5),  # a twentieth would be 3, a tenth is 5
        (49, 0.05, 4),
        (30, 0.05, 3),
        (9, 0.05, 1),
        (9, 0.5, 5),  # what is asked for may be more than a tenth
        (100, 0.0, 0),
    ],
)
def test_warmup_is_a_few_steps_at_least_and_a_tenth_at_most(total: int, ratio: float, steps: int) -> None:
    assert warmup_steps(total, ratio) == steps


@pytest.mark.parametrize("kind", KINDS)
def test_without_warmup_the_first_step_is_near_the_peak(kind: str) -> None:
    assert 0.98 < factor(1, 100, kind=kind, warmup_ratio=0.0) <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.4, 0.99])
def test_tiny_runs(kind: str, total: int, warmup: float) -> None:
    assert all(0 < value <= 1 for value in course(kind, total, warmup))
