"""How many tokens of each category to train on in an epoch. Pure arithmetic on counts of tokens.

With n_i tokens of category i and a temperature T, its share is p_i ∝ n_i^(1/T): T = 1 leaves the mixture as it is, a
higher T lifts what is rare (A. Conneau and G. Lample, "Cross-lingual Language Model Pretraining", 2019, §3.1, where
α = 1/T). 90 % code and 10 % documentation become

    T = 1     90.0 / 10.0     epochs of code 1.00, of documentation 1.00
    T = 2     75.0 / 25.0                    0.83                   2.50
    T = 3.3   66.1 / 33.9                    0.73                   3.39

for the same number of tokens in an epoch. Two limits hold: no category is more than `cap` of it, and no
example is trained on more than `max_epochs` times in an epoch of the mixture. What a limited category leaves free goes
to the others in proportion; where all are limited, the epoch gets shorter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from luthier.core.errors import DataError

CAP: Final = 0.4
MAX_EPOCHS: Final = 4.0
REPLAY: Final = "(replay)"  # name of the part of the mixture that is general data
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Share:
    """A category of the mixture.

    Attributes:
        tokens: it has, which bear loss.
        before: its share of all tokens.
        wanted: the share that temperature, shares or replay ask for.
        after: the share it gets.
        target: tokens of it in an epoch of the mixture.
    """

    tokens: int
    before: float
    wanted: float
    after: float
    target: float

    @property
    def epochs(self) -> float:
        """How often an example of it is trained on in an epoch of the mixture, on average."""
        return self.target / self.tokens


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares by category, the tokens of an epoch, and sentences on what could not be had."""

    shares: Mapping[str, Share]
    total: float
    notes: tuple[str, ...]


def mix(
    tokens: Mapping[str, int],
    *,
    temperature: float = 2.0,
    shares: Mapping[str, float] | None = None,
    cap: float = CAP,
    max_epochs: float = MAX_EPOCHS,
    replay_tokens: int = 0,
    replay: float = 0.0,
    total: float | None = None,
) -> Mixture:
    """Decide the mixture.

    Args:
        tokens: loss-bearing tokens of each category; those without any are left out.
        temperature: 1 or more; not used with `shares`. 2 is the middle of what is usual (1.4 to 3.3).
        shares: of every category, in any unit: only their ratios count. They are an explicit wish, so `cap` does not
            hold for them; `max_epochs` does.
        cap: greatest share of a category in what is not replay. Fewer than 1/cap categories cannot all keep to it; it
            is left out then.
        max_epochs: greatest number of times an example is trained on in an epoch of the mixture.
        replay_tokens: loss-bearing tokens of the general data, which are none of the categories.
        replay: share of the mixture drawn from them; the categories divide the rest.
        total: tokens of an epoch of the mixture; None: as many as the categories have, and the replay on top.

    Raises:
        DataError: no tokens; a category without a share or a share without a category; a number out of range.
    """
    tokens = {name: number for name, number in tokens.items() if number > 0}
    _check(tokens, temperature, shares, cap, max_epochs, replay_tokens, replay)
    notes: list[str] = []
    if shares is not None:
        weights, cap = {name: shares[name] for name in tokens}, 1.0
    else:
        weights = {name: number ** (1 / temperature) for name, number in tokens.items()}
        if len(tokens) * cap < 1 - _TINY:
            if len(tokens) > 1:  # of a single category there is nothing to balance, and nobody misses its cap
                notes.append(f"the cap of {100 * cap:g} % is left out: {len(tokens)} categories cannot all keep to it")
            cap = 1.0
    own = sum(tokens.values())
    asked = own if total is None else total - min(total * replay, max_epochs * replay_tokens)
    wanted = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    caps = {name: cap if share > 0 else 0.0 for name, share in wanted.items()}
    limits = {name: max_epochs * number for name, number in tokens.items()}
    reached = _longest(asked, caps, limits)
    if reached < asked * (1 - 1e-9):
        notes.append(
            f"the epoch has {round(reached):,} tokens instead of {round(asked):,}: no example is trained on more than "
            f"{max_epochs:g} times" + (f", and no category is more than {100 * cap:g} %" if cap < 1 else "")
        )
    after = _fill(wanted, {name: min(caps[name], limits[name] / reached) for name in tokens})
    target = {name: share * reached for name, share in after.items()}
    wanted = {name: (1 - replay) * share for name, share in wanted.items()}
    if replay > 0:
        tokens, wanted = tokens | {REPLAY: replay_tokens}, wanted | {REPLAY: replay}
        limits[REPLAY] = max_epochs * replay_tokens
        target[REPLAY] = min(reached * replay / (1 - replay), limits[REPLAY])
    everything, epoch = sum(tokens.values()), sum(target.values())
    made = {
        name: Share(number, number / everything, wanted[name], target[name] / epoch, target[name])
        for name, number in sorted(tokens.items())
    }
    notes += [
        f"{name!r} is {100 * share.after:.1f} % instead of {100 * share.wanted:.1f} %: no example is trained on more "
        f"than {max_epochs:g} times"
        for name, share in made.items()
        if share.target >= limits[name] * (1 - 1e-9) and share.after < share.wanted - 1e-9
    ]
    return Mixture(made, epoch, tuple(notes))


