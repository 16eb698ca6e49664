"""Did the held-out loss change, and how sure is that? A paired comparison with a 95 % interval.

Both models are measured on the same records, so the comparison is paired: what makes a record hard for one model
makes it hard for the other, and resampling records with both of their losses keeps that. Records of one group (one
source module, one conversation thread) resemble each other, so whole groups are resampled, not records.

Sources: B. Efron, "Better Bootstrap Confidence Intervals", JASA 82 (1987) 171-185 (the BCa interval); C. A. Field and
A. H. Welsh, "Bootstrapping clustered data", JRSS B 69 (2007) 369-390 (resampling whole groups); T. C. Hesterberg,
"What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015) 371-386 (bootstrap intervals of few
units are too narrow by about what separates Student's t from the normal, and how to widen them).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from luthier.core.errors import DataError
from luthier.core.seeds import stream_seed

RESAMPLES = 10_000
QUICK_RESAMPLES = 2_000  # for the comparisons that each validation makes: the ends move by a few percent of the width
MOST_UNITS = 250  # more groups than these are dealt into as many heaps first, which bounds a quick comparison's time
LEVEL = 0.95
FEWEST_UNITS = 8  # with fewer groups or records a bootstrap interval is far too narrow to be shown as one
_DRAWS_AT_ONCE = 1_000_000

BETTER = "clearly better"
WORSE = "clearly worse"
SAME = "no measurable difference (interval includes 0)"
UNKNOWN = "too few records to tell"

Interval = tuple[float, float]
Totals = np.ndarray | Sequence[float]  # one sum a row


@dataclass(frozen=True)
class Comparison:
    """Held-out loss before and after training, on the same records.

    `dataclasses.asdict` of it is what the `heldout` event carries.

    Attributes:
        rows: records compared.
        groups: distinct groups among them; a record without a group counts as its own.
        label_tokens: tokens whose loss was measured, over all records.
        before: mean loss before, nats per label token.
        after: mean loss after, nats per label token.
        change_percent: 100 · (before - after) / before; positive means the loss went down.
        interval: 95 % interval of `change_percent`, or None where there are too few records for one.
        loss_interval: 95 % interval of `before - after` in nats per label token, or None likewise.
        method: how the interval was made, for a person to read.
        verdict: the answer in words: BETTER, WORSE, SAME or UNKNOWN.
    """

    rows: int
    groups: int
    label_tokens: int
    before: float
    after: float
    change_percent: float
    interval: Interval | None
    loss_interval: Interval | None
    method: str
    verdict: str


def compare(
    nll_before: np.ndarray, nll_after: np.ndarray, tokens: np.ndarray, groups: Sequence[str], *, seed: int = 0
) -> Comparison:
    """Compare two models by the losses of the same n records.

    Args:
        nll_before: (n,) summed negative log-likelihood of each record's label tokens before training, nats.
        nll_after: (n,) the same after training.
        tokens: (n,) label tokens of each record.
        groups: n group names; "" puts a record in a group of its own.
        seed: the run's seed; the same seed gives the same interval, bit for bit.

    Raises:
        DataError: no label tokens, a loss that is not finite, or a loss of 0 before training.
    """
    before, after, weight = (np.asarray(values, dtype=np.float64) for values in (nll_before, nll_after, tokens))
    assert before.ndim == 1 and before.shape == after.shape == weight.shape == (len(groups),)
    if weight.sum() <= 0:
        raise DataError("the held-out records have no label tokens", fix="hold out records that have an answer")
    broken = int((~np.isfinite(before) | ~np.isfinite(after)).sum())
    if broken:
        raise DataError(
            f"the loss of {broken} of {len(weight)} held-out records is not a finite number",
            fix="the training diverged: lower learning_rate, or go back to an earlier checkpoint",
        )
    if before.sum() <= 0:
        raise DataError(
            "the loss before training is 0: there is nothing to compare with",
            fix="check that the held-out answers are not part of their prompts",
        )

    records = np.stack([before, after, weight], axis=1)  # (n, 3)
    by_group = _by_group(records, groups)
    units, kind, note = by_group, "groups", ""
    if len(by_group) < FEWEST_UNITS:
        count = f"{len(by_group)} group{'s' if len(by_group) > 1 else ''}"
        units, kind = records, "records"
        note = f"; only {count}, so likeness within a group is ignored and the interval is likely too narrow"
    if len(units) < FEWEST_UNITS:
        method = f"no interval: {len(units)} record{'s' if len(units) > 1 else ''}, at least {FEWEST_UNITS} needed"
        change, loss = None, None
    else:
        method = (
            f"paired bootstrap over {len(units):,} {kind}, {RESAMPLES:,} resamples, BCa widened for small samples{note}"
        )
        change, loss = _intervals(units, np.random.default_rng(stream_seed(seed, "evaluate", "interval")))

    total_before, total_after, total_tokens = (float(total) for total in records.sum(axis=0))
    return Comparison(
        rows=len(weight),
        groups=len(by_group),
        label_tokens=int(total_tokens),
        before=total_before / total_tokens,
        after=total_after / total_tokens,
        change_percent=100 * (total_before - total_after) / total_before,
        interval=change,
        loss_interval=loss,
        method=method,
        verdict=verdict(change),
    )


@dataclass(frozen=True)
class Change:
    """How a mean loss changed on the same rows, in nats a label token; above 0 it rose.

    Attributes:
        change: mean after − mean before.
        interval: 95 % interval of it, or None with fewer than FEWEST_UNITS groups.
        rows, groups: what was compared.
    """

    change: float
    interval: Interval | None
    rows: int
    groups: int

    @property
    def fell(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.interval is not None and self.interval[1] < 0

    @property
    def rose(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.interval is not None and self.interval[0] > 0


def paired_change(
    before: Totals, after: Totals, tokens: Totals, groups: Sequence[str], *, seed: int = 0, picked: int = 1
) -> Change:
    """`compare` for the middle of a run: the difference alone, with an interval of fewer resamples.

    Args:
        before, after: (n,) summed negative log-likelihood of each row's label tokens, nats.
        tokens: (n,) label tokens of each row, not all 0.
        groups: n group names; "" puts a row in a group of its own.
        seed: the same seed gives the same interval, bit for bit.
        picked: `before` is the best of so many, which flatters it; the interval is wide enough to hold for all of them
            together (Bonferroni: its level is 1 − 0.05 / picked).
    """
    units = _by_group(np.stack([np.asarray(values, np.float64) for values in (before, after, tokens)], axis=1), groups)
    total, count = units.sum(axis=0), len(units)
    change = float((total[1] - total[0]) / total[2])
    if count < FEWEST_UNITS:
        return Change(change, None, len(groups), count)
    rng = np.random.default_rng(stream_seed(seed, "evaluate", "change"))
    heaps = _heaps(units, rng)
    before_sums, after_sums, token_sums = _resampled(heaps, QUICK_RESAMPLES, rng).T
    without = heaps.sum(axis=0) - heaps  # the jackknife
    differences, jackknife = (after_sums - before_sums) / token_sums, (without[:, 1] - without[:, 0]) / without[:, 2]
    interval = _bca(differences, change, jackknife, level=1 - (1 - LEVEL) / picked)
    return Change(change, interval, len(groups), count)


def gap(one: tuple[Totals, Totals, Sequence[str]], other: tuple[Totals, Totals, Sequence[str]], *, seed: int) -> Change:
    """Mean loss of `other` minus that of `one`: different rows under one model, so the comparison is not paired.

    Args:
        one, other: for each, (n,) summed losses in nats, (n,) label tokens, n group names.
        seed: the same seed gives the same interval.

    Returns:
        The interval is None if either has fewer than FEWEST_UNITS groups; `rows` and `groups` are those of both.
    """
    rng = np.random.default_rng(stream_seed(seed, "evaluate", "gap"))
    sides = [
        _by_group(np.stack([np.asarray(values, np.float64) for values in side[:2]], axis=1), side[2])
        for side in (one, other)
    ]
    means = [float(side[:, 0].sum() / side[:, 1].sum()) for side in sides]
    rows, groups = len(one[2]) + len(other[2]), sum(map(len, sides))
    if min(map(len, sides)) < FEWEST_UNITS:
        return Change(means[1] - means[0], None, rows, groups)
    drawn = [_resampled(_heaps(side, rng), QUICK_RESAMPLES, rng) for side in sides]
    differences = drawn[1][:, 0] / drawn[1][:, 1] - drawn[0][:, 0] / drawn[0][:, 1]
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Change(means[1] - means[0], (float(low), float(high)), rows, groups)


def verdict(interval: Interval | None) -> str:
    """The answer in words, from the interval of the change (positive = lower loss)."""
    if interval is None:
        return UNKNOWN
    low, high = interval
    if low > 0:
        return BETTER
    return WORSE if high < 0 else SAME


def _by_group(records: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """(n, C) values of n rows → (groups, C) sums; a row without a group counts as its own."""
    names = [group or f"\0{row}" for row, group in enumerate(groups)]  # \0: no real group is called that
    distinct, member = np.unique(names, return_inverse=True)
    sums = np.zeros((len(distinct), records.shape[1]))
    np.add.at(sums, member, records)
    return sums


def _heaps(units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At most MOST_UNITS sums of units (U, C), dealt at random so that they are as independent as the units were."""
    if len(units) <= MOST_UNITS:
        return units
    dealt = rng.permutation(len(units)) % MOST_UNITS
    heaps = np.zeros((MOST_UNITS, units.shape[1]))
    np.add.at(heaps, dealt, units)
    return heaps


