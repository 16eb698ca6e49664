"""Answers after the prompts of other rows: how such rows are made, and what is concluded from their losses."""

import numpy as np
import pytest

from luthier.data.render import Row
from luthier.evaluate.other_prompts import after_other_prompts
from luthier.stages.prompt_rule import PromptUse, prompt_use

TARGETS = 24
TOKENS, GROUPS = np.full(TARGETS, 30), [f"g{i}" for i in range(TARGETS)]


def row(prompt: list[int], answer: list[int], group: str = "", *, later: list[int] | None = None) -> Row:
    """A row, of a group of its own unless one is named; `later` is a second prompt, with the same answer once more."""
    ids = prompt + answer + (later + answer if later else [])
    mask = [False] * len(prompt) + [True] * len(answer)
    mask += [False] * len(later) + [True] * len(answer) if later else []
    return Row(np.array(ids, np.int32), np.array(mask), "r", group or str(ids), "")


# Rows


def test_answers_stand_after_the_next_prompt_token_for_token() -> None:
    rows = [row([1, 2, 3], [50, 51]), row([1, 9], [60]), row([1, 7, 7, 7], [70, 71, 72])]
    own, made = after_other_prompts(rows)
    assert [one.ids.tolist() for one in own] == [one.ids.tolist() for one in rows]
    assert [one.ids.tolist() for one in made] == [[1, 9, 50, 51], [1, 7, 7, 7, 60], [1, 2, 3, 70, 71, 72]]
    for one, before in zip(made, own, strict=True):
        assert one.ids[one.mask].tolist() == before.ids[before.mask].tolist() and one.group == before.group
        assert len(one.ids) == len(one.mask) and one.ids.dtype == np.int32


def test_only_the_first_answer_of_a_conversation_counts() -> None:
    own, made = after_other_prompts([row([1, 2], [50], later=[3, 4]), row([8, 9], [60])])
    assert [one.ids.tolist() for one in own] == [[1, 2, 50], [8, 9, 60]]
    assert [one.ids.tolist() for one in made] == [[8, 9, 50], [1, 2, 60]]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row([1, 2], [50])],
        [row([1, 2], [50]), row([1, 2], [60])],  # the same prompt
        [row([1, 2], [50]), row([1, 3], [50])],  # the same answer
        [row([1], [50, 51]), row([2], [60, 61])],  # text: all is trained but its first token
        [row([1, 2], [50], "talk"), row([1, 2, 50, 4], [60], "talk")],  # two turns of one conversation
    ],
)
def test_rows_without_another_prompt_are_left_out(rows: list[Row]) -> None:
    assert after_other_prompts(rows) == ([], [])


def test_a_text_gives_nobody_a_prompt() -> None:
    own, made = after_other_prompts([row([1, 2], [50]), row([5], [60, 61]), row([3, 4], [70])])
    assert [one.ids.tolist() for one in own] == [[1, 2, 50], [3, 4, 70]]
    assert [one.ids.tolist() for one in made] == [[3, 4, 50], [1, 2, 70]]


def test_no_row_is_longer_than_the_longest() -> None:
    rows = [row([2, 3], [60] * 6), row([1] * 8, [50]), row([4, 5], [70])]
    _, made = after_other_prompts(rows)
    assert made[0].ids.tolist() == [4, 5, *[60] * 6], "the prompt of eight does not fit before six"
    assert max(len(one.ids) for one in made) <= 9


# What is concluded


