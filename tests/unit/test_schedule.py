"""Learning-rate courses."""

import pytest

from luthier.train.schedule import factor


def course(kind: str, total: int = 100, warmup: float = 0.1) -> list[float]:
    return [factor(step, total, kind=kind, warmup_ratio=warmup) for step in range(1, total + 1)]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
def test_warmup_rises_to_the_peak_and_nothing_exceeds_it(kind: str) -> None:
    values = course(kind)
    assert values[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert max(values) == 1.0 and min(values) > 0


def test_ends() -> None:
    assert course("cosine")[-1] == pytest.approx(0.1)
    assert course("linear")[-1] == pytest.approx(0.1)
    assert course("constant")[-1] == 1.0
    assert course("wsd")[-1] < 0.06


def test_cosine_is_half_way_in_the_middle() -> None:
    assert factor(55, 100, kind="cosine", warmup_ratio=0.1) == pytest.approx(0.55)


def test_wsd_holds_until_its_last_fifth() -> None:
    values = course("wsd")
    assert all(value == 1.0 for value in values[9:81])
    assert values[82:] == sorted(values[82:], reverse=True) and values[85] < 1


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_tiny_runs(kind: str, total: int) -> None:
    assert all(0 < value <= 1 for value in course(kind, total, 0.05))