def _resampled(units: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, C) sums over as many units (U, C) as there are, drawn with replacement."""
    count = len(units)
    columns = np.ascontiguousarray(units.T)
    chunk = max(1, _DRAWS_AT_ONCE // count)
    parts = []
    for start in range(0, resamples, chunk):
        drawn = rng.integers(0, count, size=(min(chunk, resamples - start), count))  # (chunk, U) unit indices
        parts.append(np.stack([column[drawn].sum(axis=1) for column in columns], -1))
    return np.concatenate(parts)


def _statistics(totals: np.ndarray) -> np.ndarray:
    """(..., 3) sums of loss before, loss after and tokens → (..., 2): change in percent, loss difference."""
    before, after, tokens = np.moveaxis(totals, -1, 0)
    difference = before - after
    return np.stack([100 * difference / before, difference / tokens], axis=-1)


def _intervals(units: np.ndarray, rng: np.random.Generator) -> tuple[Interval, Interval]:
    """BCa intervals of both statistics from one set of resamples. units: (U, 3) sums per unit, U ≥ FEWEST_UNITS."""
    resampled = _statistics(_resampled(units, RESAMPLES, rng))
    total = units.sum(axis=0)
    estimate = _statistics(total)  # (2,)
    without_one = _statistics(total - units)  # (U, 2): the jackknife
    change, loss = (_bca(resampled[:, i], float(estimate[i]), without_one[:, i]) for i in range(2))
    return change, loss


def _bca(resampled: np.ndarray, estimate: float, without_one: np.ndarray, level: float = LEVEL) -> Interval:
    """Bias-corrected and accelerated interval (Efron 1987).

    The bias correction z0 is how far the estimate lies from the resamples' median; the acceleration a is how fast the
    spread changes with the value, from the skewness of the leave-one-out estimates. The tails are set wider for few
    units as Hesterberg (2015) does for percentile intervals: sqrt(U / (U - 1)) times Student's t, not the normal.
    """
    normal = NormalDist()
    freedom = len(without_one) - 1
    tail = math.sqrt((freedom + 1) / freedom) * _student_t(normal.inv_cdf((1 + level) / 2), freedom)
    below = ((resampled < estimate).sum() + 0.5 * (resampled == estimate).sum()) / len(resampled)
    z0 = normal.inv_cdf(float(np.clip(below, 1 / len(resampled), 1 - 1 / len(resampled))))
    spread = without_one.mean() - without_one
    variance = float((spread**2).sum())
    acceleration = float((spread**3).sum()) / (6 * variance**1.5) if variance > 0 else 0.0

    def quantile(tail: float) -> float:
        z = z0 + tail
        return float(np.quantile(resampled, normal.cdf(z0 + z / (1 - acceleration * z))))

    return quantile(-tail), quantile(tail)


def _student_t(z: float, freedom: int) -> float:
    """Student's t at the level whose normal quantile is z (Abramowitz and Stegun 26.7.5, three correction terms)."""
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
