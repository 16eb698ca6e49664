"""The plan of a run: every row once an epoch, budgets held, the same again for the same seed."""

from collections import Counter

import numpy as np
import pytest

from luthier.data.pack import plan_epoch, plan_pass, plan_run

LENGTHS = np.random.default_rng(0).integers(5, 400, 300).tolist()


def rows_of(steps: list[list[list[int]]]) -> list[int]:
    return [row for step in steps for micro in step for row in micro]


def epoch(**changes: int) -> list[list[list[int]]]:
    return plan_epoch(LENGTHS, **{"batch_tokens": 4096, "micro_batch_tokens": 1024, "seed": 0, "epoch": 0, **changes})


def test_every_row_is_used_exactly_once() -> None:
    assert Counter(rows_of(epoch())) == Counter(range(len(LENGTHS)))


def test_microsteps_hold_their_budget() -> None:
    assert all(sum(LENGTHS[row] for row in micro) <= 1024 for step in epoch() for micro in step)


def test_a_row_longer_than_the_budget_is_alone() -> None:
    steps = plan_epoch([2000, 10, 10], batch_tokens=4096, micro_batch_tokens=100, seed=0, epoch=0)
    assert [[0], [1, 2]] in steps


def test_steps_are_even_and_there_is_no_small_last_one() -> None:
    sizes = [sum(LENGTHS[row] for micro in step for row in micro) for step in epoch()]
    assert len(sizes) == round(sum(LENGTHS) / 4096)
    assert max(sizes) - min(sizes) <= 2 * max(LENGTHS)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert epoch() == epoch()
    assert epoch() != epoch(seed=1)
    assert epoch() != epoch(epoch=1)


@pytest.mark.parametrize(("epochs", "share"), [(1.0, 1.0), (2.5, 2.5), (0.25, 0.25), (3.0, 3.0)])
def test_epochs_may_be_fractions(epochs: float, share: float) -> None:
    arguments = {"batch_tokens": 1000, "micro_batch_tokens": 500, "seed": 3}
    one = len(plan_run(LENGTHS, num_epochs=1, **arguments))
    plan = plan_run(LENGTHS, num_epochs=epochs, **arguments)
    assert len(plan) == pytest.approx(share * one, abs=1)
    assert [number for number, _ in plan] == sorted(number for number, _ in plan)


def test_a_shorter_plan_is_the_beginning_of_the_longer_one() -> None:
    arguments = {"batch_tokens": 1000, "micro_batch_tokens": 500, "seed": 3, "num_epochs": 2}
    assert plan_run(LENGTHS, max_steps=7, **arguments) == plan_run(LENGTHS, **arguments)[:7]


def test_fewer_rows_than_steps() -> None:
    plan = plan_run([5000, 5000], batch_tokens=100, micro_batch_tokens=100, seed=0, num_epochs=1)
    assert sorted(rows_of([step for _, step in plan])) == [0, 1]
    assert len(plan) == 2


def test_a_pass_has_every_row_in_few_streams() -> None:
    passes = plan_pass(LENGTHS, 2048)
    assert sorted(row for micro in passes for row in micro) == list(range(len(LENGTHS)))
    assert len(passes) <= 1.1 * sum(LENGTHS) / 2048 + 1
