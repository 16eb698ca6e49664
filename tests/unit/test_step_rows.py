"""The rows of each step: the plan's own, and replay by the account of its share."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from luthier.data.pack import Step
from luthier.data.render import Row
from luthier.train.progress import Progress
from luthier.train.stream import StepRows, Stream

MICRO = 64


def row(name: str, tokens: int, labels: int) -> Row:
    mask = np.arange(tokens) >= tokens - labels
    return Row(np.arange(tokens, dtype=np.int32), mask, name, name, "")


def rows(name: str, number: int, *, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 30, number)
    return [row(f"{name}{i}", int(n), int(rng.integers(1, n))) for i, n in enumerate(lengths)]


OWN = rows("own", 80)
PLAN: list[tuple[int, Step]] = [(i // 10, [[4 * i, 4 * i + 1], [4 * i + 2, 4 * i + 3]]) for i in range(20)]


def stream(replay: list[Row], **changes: int) -> Stream:
    return Stream(OWN, PLAN, replay, **{"micro_batch_tokens": MICRO, "seed": 0, **changes})


def walk(made: Stream, share: float, steps: int = 20) -> list[StepRows]:
    """All steps, each stored as the loop does."""
    progress, seen = Progress(replay_share=share), []
    for step in range(steps):
        progress.step = step
        seen.append(made.rows_of(progress))
        progress.replay_drawn, progress.replay_owed = seen[-1].drawn, seen[-1].owed
    return seen


def names(step: StepRows, *, replayed: bool) -> list[str]:
    return [
        one.record_id
        for microstep, marks in zip(step.microsteps, step.replayed, strict=True)
        for one, mark in zip(microstep, marks, strict=True)
        if mark == replayed
    ]


@pytest.mark.parametrize(("share", "replay"), [(0.0, rows("r", 5)), (0.5, [])])
def test_without_replay_the_plan_is_left_as_it_is(share: float, replay: list[Row]) -> None:
    for step, (epoch, plan) in zip(walk(stream(replay), share), PLAN, strict=True):
        assert step.microsteps == [[OWN[i] for i in microstep] for microstep in plan]
        assert step.replayed == [[False, False], [False, False]]
        assert (step.epoch, step.drawn, step.owed, step.replay_tokens) == (epoch, 0, 0.0, 0)
        assert step.label_tokens == sum(int(OWN[i].mask.sum()) for microstep in plan for i in microstep)
        assert step.tokens == sum(len(OWN[i].ids) for microstep in plan for i in microstep)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2, 0.5])
def test_the_share_is_held_over_the_run(share: float) -> None:
    replay = rows("r", 17, seed=1)
    seen = walk(stream(replay), share)
    total, given = (sum(getattr(step, name) for step in seen) for name in ("label_tokens", "replay_tokens"))
    longest = max(int(one.mask.sum()) for one in replay)
    assert abs(given - share * total) <= longest  # at no time is more owed than a row
    assert all(abs(step.owed) <= longest for step in seen)


def test_a_row_longer_than_a_step_is_paid_off_by_later_steps() -> None:
    seen = walk(stream([row("long", 60, 59)]), 0.1)
    given = [step.replay_tokens for step in seen]
    assert set(given) == {0, 59}
    assert given.index(59) > 0 and sum(given) / sum(step.label_tokens for step in seen) == pytest.approx(0.1, abs=0.03)
    assert min(step.owed for step in seen) < 0


def test_each_pass_over_the_replay_has_every_row_once_in_its_own_order() -> None:
    replay = rows("r", 7, seed=2)
    made, other = stream(replay), stream(replay, seed=1)
    order = [made._drawn(number).record_id for number in range(21)]
    passes = [order[start : start + 7] for start in (0, 7, 14)]
    assert all(set(names) == {one.record_id for one in replay} for names in passes)
    assert passes[0] != passes[1] != passes[2]
    assert [other._drawn(number).record_id for number in range(7)] != order[:7]
    drawn = [name for step in walk(stream(replay), 0.4) for name in names(step, replayed=True)]
    assert len(drawn) > 14 and Counter(drawn) == Counter(made._drawn(number).record_id for number in range(len(drawn)))


def test_own_rows_are_all_there_and_budgets_are_held() -> None:
    plain, mixed = walk(stream([]), 0.0), walk(stream(rows("r", 9, seed=3)), 0.3)
    for before, after in zip(plain, mixed, strict=True):
        assert sorted(names(before, replayed=False)) == sorted(names(after, replayed=False))
        assert all(name.startswith("r") for name in names(after, replayed=True))
        assert all(sum(len(one.ids) for one in microstep) <= MICRO for microstep in after.microsteps)
        assert after.tokens == sum(len(one.ids) for microstep in after.microsteps for one in microstep)
        least = after.tokens / MICRO
        assert len(after.microsteps) <= 1.7 * least + 1  # first-fit decreasing: no microstep for one small row


def test_it_depends_on_the_progress_alone() -> None:
    replay = rows("r", 9, seed=3)
    straight = walk(stream(replay), 0.3)
    again = stream(replay)
    for step in (13, 4, 19, 4, 0):  # asked in any order, by another process
        before = straight[step - 1] if step else None
        progress = Progress(step=step, replay_share=0.3)
        if before is not None:
            progress.replay_drawn, progress.replay_owed = before.drawn, before.owed
        kept = replace(progress)
        assert again.rows_of(progress) == straight[step]
        assert progress == kept, "asking changes nothing"


def test_the_share_may_change_while_the_run_goes_on() -> None:
    made, progress, given = stream(rows("r", 9, seed=3)), Progress(replay_share=0.05), []
    for step in range(20):
        progress.step = step
        progress.replay_share = 0.05 if step < 10 else 0.4
        seen = made.rows_of(progress)
        progress.replay_drawn, progress.replay_owed = seen.drawn, seen.owed
        given.append((seen.replay_tokens, seen.label_tokens))
    low, high = (sum(r for r, _ in part) / sum(n for _, n in part) for part in (given[:10], given[10:]))
    assert low == pytest.approx(0.05, abs=0.05) and high == pytest.approx(0.4, abs=0.05)


def test_replay_without_trained_tokens_is_refused() -> None:
    with pytest.raises(AssertionError, match="pays nothing"):
        stream([row("blank", 8, 0)])
