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
        kind: "line", "faint" (the raw values behind a smoothed line), "gone" (what was thrown away), "points" (a thin
            line with dots) or "spots" (dots with the interval of each).
        colour: 1 to 3.
        best: index of the point to mark, or None.
        lows, highs: the interval of each y, drawn as an area, or as a bar where the kind is "spots"; or empty.
        left, right: the interval of each x of "spots", or empty.
        names: a short text beside each point, or empty.
        gaps: (from x, to x) where nothing was drawn from: the line is lifted there.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    kind: Literal["line", "faint", "gone", "points", "spots"] = "line"
    colour: int = 1
    best: int | None = None
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()
    left: Sequence[float] = ()
    right: Sequence[float] = ()
    names: Sequence[str] = ()
    gaps: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Notes:
    """What is drawn beside the curves.

    Attributes:
        marks: (x, text) of thin vertical lines, such as epoch ends.
        bands: (from x, to x, text) of shaded stretches.
        spots: (x, text) of small triangles on the x axis; the text shows on pointing at it.
        levels: (y, text) of horizontal lines, such as a limit.
    """

    marks: Sequence[tuple[float, str]] = ()
    bands: Sequence[tuple[float, float, str]] = ()
    spots: Sequence[tuple[float, str]] = ()
    levels: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class _Scale:
    """One axis: data → drawing."""

    low: float
    high: float
    start: float  # where `low` is drawn
    length: float  # from there to `high`, negative upwards
    log: bool

    def __call__(self, value: float) -> float:
        if self.log:
            return self.start + self.length * math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + self.length * (value - self.low) / (self.high - self.low)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    width: int = 720,
    height: int = 280,
    notes: Notes | None = None,
    zero: bool = False,
    log_x: bool = False,
    y_label: str = "",
    end_label: str = "",
) -> str:
    """An SVG line chart; "" where no series has two points.

    A y axis whose positive values span more than two decades is logarithmic, and says so.

    Args:
        title: read out by screen readers.
        zero: the y axis starts at 0.
        log_x: the x axis is logarithmic.
        y_label: name of the y axis, where the heading does not say it.
        end_label: text beside the marked best point.
    """
    if all(len(curve.xs) < 2 for curve in series):
        return ""
    notes = notes or Notes()
    xs = [x for curve in series for x in (*curve.xs, *curve.left, *curve.right)]
    xs += [x for x, _ in (*notes.marks, *notes.spots)] + [x for start, end, _ in notes.bands for x in (start, end)]
    ys = [y for curve in series for y in (*curve.ys, *curve.lows, *curve.highs)] + [y for y, _ in notes.levels]
    log = min(ys) > 0 and max(ys) / min(ys) > 100
    y_ticks = log_ticks(min(ys), max(ys)) if log else nice_ticks(0 if zero else min(ys), max(ys), max(3, height // 52))
    low, high = (min(ys), max(ys)) if log else (y_ticks[0], y_ticks[-1])
    floor = height - BOTTOM
    py = _Scale(low, high, floor, TOP - floor, log)
    x_low, x_high = _span(min(xs), max(xs), roomy=any(curve.kind == "spots" for curve in series))
    px = _Scale(x_low, x_high, LEFT, width - LEFT - RIGHT, log_x)
    parts = [
        f'<rect class="band" x="{px(max(start, x_low)):.1f}" y="{TOP}" height="{floor - TOP}" '
        f'width="{max(1.0, px(min(end, x_high)) - px(max(start, x_low))):.1f}"><title>{escape(text)}</title></rect>'
        for start, end, text in notes.bands
    ]
    for tick in y_ticks:
        at = f"{py(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at}" dy="0.35em" text-anchor="end">{tick_text(tick, y_ticks)}</text>')
    across = log_ticks(x_low, x_high) if log_x else nice_ticks(x_low, x_high, max(3, width // 110))
    x_ticks = [tick for tick in across if x_low <= tick <= x_high]
    for tick in x_ticks:
        text = f"1e{round(math.log10(tick))}".replace("-", "−") if log_x else tick_text(tick, x_ticks)
        at = min(px(tick), width - 4.0 * len(text))  # half of a wide font's text still fits
        parts.append(f'<text x="{at:.1f}" y="{floor + 18}" text-anchor="middle">{text}</text>')
    parts.append(f'<text class="name" x="{width - RIGHT}" y="{height - 4}" text-anchor="end">{escape(x_label)}</text>')
    if log or y_label:
        named = ", ".join(part for part in (y_label and f"↑ {y_label}", "logarithmic scale" if log else "") if part)
        parts.append(f'<text class="name" x="{LEFT}" y="{height - 4}">{escape(named)}</text>')
    parts += _notes(notes, px, py, width, floor)
    for curve in series:
        parts += _curve(curve, px, py, x_label)
        if curve.best is not None:
            parts += _best(px(curve.xs[curve.best]), py(curve.ys[curve.best]), curve, end_label, width)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _span(low: float, high: float, *, roomy: bool) -> tuple[float, float]:
    """The ends of the x axis; with some room for texts beside points, and never of no length."""
    room = 0.06 * (high - low) if roomy else 0.0
    return (low - room, high + room) if high > low else (low - 1, high + 1)


def _notes(notes: Notes, px: _Scale, py: _Scale, width: int, floor: int) -> list[str]:
    """Lines, triangles and their texts; texts that would overlap go one line down."""
    parts = []
    for y, text in notes.levels:
        at = f"{py(y):.1f}"
        parts.append(f'<line class="level" x1="{LEFT}" x2="{width - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="name" x="{LEFT + 4}" y="{at}" dy="-5">{escape(text)}</text>')
    inside = [(max(start, px.low), text) for start, _, text in notes.bands if start < px.high]
    taken, line = -math.inf, 0
    for x, text, dashed in sorted([(x, t, True) for x, t in notes.marks] + [(x, t, False) for x, t in inside]):
        at = f"{px(x):.1f}"
        line = 0 if px(x) > taken else line + 1
        taken = max(taken, px(x) + 8 + 7 * len(text)) if line else px(x) + 8 + 7 * len(text)
        side = 'dx="-4" text-anchor="end"' if px(x) > width - 16 - 7 * len(text) else 'dx="4"'
        if dashed:
            parts.append(f'<line class="mark" x1="{at}" x2="{at}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text class="name" x="{at}" y="{TOP + 15 * line}" dy="0.7em" {side}>{escape(text)}</text>')
    for x, text in notes.spots:
        at = px(x)
        parts.append(
            f'<path class="spot" d="M{at - 4.5:.1f} {floor}L{at + 4.5:.1f} {floor}L{at:.1f} {floor - 8}Z">'
            f"<title>{escape(text)}</title></path>"
        )
    return parts


def _curve(curve: Series, px: _Scale, py: _Scale, x_label: str) -> list[str]:
    """The interval behind it, the line, its dots and their names."""
    if not curve.xs:
        return []
    parts, colour = [], f"var(--c{curve.colour})"
    spots = curve.kind == "spots"
    if curve.lows and not spots:
        there = [f"{px(x):.1f} {py(y):.1f}" for x, y in zip(curve.xs, curve.highs, strict=True)]
        back = [f"{px(x):.1f} {py(y):.1f}" for x, y in zip(curve.xs, curve.lows, strict=True)][::-1]
        parts.append(f'<path class="area" style="fill:{colour}" d="M{"L".join(there + back)}Z"/>')
    if curve.lows and spots:
        for x, low, high in zip(curve.xs, curve.lows, curve.highs, strict=True):
            parts.append(_bar(px(x), py(low), px(x), py(high), colour))
    for y, low, high in zip(curve.ys, curve.left, curve.right, strict=bool(curve.left)):
        parts.append(_bar(px(low), py(y), px(high), py(y), colour))
    path, last = "", -math.inf
    for x, y in zip(*thin(curve.xs, curve.ys), strict=True):
        lifted = not path or any(last <= start and x >= end for start, end in curve.gaps)
        path += f"{'M' if lifted else 'L'}{px(x):.1f} {py(y):.1f}"
        last = x
    parts.append(f'<path class="curve {curve.kind}" style="stroke:{colour}" d="{path}"/>')
    if curve.kind in ("points", "spots"):
        for index, (x, y) in enumerate(zip(curve.xs, curve.ys, strict=True)):
            name = curve.names[index] if curve.names else ""
            parts.append(_dot(px(x), py(y), curve, f"{name or f'{x_label} {x:,.0f}'}: {y:.3f}"))
            if name:
                parts.append(f'<text class="name" x="{px(x):.1f}" y="{py(y):.1f}" dx="7" dy="-7">{escape(name)}</text>')
    return parts


def _bar(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line class="whisker" style="stroke:{colour}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


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