def sides(own: float, gain: float, seed: int = 0, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Losses after own and after other prompts, nats a token, row by row give or take `noise`."""
    rng = np.random.default_rng(seed)
    after_own = (own + noise * rng.standard_normal(TARGETS)) * TOKENS
    return after_own, after_own + (gain + noise * rng.standard_normal(TARGETS)) * TOKENS


def use(
    base: tuple[float, float], now: tuple[float, float], earlier: tuple[float, float] | None = None, *, length: int = 30
) -> PromptUse:
    """Of losses and gains; answers of `length` tokens with the same losses a token."""
    before = sides(*base) if earlier is None else sides(*earlier, seed=2)
    scaled = [(own * length / 30, other * length / 30) for own, other in (sides(*base), sides(*now, seed=1), before)]
    found = prompt_use(*scaled, np.full(TARGETS, length), GROUPS, seed=0)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("base", "now", "lost", "never"),
    [
        ((1.36, 0.66), (0.78, 0.66), False, False),  # maths, learned
        ((1.36, 0.66), (0.94, 0.32), True, False),  # maths, answers shuffled
        ((1.36, 0.66), (0.30, 0.05), False, False),  # all answers are much the same, and learned: nothing is missed
        ((1.36, 0.66), (0.60, 0.40), False, False),  # less is told, but of a smaller loss as large a share
        ((1.36, 0.66), (1.30, 0.00), True, False),  # a link that was there is not one that never was
        ((1.36, 0.00), (0.94, -0.3), False, True),  # no link was lost where there was none
        ((1.36, 0.00), (0.94, 0.00), False, True),  # mixed up everywhere, so no model finds a link
        ((1.36, 0.00), (0.94, 0.40), False, False),  # a link that was learned
        ((1.36, 0.00), (0.50, 0.00), False, False),  # answers that are much the same, half learned
    ],
)
def test_who_goes_by_the_prompts(base: tuple[float, float], now: tuple[float, float], lost: bool, never: bool) -> None:
    found = use(base, now)
    assert (found.lost, found.never) == (lost, never)
    assert found.missing is (base[1] == 0.0)
    assert found.base.change == pytest.approx(base[1], abs=0.1) and found.now.change == pytest.approx(now[1], abs=0.1)


def test_a_tenth_less_is_no_loss() -> None:
    """Even where it is sure, and a smaller share of the loss."""
    base, tenth, quarter = (
        sides(*of, noise=0.02, seed=n) for n, of in enumerate([(1.36, 0.66), (2.5, 0.6), (2.5, 0.5)])
    )
    assert not prompt_use(base, tenth, base, TOKENS, GROUPS, seed=0).lost
    assert prompt_use(base, quarter, base, TOKENS, GROUPS, seed=0).lost


@pytest.mark.parametrize(("base", "now"), [((1.36, 0.66), (0.94, 0.32)), ((1.36, 0.00), (0.94, 0.00))])
def test_short_answers_may_be_labels_that_must_be_learned_first(
    base: tuple[float, float], now: tuple[float, float]
) -> None:
    assert use(base, now).lost or use(base, now).never
    assert use(base, now, length=16).lost or use(base, now, length=16).never
    short = use(base, now, length=15)
    assert not short.lost and not short.never and not short.missing


def test_what_comes_back_is_not_lost() -> None:
    assert use((1.36, 0.66), (0.94, 0.40), (1.10, 0.40)).lost
    assert not use((1.36, 0.66), (0.94, 0.40), (1.10, 0.20)).lost


def test_a_little_that_is_not_sure_is_neither() -> None:
    """Few rows that differ much: a gain that looks lower, and prompts that look as if they told nothing."""
    now = sides(0.94, 0.50, seed=1, noise=1.0)
    found = prompt_use(sides(1.36, 0.66), now, sides(1.36, 0.66), TOKENS, GROUPS, seed=0)
    assert found.now.change < 0.56 and not found.lost
    now = sides(0.94, 0.04, seed=1, noise=0.5)
    found = prompt_use(sides(1.36, 0.0), now, sides(1.36, 0.0), TOKENS, GROUPS, seed=0)
    assert found.missing and not found.never


def test_false_alarms_are_rare_where_nothing_is_lost() -> None:
    """Rows whose gains have nothing to do with each other before and after, which is the worst case."""
    base = sides(1.36, 0.66, noise=0.4)
    found = [prompt_use(base, sides(1.0, 0.6, seed=n, noise=0.4), base, TOKENS, GROUPS, seed=0) for n in range(200)]
    assert sum(one.lost for one in found) <= 2


def test_what_cannot_be_told() -> None:
    own, other = sides(1.36, 0.66)
    few = slice(0, 5)
    both = own[few], other[few]
    assert prompt_use(both, both, both, TOKENS[few], GROUPS[few], seed=0) is None
    empty = np.zeros(0), np.zeros(0)
    assert prompt_use(empty, empty, empty, np.zeros(0), [], seed=0) is None
