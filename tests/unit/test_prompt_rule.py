"""Answers after the prompts of other rows: how such rows are made, and what is concluded from their losses."""

import numpy as np
import pytest

from luthier.data.render import Row
from luthier.evaluate.other_prompts import with_other_prompts
from luthier.stages.prompt_rule import PromptUse, prompt_use

TARGETS = 24
TOKENS, GROUPS = np.full(TARGETS, 30), [f"g{i}" for i in range(TARGETS)]


def row(prompt: list[int], answer: list[int], name: str = "r", *, later: list[int] | None = None) -> Row:
    """A row; `later` is a second prompt behind the answer, with the same answer once more."""
    ids = prompt + answer + (later + answer if later else [])
    mask = [False] * len(prompt) + [True] * len(answer)
    mask += [False] * len(later) + [True] * len(answer) if later else []
    return Row(np.array(ids, np.int32), np.array(mask), name, name, name)


# Rows


def test_answers_stand_after_the_next_prompt_token_for_token() -> None:
    rows = [row([1, 2, 3], [50, 51]), row([1, 9], [60]), row([1, 7, 7, 7], [70, 71, 72])]
    made = with_other_prompts(rows)
    assert [one.ids.tolist() for one in made] == [[1, 9, 50, 51], [1, 7, 7, 7, 60], [1, 2, 3, 70, 71, 72]]
    for one, own in zip(made, rows, strict=True):
        assert one.ids[one.mask].tolist() == own.ids[own.mask].tolist() and one.group == own.group
        assert len(one.ids) == len(one.mask) and one.ids.dtype == np.int32


def test_only_the_first_prompt_of_a_conversation_is_another_one() -> None:
    rows = [row([1, 2], [50], later=[3, 4]), row([8, 9], [60])]
    assert with_other_prompts(rows)[0].ids.tolist() == [8, 9, 50, 3, 4, 50]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row([1, 2], [50])],
        [row([1, 2], [50]), row([1, 2], [60])],  # the same prompt
        [row([1, 2], [50]), row([1, 3], [50])],  # the same answer
        [row([1], [50, 51]), row([2], [60, 61])],  # text: all is trained but its first token
    ],
)
def test_rows_without_another_prompt_stay(rows: list[Row]) -> None:
    assert all(one is own for one, own in zip(with_other_prompts(rows), rows, strict=True))


def test_no_row_is_longer_than_the_longest() -> None:
    rows = [row([1] * 8, [50]), row([2, 3], [60] * 6), row([4, 5], [70])]
    made = with_other_prompts(rows)
    assert made[1].ids.tolist() == [4, 5, *[60] * 6], "the prompt of eight does not fit before six"
    assert max(len(one.ids) for one in made) <= 9


# What is concluded


def losses(own: float, gain: float, seed: int = 0, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Losses after own and after other prompts, nats a token, row by row give or take `noise`."""
    rng = np.random.default_rng(seed)
    after_own = (own + noise * rng.standard_normal(TARGETS)) * TOKENS
    return after_own, after_own + (gain + noise * rng.standard_normal(TARGETS)) * TOKENS


def use(base: tuple[float, float], now: tuple[float, float], tokens: np.ndarray = TOKENS) -> PromptUse:
    found = prompt_use(losses(*base), losses(*now, seed=1), tokens, GROUPS, seed=0)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("base", "now", "lost", "never"),
    [
        ((1.36, 0.66), (0.78, 0.66), False, False),  # GSM8K, learned
        ((1.36, 0.66), (0.94, 0.32), True, False),  # GSM8K, answers shuffled
        ((1.36, 0.66), (0.94, 0.45), False, False),  # a third is not surely lost
        ((1.36, 0.66), (0.05, 0.02), False, False),  # all answers are nearly the same, and learned
        ((1.36, 0.66), (0.30, 0.35), False, False),  # less is told, but of a smaller loss a larger share
        ((1.36, 0.00), (0.94, 0.00), False, True),  # mixed up everywhere, so no model finds a link
        ((1.36, 0.00), (0.94, 0.40), False, False),  # a link that had to be learned
    ],
)
def test_who_goes_by_the_prompts(base: tuple[float, float], now: tuple[float, float], lost: bool, never: bool) -> None:
    found = use(base, now)
    assert (found.lost, found.never) == (lost, never)
    assert found.missing is (base[1] == 0.0)
    assert found.base.change == pytest.approx(base[1], abs=0.1) and found.now.change == pytest.approx(now[1], abs=0.1)


def test_short_answers_may_be_codes_that_must_be_learned_first() -> None:
    short = np.full(TARGETS, 3)
    own, other = losses(1.36, 0.0)
    found = prompt_use((own / 10, other / 10), (own / 20, other / 20), short, GROUPS, seed=0)
    assert found is not None and found.missing and not found.never


def test_what_cannot_be_told() -> None:
    own, other = losses(1.36, 0.66)
    assert prompt_use((own, own), (own, other), TOKENS, GROUPS, seed=0) is None, "no row has another prompt"
    few = slice(0, 5)
    assert prompt_use((own[few], other[few]), (own[few], other[few]), TOKENS[few], GROUPS[few], seed=0) is None
    empty = np.zeros(0)
    assert prompt_use((empty, empty), (empty, empty), empty, [], seed=0) is None
