"""Events to the parts of a summary; what an event lacks or has of the wrong kind is left out."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from luthier.evaluate.event_values import items, mapping, number, numbers, pair, text
from luthier.evaluate.interval import Comparison, verdict
from luthier.evaluate.run_parts import General, RangeTest, StageLine, StrengthPoint, StrengthSweep, TrainStep

Event = Mapping[str, Any]


def train_step(step: int, event: Event) -> TrainStep:
    """A step event."""
    return TrainStep(step, *(number(event, field.name) for field in fields(TrainStep)[1:]))


def comparison(event: Event) -> Comparison | None:
    """The comparison in a heldout event, or None if its losses are missing."""
    before, after = number(event, "before"), number(event, "after")
    if before is None or after is None:
        return None
    change = number(event, "change_percent")
    if change is None:
        change = 100 * (before - after) / before if before else 0.0
    interval = pair(event.get("interval"))
    return Comparison(
        rows=int(number(event, "rows") or 0),
        groups=int(number(event, "groups") or 0),
        label_tokens=int(number(event, "label_tokens") or 0),
        before=before,
        after=after,
        change_percent=change,
        interval=interval,
        loss_interval=pair(event.get("loss_interval")),
        method=text(event.get("method")),
        verdict=text(event.get("verdict")) or verdict(interval),
    )


def general(step: int, event: Event) -> General | None:
    """A forgetting event; None where no general loss was compared."""
    change = number(event, "change")
    if change is None:
        return None
    return General(
        step=step,
        change=change,
        interval=pair(event.get("interval")),
        rows=int(number(event, "n") or 0),
        budget=number(event, "budget"),
        verdict=text(event.get("verdict")),
    )


def strength_sweep(event: Event) -> StrengthSweep:
    """A strength event; points without a target are left out."""
    points = []
    for point in map(mapping, items(event.get("points"))):
        strength, target = number(point, "strength"), number(point, "target_change")
        if strength is None or target is None:
            continue
        points.append(
            StrengthPoint(
                strength=strength,
                target_change=target,
                target_interval=pair(point.get("target_interval")),
                general_change=number(point, "general_change"),
                general_interval=pair(point.get("general_interval")),
                inside=point.get("inside") is True,
            )
        )
    return StrengthSweep(tuple(points), number(event, "chosen"), event.get("accepted") is True, text(event.get("text")))


def range_test(event: Event) -> RangeTest | None:
    """A range_test event; None if its curve is not whole."""
    rates, losses, smoothed = (numbers(event.get(name)) for name in ("rates", "losses", "smoothed"))
    if len(rates) < 2 or len(losses) != len(rates) or any(rate <= 0 for rate in rates):
        return None
    smoothed = smoothed if len(smoothed) == len(rates) else losses
    return RangeTest(rates, losses, smoothed, number(event, "chosen"), text(event.get("why")))


def stage_line(event: Event) -> StageLine | None:
    """A stage event."""
    place = number(event, "number")
    if place is None:
        return None
    return StageLine(int(place), text(event.get("name")), text(event.get("parent")), text(event.get("path")))
