"""The learning-rate range test: which rates the adapter bears, tried for a moment before the run begins.

On a copy of the adapter the rate rises exponentially from step to step (Smith 2015, arXiv:1506.01186). Each step has
other rows of the training data, and before it is taken their loss is compared with the loss that the same rows had
before the first step. That difference has no part of how hard the rows are, which would drown the course in a test of
two dozen small steps. It falls while the rate is useful, and shoots up where the rate destroys more than it learns.

Where it has risen well above its least is found far more steadily than where the fall is steepest, the loss least, or
the change zero: the useful rates change the loss by less than one row differs from the next. So that limit is measured,
and a fixed part of it is taken. The slower the rate rises, the longer each rate acts and the lower is the limit, about
with the root of the steps for each factor of e. `docs/recipe.md` has the evidence.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from luthier.core.seeds import stream_seed
from luthier.data.collate import collate
from luthier.data.render import Row
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.recipe import Recipe
from luthier.train.objective import sft_loss
from luthier.train.optim import gradient_norm, make_optimizer
from luthier.train.settings import Settings

SHARE = 0.05  # of the run's tokens that the test may take
COST = 1.5  # of a step of the test, in tokens for each of its tokens: a forward pass alone is half of one with backward
MIN_STEPS, USUAL_STEPS, MAX_STEPS = 8, 24, 40
BELOW, ABOVE = 4.0, 64.0  # the test runs from the guess / BELOW to the guess · ABOVE
LOST = 0.7  # nats above the least so far; a rate that does this is beyond the limit, and two such steps end the test
CLIP = 1.5  # nats; beyond it, how far a step is lost makes no difference
DIVISOR = 12.0  # the limit is divided by it, and multiplied by √(steps for each factor of e in the rate)


@dataclass(frozen=True)
class RangeTest:
    """What the test saw and what was chosen. Every field is a JSON value.

    Attributes:
        rates: the learning rate of each step, rising.
        losses: for each step, the loss of its rows before it is taken less their loss before the first (nats a token).
        smoothed: the same, CLIP at most, each with its neighbours.
        chosen: the peak learning rate for the run.
        guess: the formula's.
        why: how it was chosen, in words.
        steps: steps taken; 0 is no test.
        tokens: what they cost; a forward pass alone counts as half.
        seconds: how long it took.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    chosen: float
    guess: float
    why: str
    steps: int
    tokens: int
    seconds: float


def range_rows(rows: Sequence[Row], settings: Settings, *, seed: int) -> list[list[Row]]:
    """Rows for each step of the test, drawn from the training rows; none is drawn twice.

    About USUAL_STEPS steps, of no more tokens than a microstep of the run has. A row that is longer than such a step
    is left out. All together they cost SHARE of the run's tokens at most.

    Returns:
        MIN_STEPS to MAX_STEPS lists of rows, or none where the run is too short for a test.
    """
    budget = run_tokens(rows, settings) * SHARE / COST
    mean = sum(len(row.ids) for row in rows) / len(rows)
    size = min(max(budget / USUAL_STEPS, min(1.25 * mean, budget / MIN_STEPS)), settings.micro_batch_tokens)
    order = np.random.default_rng(stream_seed(seed, "range test")).permutation(len(rows))
    steps: list[list[Row]] = []
    step: list[Row] = []
    taken = room = 0.0
    for row in (rows[i] for i in order):
        length = len(row.ids)
        if length > size or not row.mask.any():
            continue
        if step and (length > room or room < size / 4):
            steps.append(step)
            step, room = [], 0.0
        if len(steps) == MAX_STEPS or taken + length > budget:
            break
        room = (room if step else size) - length
        step.append(row)
        taken += length
    if step and len(steps) < MAX_STEPS:
        steps.append(step)
    return steps if len(steps) >= MIN_STEPS else []


def run_tokens(rows: Sequence[Row], settings: Settings) -> int:
    """Tokens that the plan trains on, over all its steps."""
    return sum(len(rows[i].ids) for _, step in settings.steps for microstep in step for i in microstep)


