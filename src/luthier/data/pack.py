"""Which rows go into which step and microstep, for a whole run, from the rows' lengths and the seed alone.

The plan is a pure function, so a resumed run needs no loader state: step n of it is the same rows again.
"""

from collections.abc import Sequence
from itertools import count, islice

import numpy as np

from luthier.core.seeds import stream_seed

Microstep = list[int]  # row indices that share one flat stream
Step = list[Microstep]


def plan_epoch(
    lengths: Sequence[int], *, batch_tokens: int, micro_batch_tokens: int, seed: int, epoch: int
) -> list[Step]:
    """One pass over all rows in an order of its own, cut into steps of nearly equal size.

    Args:
        lengths: tokens of each row.
        batch_tokens: tokens of a step, about: rows are never split, and the steps of an epoch are evened out, so that
            there is no small last one.
        micro_batch_tokens: tokens of a microstep, at most; a longer row gets one to itself.
        seed, epoch: decide the order.
    """
    sizes = np.asarray(lengths)
    order = np.random.default_rng(stream_seed(seed, "shuffle", epoch)).permutation(len(sizes))
    ends = np.cumsum(sizes[order])
    num_steps = min(len(sizes), max(1, round(int(ends[-1]) / batch_tokens)))
    middles = ends - sizes[order] / 2
    of_step = np.minimum((middles * num_steps / ends[-1]).astype(int), num_steps - 1)
    steps = [order[of_step == step].tolist() for step in range(num_steps)]
    return [first_fit(rows, sizes, micro_batch_tokens) for rows in steps if rows]


def first_fit(rows: Sequence[int], sizes: Sequence[int] | np.ndarray, micro_batch_tokens: int) -> Step:
    """First-fit decreasing: the longest rows first, each into the first microstep that has room.

    Args:
        rows: indices into `sizes`.
        sizes: tokens of each row.
    """
    bins: Step = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: (-sizes[row], row)):
        size = int(sizes[row])
        place = next((i for i, free in enumerate(room) if free >= size), None)
        if place is None:
            bins.append([row])
            room.append(micro_batch_tokens - size)
        else:
            bins[place].append(row)
            room[place] -= size
    return bins


def plan_run(
    lengths: Sequence[int],
    *,
    batch_tokens: int,
    micro_batch_tokens: int,
    seed: int,
    num_epochs: float,
    max_steps: int | None = None,
) -> list[tuple[int, Step]]:
    """All steps of a run, each with the epoch it belongs to (counted from 0).

    A fraction of an epoch is that fraction of its steps, at least one. `max_steps` cuts the run short.
    """
    planned: list[tuple[int, Step]] = []
    for epoch in count():
        share = min(1.0, num_epochs - epoch)
        if share <= 1e-9 or (max_steps is not None and len(planned) >= max_steps):
            break
        steps = plan_epoch(
            lengths, batch_tokens=batch_tokens, micro_batch_tokens=micro_batch_tokens, seed=seed, epoch=epoch
        )
        planned += [(epoch, step) for step in islice(steps, max(1, round(share * len(steps))))]
    return planned[:max_steps]


def plan_pass(lengths: Sequence[int], micro_batch_tokens: int) -> list[Microstep]:
    """Every row once, in as few microsteps as first-fit decreasing finds; for evaluation."""
    return first_fit(range(len(lengths)), np.asarray(lengths), micro_batch_tokens)
