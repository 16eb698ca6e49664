"""Choosing a token: the distribution, counted over a grid of draws, against one worked out in float64."""

import pytest
import torch
from torch import Tensor

from helpers_numerics import randn
from luthier.models import sampling as sampling_file
from luthier.models.sampling import Sampling, choose

DRAWS = 20_000


def reference(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """(V,) float64: the smallest set of the likeliest tokens with the mass top_p, scaled up to 1."""
    p = (logits.double() / temperature).softmax(-1)
    ordered, order = p.sort(descending=True, stable=True)
    before = torch.cat([torch.zeros(1, dtype=torch.float64), ordered.cumsum(0)[:-1]])
    kept = torch.zeros_like(p)
    kept[order[before < top_p]] = ordered[before < top_p]
    return kept / kept.sum()


def counted(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """(V,) the share of evenly spaced draws that give each token."""
    draws = [(i + 0.5) / DRAWS for i in range(DRAWS)]
    rows = 500  # rows of one call
    chosen: list[int] = []
    for first in range(0, DRAWS, rows):
        part = draws[first : first + rows]
        chosen += choose(logits.expand(len(part), -1), Sampling(temperature, top_p), part)
    return torch.bincount(torch.tensor(chosen), minlength=len(logits)).double() / DRAWS


@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.01])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("size", [1, 7, 300])
def test_the_distribution_is_the_float64_one(size: int, temperature: float, top_p: float) -> None:
    logits = randn(size, seed=size, dtype=torch.float32) * 3
    made, truth = counted(logits, temperature, top_p), reference(logits, temperature, top_p)
    # Each token owns an interval; a grid counts it to within one draw, and float32 moves its ends a little.
    assert (made - truth).abs().max() <= 1.5 / DRAWS
    assert made[truth == 0].sum() == 0


def test_a_flat_distribution_is_looked_at_far_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = randn(3000, seed=1, dtype=torch.float32) * 0.01
    looks = []
    topk = Tensor.topk

    def watched(self: Tensor, number: int) -> tuple[Tensor, Tensor]:
        looks.append(number)
        return topk(self, number)

    monkeypatch.setattr(Tensor, "topk", watched)
    draws = [i / 97 for i in range(97)]
    made = choose(logits.expand(97, -1), Sampling(1.0, 0.9), draws)
    assert looks == [64, 512, 3000]
    monkeypatch.setattr(sampling_file, "FIRST_LOOK", 3000)
    assert made == choose(logits.expand(97, -1), Sampling(1.0, 0.9), draws)
    truth = reference(logits, 1.0, 0.9)
    assert all(truth[token] > 0 for token in made) and len(set(made)) == 97


def test_rows_are_chosen_from_by_themselves() -> None:
    logits = randn(4, 50, dtype=torch.float32) * 4
    draws = [0.1, 0.9, 0.5, 0.999999]
    for kind in (Sampling(1.0, 0.8), Sampling(0.7), Sampling()):
        together = choose(logits, kind, draws)
        alone = [choose(row[None], kind, [draw])[0] for row, draw in zip(logits, draws, strict=True)]
        assert together == alone


def test_greedy_takes_the_largest() -> None:
    logits = randn(5, 40, dtype=torch.bfloat16)
    assert choose(logits, Sampling(), []) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_hardly_any_temperature_is_greedy(temperature: float) -> None:
    logits = randn(3, 40, dtype=torch.float32) * 50
    assert choose(logits, Sampling(temperature), [0.0, 0.5, 1 - 2**-53]) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_ends_of_the_interval(top_p: float) -> None:
    """The largest draw may be rounded to the sum of all; it may not fall on a token without probability."""
    logits = torch.full((2, 400), float("-inf"))
    logits[:, 17], logits[:, 5] = 1.0, 0.9
    assert set(choose(logits, Sampling(1.0, top_p), [0.0, 1.0])) == {5, 17}


def test_of_equals_the_mass_decides_how_many_stay() -> None:
    logits = torch.zeros(1, 8)
    kept = {choose(logits, Sampling(1.0, 0.5), [i / 64])[0] for i in range(64)}
    assert len(kept) == 4, "four of eight equals have the mass of a half, and the fifth is one too many"
    assert len({choose(logits, Sampling(1.0, 0.51), [i / 64])[0] for i in range(64)}) == 5