def _longest(total: float, caps: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """The most tokens up to `total` that the parts can fill: Σ min(cap_i · t, limit_i) ≥ t. The sum is concave in t and
    starts at or above t, so all t below the crossing work, and halving finds it.
    """

    def fits(t: float) -> bool:
        return sum(min(caps[name] * t, limits[name]) for name in caps) >= t * (1 - 1e-12)

    if fits(total):
        return total
    low, high = 0.0, total
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fill(wanted: Mapping[str, float], bounds: Mapping[str, float]) -> dict[str, float]:
    """Shares in proportion to `wanted` that keep to their bounds and sum to 1: what is over a bound is fixed there, and
    the rest divided among the others, until none is over.
    """
    fixed: dict[str, float] = {}
    while True:
        open_ = {name: share for name, share in wanted.items() if name not in fixed}
        free, asked = 1 - sum(fixed.values()), sum(open_.values())
        if asked <= 0 or free <= 0:
            return fixed | dict.fromkeys(open_, 0.0)
        scaled = {name: share * free / asked for name, share in open_.items()}
        over = {name: bounds[name] for name, share in scaled.items() if share > bounds[name] + _TINY}
        if not over:
            return fixed | scaled
        fixed |= over


def _check(
    tokens: Mapping[str, int],
    temperature: float,
    shares: Mapping[str, float] | None,
    cap: float,
    max_epochs: float,
    replay_tokens: int,
    replay: float,
) -> None:
    if not tokens:
        raise DataError("nothing to balance: no example has tokens that bear loss")
    if not temperature >= 1:
        raise DataError(f"a temperature of {temperature:g}", fix="1 leaves the mixture as it is, 2 lifts what is rare")
    if not 0 < cap <= 1:
        raise DataError(f"a cap of {cap:g}", fix="give a share above 0 and up to 1")
    if not max_epochs >= 1:
        raise DataError(f"at most {max_epochs:g} epochs of an example", fix="give 1 or more")
    if not 0 <= replay < 1:
        raise DataError(f"a replay share of {replay:g}", fix="give a share from 0 to below 1; 0.1 is usual")
    if replay > 0 and replay_tokens <= 0:
        raise DataError("a share of replay, and no examples to replay", fix="name the sources of general data")
    assert REPLAY not in tokens, tokens
    if shares is None:
        return
    if missing := sorted(tokens.keys() - shares.keys()):
        raise DataError(
            f"no share for {', '.join(map(repr, missing))}", fix="give every category a share, 0 to leave it out"
        )
    if unknown := sorted(shares.keys() - tokens.keys()):
        raise DataError(
            f"a share for {', '.join(map(repr, unknown))}, of which there are no examples",
            fix=f"categories are {', '.join(map(repr, sorted(tokens)))}",
        )
    if min(shares.values()) < 0 or sum(shares.values()) <= 0:
        raise DataError("shares are negative, or all 0", fix="give shares of 0 or more")
