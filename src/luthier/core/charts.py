"""Small line charts as inline SVG text: no script, no files, colours from the page's CSS variables.

The page defines --ink, --soft, --line and the series colours --c1 to --c3; the charts then follow its light or dark
scheme. Text sizes are in the units of the drawing, so a chart is made as wide as it will be shown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40  # room for tick labels and the x axis' name
_BUCKETS = 240  # a longer curve is drawn by the lowest and highest value of each of so many stretches


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        label: its name in the legend; "" leaves it out.
        xs, ys: points in order of x.
        kind: "line", "faint" (the raw values behind a smoothed line) or "points" (a thin line with dots).
        colour: 1 to 3.
        best: index of the point to mark, or None.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    kind: Literal["line", "faint", "points"] = "line"
    colour: int = 1
    best: int | None = None


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    width: int = 720,
    height: int = 280,
    marks: Sequence[tuple[float, str]] = (),
    zero: bool = False,
    end_label: str = "",
) -> str:
    """An SVG line chart; "" where no series has two points.

    A y axis whose positive values span more than two decades is logarithmic, and says so.

    Args:
        title: read out by screen readers.
        marks: (x, text) of thin vertical lines, such as epoch ends.
        zero: the y axis starts at 0.
        end_label: text beside the marked best point.
    """
    xs = [x for curve in series for x in curve.xs]
    ys = [y for curve in series for y in curve.ys]
    if all(len(curve.xs) < 2 for curve in series):
        return ""
    log = min(ys) > 0 and max(ys) / min(ys) > 100
    y_ticks = log_ticks(min(ys), max(ys)) if log else nice_ticks(0 if zero else min(ys), max(ys), max(3, height // 52))
    low, high = (min(ys), max(ys)) if log else (y_ticks[0], y_ticks[-1])
    x_low, x_high = min(xs), max(xs)
    across, down = width - LEFT - RIGHT, height - TOP - BOTTOM

    def px(x: float) -> float:
        return LEFT + across * (x - x_low) / (x_high - x_low)

    def py(y: float) -> float:
        share = math.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)
        return TOP + down * (1 - share)

    parts = []
    for tick in y_ticks:
        at = f"{py(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at}" dy="0.35em" text-anchor="end">{tick_text(tick, y_ticks)}</text>')
    x_ticks = [tick for tick in nice_ticks(x_low, x_high, max(3, width // 110)) if x_low <= tick <= x_high]
    for tick in x_ticks:
        parts.append(
            f'<text x="{px(tick):.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">'
            f"{tick_text(tick, x_ticks)}</text>"
        )
    parts.append(f'<text class="name" x="{width - RIGHT}" y="{height - 4}" text-anchor="end">{escape(x_label)}</text>')
    if log:
        parts.append(f'<text class="name" x="{LEFT}" y="{height - 4}">logarithmic scale</text>')
    taken = -math.inf  # where the last mark's text ends: texts that would overlap go one line down
    line = 0
    for x, text in sorted(marks):
        at = f"{px(x):.1f}"
        line = 0 if px(x) > taken else line + 1
        taken = px(x) + 8 + 7 * len(text)
        side = 'dx="-4" text-anchor="end"' if px(x) > width - 80 else 'dx="4"'
        parts.append(f'<line class="mark" x1="{at}" x2="{at}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text class="name" x="{at}" y="{TOP + 15 * line}" dy="0.7em" {side}>{escape(text)}</text>')
    for curve in series:
        places = [(px(x), py(y)) for x, y in zip(*thin(curve.xs, curve.ys), strict=True)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="curve {curve.kind}" style="stroke:var(--c{curve.colour})" d="{path}"/>')
        if curve.kind == "points":
            for x, y in zip(curve.xs, curve.ys, strict=True):
                parts.append(_dot(px(x), py(y), curve, f"{x_label} {x:,.0f}: {y:.3f}"))
        if curve.best is not None:
            parts += _best(px(curve.xs[curve.best]), py(curve.ys[curve.best]), curve, end_label, width)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _dot(x: float, y: float, curve: Series, hint: str) -> str:
    return (
        f'<circle class="dot" style="fill:var(--c{curve.colour})" cx="{x:.1f}" cy="{y:.1f}" r="3">'
        f"<title>{escape(hint)}</title></circle>"
    )


def _best(x: float, y: float, curve: Series, text: str, width: int) -> list[str]:
    """A ring around the best point and its text, on the side that has room."""
    side = 'dx="-4" text-anchor="end"' if x > width * 0.72 else 'dx="4"'
    return [
        f'<circle class="ring" style="stroke:var(--c{curve.colour})" cx="{x:.1f}" cy="{y:.1f}" r="7"/>',
        f'<text class="best" x="{x:.1f}" y="{y:.1f}" dy="-14" {side}>{escape(text)}</text>',
    ]


def legend(series: Sequence[Series]) -> str:
    """The key to a chart's curves, as HTML: it wraps where an SVG could not."""
    keys = [
        f'<span class="key"><i class="{curve.kind}" style="--c:var(--c{curve.colour})"></i>{escape(curve.label)}</span>'
        for curve in series
        if curve.label
    ]
    return f'<div class="legend">{"".join(keys)}</div>'


