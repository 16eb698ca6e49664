"""How strong the adapter should act: the best on the target of the strengths that keep within the forgetting budget.

Between the base (strength 0) and the tuned model (1) lies a line of models, and often one between them is nearly as
good at the new task and has forgotten much less (M. Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models",
arXiv:2109.01903). With LoRA a model on that line costs nothing: the adapter's product B A is scaled, which is done to
B, so that what is published is an ordinary adapter.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from luthier.core.readable import SPACE, decimal
from luthier.core.seeds import stream_seed
from luthier.data.render import Row
from luthier.evaluate.interval import Change, paired_change
from luthier.evaluate.losses import RowLosses, row_losses
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.stages.forgetting import ForgettingWatch
from luthier.stages.forgetting_rule import Judgement

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
MOST_ROWS = 96  # of the validation rows; strengths are compared on the same ones, which takes few


@dataclass(frozen=True)
class Point:
    """One strength.

    Attributes:
        strength: what B A is multiplied by.
        target_loss: nats a token on the validation rows.
        target_change, target_interval: against the base, paired.
        general_change, general_interval: of the general loss against the base, paired; None without general rows.
        inside: within the budget.
    """

    strength: float
    target_loss: float
    target_change: float
    target_interval: tuple[float, float] | None
    general_change: float | None
    general_interval: tuple[float, float] | None
    inside: bool


@dataclass(frozen=True)
class Strength:
    """What was chosen.

    Attributes:
        points: in the order of their strength.
        chosen: the strength that the adapter has now.
        accepted: the point is within the budget, and its target loss is not surely worse than the base's.
        text: why, for a person.
    """

    points: list[Point]
    chosen: float
    accepted: bool
    text: str

    def event(self) -> dict[str, Any]:
        """The fields of a `strength` event."""
        return asdict(self)


def choose_strength(
    decoder: Decoder,
    adapter: Adapter,
    val: Sequence[Row],
    watch: ForgettingWatch,
    *,
    base: RowLosses,
    full: RowLosses | None,
    origin: torch.Tensor | None = None,
    step: int,
    seed: int,
    micro_batch_tokens: int,
    say: Callable[[str, int, int], None] | None = None,
) -> Strength:
    """Measure the strengths and leave the adapter at the one that is chosen; at 1 if none is accepted.

    Where the adapter has DoRA only 1 is measured: its magnitudes belong to the direction that the whole of B A gives.

    Args:
        val: validation rows, at least one; of many, MOST_ROWS are used.
        watch: after `before`; its measurement after `step` is used again.
        base: loss of the base on `val`.
        full: loss of the adapter as it is on `val`, if it is known.
        origin: (P,) the weights that the training began with, where that is an earlier stage's adapter: strength 0 is
            then that adapter, and those between are on the line of weights, with DoRA, too.
        step: the step whose weights the adapter has.
        seed: of the intervals.
    """
    start = adapter.flat.detach().clone()
    some = sorted(range(len(val)), key=lambda row: stream_seed(seed, "strength", val[row].record_id, row))[:MOST_ROWS]
    held, val = len(val), [val[row] for row in some]
    base, full = _some(base, some), None if full is None else _some(full, some)
    groups = [row.group for row in val]
    points: list[Point] = []
    swept = (1.0,) if adapter.dora and origin is None else STRENGTHS
    for number, strength in enumerate(swept):
        scale_adapter(adapter, start, strength, origin)
        whole = strength == 1.0
        losses = full if whole else None
        if losses is None:
            losses = row_losses(
                decoder,
                val,
                adapter=adapter,
                micro_batch_tokens=micro_batch_tokens,
                progress=None if say is None else lambda done, total: say("validation", done, total),
            )
        now = watch.known(step) if whole else None
        if now is None:
            now = watch.measure(decoder, adapter, moved=False)
        target = paired_change(base.nll, losses.nll, base.tokens, groups, seed=seed)
        points.append(_point(strength, losses.mean, target, watch.judged(now)))
        if say is not None:
            say("strengths", number + 1, len(swept))
    chosen = _best(points)
    accepted = chosen is not None and not (chosen.target_interval is not None and chosen.target_interval[0] > 0)
    strength = chosen.strength if chosen is not None and accepted else 1.0
    scale_adapter(adapter, start, strength, origin)
    text = _told(points, chosen, accepted, watch.budget)
    if len(val) < held:
        text += f". Measured on {len(val)} of the {held:,} held-out rows"
    if origin is not None:
        text += ". Strength 0 is the stage before"
    elif adapter.dora:
        text += ". Other strengths were not tried: with DoRA they have no meaning"
    return Strength(points, strength, accepted, text)


def _some(losses: RowLosses, rows: Sequence[int]) -> RowLosses:
    return RowLosses(losses.nll[list(rows)], losses.tokens[list(rows)])


def scale_adapter(adapter: Adapter, start: torch.Tensor, strength: float, origin: torch.Tensor | None = None) -> None:
    """Set the adapter to `strength` times what it is with the weights `start` (P,); at 1 these, bit for bit.

    Its output is linear in B, of the linears and of the head, and of the embedding in the factor that is not looked up:
    those are scaled, nothing else. With `origin` it is put on the way from there to `start`.
    """
    with torch.no_grad():
        adapter.flat.copy_(start)
        if strength == 1.0:
            return
        if origin is not None:
            adapter.flat.copy_(torch.lerp(origin, start, strength))
            return
        assert not adapter.dora, "magnitudes are not scaled"
        for pairs in adapter.layers:
            for pair in pairs.values():
                for b in pair.bs:
                    b.mul_(strength)
        for table in (adapter.head, adapter.embedding):
            if table is not None:
                table.b.mul_(strength)


def _point(strength: float, target_loss: float, target: Change, judgement: Judgement) -> Point:
    general = judgement.loss
    return Point(
        strength=strength,
        target_loss=target_loss,
        target_change=target.change,
        target_interval=target.interval,
        general_change=None if general is None else general.change,
        general_interval=None if general is None else general.interval,
        inside=judgement.inside,
    )


def _best(points: Sequence[Point]) -> Point | None:
    inside = [point for point in points if point.inside]
    return min(inside, key=lambda point: (point.target_loss, point.strength), default=None)


def _told(points: Sequence[Point], chosen: Point | None, accepted: bool, budget: float) -> str:
    full = points[-1]
    if chosen is None:
        if not _over(points[0], budget):
            return "not accepted: at every strength too many of the questions are lost that the base answers"
        return (
            f"not accepted: at no strength does the general loss stay within {decimal(budget, 2)} nats a token of the "
            f"base's (at {points[0].strength:g} it is {_change(points[0])})"
        )
    at = f"strength {chosen.strength:g}: target loss {decimal(chosen.target_loss, 3)}, general loss {_change(chosen)}"
    if not accepted:
        return f"not accepted: within the budget the target is surely worse than the base's ({at})"
    if chosen is full:
        return f"{at}: the whole adapter is best, and within the budget of {decimal(budget, 2)}"
    forgets = f"forgets too much ({_change(full)})" if _over(full, budget) else "answers too few of the questions"
    why = "is better on the target" if full.inside else forgets
    lost = decimal(chosen.target_loss - full.target_loss, 3)
    than = f"at full strength {decimal(full.target_loss, 3)}, a difference of {lost}"
    if full.inside:
        return f"{at}: it {why} than the whole adapter ({than})"
    return f"{at}: the whole adapter {why}; {than} nats a token{SPACE}on the target"


def _over(point: Point, budget: float) -> bool:
    return point.general_change is not None and point.general_change > budget


def _change(point: Point) -> str:
    if point.general_change is None:
        return "not measured"
    return f"{'+' if point.general_change >= 0 else ''}{decimal(point.general_change, 3)}"