def range_test(
    decoder: Decoder,
    adapter: Adapter,
    recipe: Recipe,
    microsteps: Sequence[Sequence[Row]],
    *,
    guess: float,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> RangeTest:
    """Try rising learning rates on the adapter, put it back as it was, bit for bit, and choose.

    Args:
        microsteps: from `range_rows`; none is no test, and the guess is taken.
        guess: the middle of what is tried, `settings.guessed_learning_rate`.
        seed: decides the dropout.
        progress: receives steps done and steps in all. What it raises goes through, and the adapter is put back first.
    """
    began = time.monotonic()
    if not microsteps:
        why = (
            f"the formula's rate is taken: a test may cost {SHARE:.0%} of the run's tokens, and that is fewer than "
            f"{MIN_STEPS} steps of a row or more. It takes a run of about {MIN_STEPS * COST / SHARE:,.0f} rows, every "
            "epoch counted"
        )
        return RangeTest([], [], [], guess, guess, why, 0, 0, 0.0)
    rates = np.geomspace(guess / BELOW, min(1.0, guess * ABOVE), len(microsteps)).tolist()
    weights, gradient = adapter.flat.clone(), adapter.grad.clone()
    try:
        before, losses = _sweep(decoder, adapter, recipe, microsteps, rates, seed, progress)
    finally:
        with torch.no_grad():
            adapter.flat.copy_(weights)
            adapter.grad.copy_(gradient)
    changes = [loss - first for loss, first in zip(losses, before, strict=False) if math.isfinite(loss)]
    broke = rates[len(changes)] if len(changes) < len(losses) else None
    smoothed = smooth(changes)
    spacing = math.log(rates[1] / rates[0])
    chosen, why = choose(rates[: len(changes)], smoothed, guess=guess, spacing=spacing, broke=broke)
    lengths = [sum(len(row.ids) for row in microstep) for microstep in microsteps]
    return RangeTest(
        rates=rates[: len(changes)],
        losses=changes,
        smoothed=smoothed,
        chosen=chosen,
        guess=guess,
        why=why,
        steps=len(losses),
        tokens=round(sum(lengths) * (COST - 1) + sum(lengths[: len(losses)])),
        seconds=time.monotonic() - began,
    )


def _sweep(
    decoder: Decoder,
    adapter: Adapter,
    recipe: Recipe,
    microsteps: Sequence[Sequence[Row]],
    rates: Sequence[float],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[float], list[float]]:
    """Losses of each step's rows before the first step, and before their own; the last may be not finite.

    Ends early where the rows got much worse twice in a row, or loss or gradient are not finite.
    """
    optimizer = make_optimizer(adapter, recipe)
    adapter.grad.zero_()

    def loss_of(number: int) -> torch.Tensor:
        drop = stream_seed(seed, "range test", number) if adapter.dropout else None  # the same for both losses
        stream = collate(microsteps[number], border=decoder.spec.border)
        segments = Segments.of(stream.lengths, decoder.device, parents=stream.parents)
        tokens, targets = stream.tokens.to(decoder.device), stream.targets.to(decoder.device)
        return sft_loss(decoder.logprobs(tokens, segments, targets, adapter, drop=drop)) / len(stream.targets)

    with torch.no_grad():
        before = []
        for number in range(len(microsteps)):
            before.append(loss_of(number).item())
            if progress is not None:
                progress(number + 1, 2 * len(microsteps))
    losses: list[float] = []
    for number, rate in enumerate(rates):
        loss = loss_of(number)
        loss.backward()
        norm = gradient_norm(adapter.grad)
        losses.append(loss.item() if math.isfinite(norm) else math.nan)
        changes = [then - first for then, first in zip(losses, before, strict=False)]
        if not math.isfinite(changes[-1]) or min(changes[-2:]) > min(smooth(changes)) + LOST:
            break
        optimizer.step(rate, recipe.max_grad_norm / norm if norm > recipe.max_grad_norm else 1.0)
        adapter.grad.zero_()
        if progress is not None:
            progress(len(microsteps) + number + 1, 2 * len(microsteps))
    return before, losses


def smooth(changes: Sequence[float]) -> list[float]:
    """Each change, CLIP at most, as half of itself and a quarter of either neighbour; the ends are their own."""
    clipped = np.minimum(changes, CLIP)
    padded = np.concatenate([clipped[:1], clipped, clipped[-1:]])
    return (padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4).tolist()


def choose(
    rates: Sequence[float], smoothed: Sequence[float], *, guess: float, spacing: float, broke: float | None
) -> tuple[float, str]:
    """A fixed part of the rate at which the smoothed change first is LOST above its least; and why, in words.

    Args:
        rates: rising.
        smoothed: the change of the loss at each (nats a token).
        guess: taken where the test finds no limit.
        spacing: logarithm of the quotient of two neighbouring rates.
        broke: the rate at which loss or gradient were not finite, if any.
    """
    least = np.minimum.accumulate(smoothed) if rates else np.zeros(0)
    above = (np.array(smoothed) - least).tolist()  # the first is zero
    lost = next((i for i, height in enumerate(above) if height > LOST), None)
    seen = f"{len(rates)} rates from {rates[0]:.2g} to {rates[-1]:.2g} were tried for a step each" if rates else (
        "no rate could be tried")  # fmt: skip
    if lost is not None:
        # Where the line between the two neighbours passes LOST, over the logarithm of the rate.
        share = (LOST - above[lost - 1]) / (above[lost] - above[lost - 1])
        limit = rates[lost - 1] * (rates[lost] / rates[lost - 1]) ** share
    elif rates and broke is not None:
        limit = broke
    else:
        return guess, f"the formula's rate is taken: {seen}, and none was too high"
    part = DIVISOR * spacing**0.5
    chosen = float(f"{limit / part:.1e}")
    return chosen, (
        f"{seen}: from {limit:.2g} on they made the loss clearly worse. 1/{part:.1f} of that is taken, "
        f"{chosen:g}; the formula would take {guess:g}"
    )