def interval_chart(value: float, interval: tuple[float, float], *, width: int = 720) -> str:
    """A change with its interval on one axis with 0, in percent; positive (better) is to the right."""
    height, axis = 78, 40
    low, high = min(0.0, interval[0], value), max(0.0, interval[1], value)
    room = max(high - low, 1e-9) * 0.08
    ticks = nice_ticks(low - room, high + room, max(3, width // 110))
    first, last = ticks[0], ticks[-1]

    def px(x: float) -> float:
        return 24 + (width - 48) * (x - first) / (last - first)

    parts = [f'<line class="grid" x1="24" x2="{width - 24}" y1="{axis}" y2="{axis}"/>']
    for tick in ticks:
        at, text = f"{px(tick):.1f}", tick_text(tick, ticks)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{axis - 3}" y2="{axis + 3}"/>')
        parts.append(f'<text x="{at}" y="{axis + 20}" text-anchor="middle">{text}{" %" if tick else ""}</text>')
    zero = f"{px(0):.1f}"
    parts.append(f'<line class="zero" x1="{zero}" x2="{zero}" y1="10" y2="{axis + 6}"/>')
    parts.append(f'<text class="name" x="24" y="{height - 2}">← loss higher</text>')
    parts.append(f'<text class="name" x="{width - 24}" y="{height - 2}" text-anchor="end">loss lower →</text>')
    ends = [f"{px(end):.1f}" for end in interval]
    parts.append(f'<line class="bar" x1="{ends[0]}" x2="{ends[1]}" y1="24" y2="24"/>')
    parts += [f'<line class="cap" x1="{end}" x2="{end}" y1="18" y2="30"/>' for end in ends]
    parts.append(f'<circle class="value" cx="{px(value):.1f}" cy="24" r="5.5"/>')
    title = f"Change of the held-out loss: {value:.1f} % lower, 95 % interval {interval[0]:.1f} to {interval[1]:.1f} %"
    return (
        f'<svg class="chart interval" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values that enclose [low, high], with steps of 1, 2, 2.5 or 5 times a power of ten."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12 - math.floor(math.log10(step))) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """The powers of ten within [low, high]."""
    return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick's label, with as many decimals as the distances between the ticks need."""
    if value == 0:
        return "0"
    largest = max(abs(tick) for tick in ticks)
    gap = min((abs(b - a) for a, b in pairwise(ticks)), default=abs(value))
    if largest < 1e-3 or largest >= 1e6:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):.3g}e{int(exponent)}".replace("-", "−")
    decimals = next((places for places in range(9) if abs(round(gap, places) - gap) < gap * 1e-6), 9)
    return f"{value:,.{decimals}f}".replace("-", "−")


def thin(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most two points for each of 240 stretches: the lowest and the highest, so that no spike is lost."""
    if len(xs) <= 2 * _BUCKETS:
        return list(xs), list(ys)
    keep: set[int] = {0, len(xs) - 1}
    for bucket in range(_BUCKETS):
        inside = range(bucket * len(xs) // _BUCKETS, (bucket + 1) * len(xs) // _BUCKETS)
        keep |= {min(inside, key=ys.__getitem__), max(inside, key=ys.__getitem__)}
    order = sorted(keep)
    return [xs[i] for i in order], [ys[i] for i in order]


def smooth(values: Sequence[float]) -> tuple[list[float], int]:
    """The centred moving mean over a twentieth of the values, and over how many; at the ends over those there are."""
    reach = len(values) // 40
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for index in range(len(values)):
        first, end = max(0, index - reach), min(len(values), index + reach + 1)
        means.append((sums[end] - sums[first]) / (end - first))
    return means, 2 * reach + 1
