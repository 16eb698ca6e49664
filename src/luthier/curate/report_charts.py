"""The pictures of a dataset report as SVG text that takes its colours from the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from luthier.core.charts import nice_ticks, tick_text
from luthier.core.readable import SPACE, count, decimal

WIDE, NARROW = 904, 360  # drawn as wide as shown, so that texts keep their size
_LINE, _STEP, _GAP, _HEAD = 26, 30, 12, 34


@dataclass(frozen=True)
class Stage:
    """A step: its name, what else it did, and (reason, rows it takes out, link) of what leaves there."""

    name: str
    note: str
    leaves: Sequence[tuple[str, int, str]]


def flow_chart(rows_in: int, stages: Sequence[Stage], ends: Sequence[tuple[str, int]], *, width: int) -> str:
    """The stream of rows from top to bottom; every reason is a branch, true to scale, with its number.

    Args:
        ends: (name, rows) of where the rest arrives, such as the sides of a split.
    """
    room = 260 if width > 600 else 96  # width of all rows
    text_x = room + (44 if width > 600 else 26)
    share = room / max(rows_in, 1)
    edge, y = float(room), float(_HEAD)
    points, branches, texts = [(edge, 0.0), (edge, y)], [], []
    texts.append(_text(text_x, 16, "Rows read", "step") + _text(width, 16, count(rows_in), "step", end=True))
    for stage in stages:
        texts.append(f'<line class="grid" x1="{text_x}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        texts.append(_text(text_x, y + 21, stage.name, "step"))
        if stage.note:
            texts.append(_text(width, y + 21, stage.note, "name", end=True))
        y += _STEP
        points.append((edge, y))
        for reason, rows, link in stage.leaves:
            thick = max(rows * share, 1.0)
            high = max(_LINE, thick + 8)
            branches.append(_branch(edge, edge - rows * share, text_x - 8, y, y + (high - thick) / 2, thick))
            middle = y + high / 2
            edge -= rows * share
            points += [(edge, y), (edge, y + high)]
            shown = reason if width > 600 or len(reason) < 24 else f"{reason[:22]}…"
            label = _text(text_x, middle + 4.5, shown, "reason") + f"<title>{escape(reason)}</title>"
            texts.append(f'<a href="{escape(link)}">{label}</a>')
            percent = f"{SPACE}·{SPACE}{share_text(rows, rows_in)}" if width > 600 else ""
            texts.append(_text(width, middle + 4.5, f"− {count(rows)}{percent}", "reason", end=True))
            y += high
        y += _GAP
        points.append((edge, y))
    used = sum(rows for _, rows in ends)
    texts.append(f'<line class="total" x1="{text_x}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
    percent = f"{SPACE}·{SPACE}{share_text(used, rows_in)}" if width > 600 else ""
    texts.append(_text(text_x, y + 22, "Rows used", "step"))
    texts.append(_text(width, y + 22, f"{count(used)}{percent}", "step", end=True))
    bottom = y + 32
    if len(ends) > 1:
        for name, rows in ends:
            texts.append(_text(text_x, bottom + 13, name, "reason"))
            texts.append(_text(width, bottom + 13, count(rows), "reason", end=True))
            bottom += 24
    points.append((edge, bottom))
    shape = "M0 0" + "".join(f"L{x:.2f} {at:.1f}" for x, at in points) + f"L0 {bottom:.1f}Z"
    title = f"{count(rows_in)} rows read, {count(used)} used; what each step takes out"
    return (
        f'<svg class="chart flow" viewBox="0 0 {width} {bottom + 6:.0f}" role="img" aria-label="{escape(title)}">'
        f'<title>{escape(title)}</title><path class="stream" d="{shape}"/>{"".join(branches)}{"".join(texts)}</svg>'
    )


def _branch(right: float, left: float, end: float, top: float, at: float, thick: float) -> str:
    """A band that leaves the stream between `left` and `right` at `top` and turns to the right, to `end`."""
    low = at + thick
    return (
        f'<path class="branch" d="M{right:.2f} {top:.1f}Q{right:.2f} {at:.1f} {min(right + 10, end):.2f} {at:.1f}'
        f"L{end:.1f} {at:.1f}L{end:.1f} {low:.1f}L{min(right + 10, end):.2f} {low:.1f}"
        f'Q{left:.2f} {low:.1f} {left:.2f} {top:.1f}Z"/>'
    )


def _text(x: float, y: float, text: str, kind: str, *, end: bool = False) -> str:
    side = ' text-anchor="end"' if end else ""
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.1f}"{side}>{escape(text)}</text>'


def share_text(part: float, whole: float) -> str:
    """A share with as many decimals as keep it from reading as nothing, or as everything."""
    value = 100 * part / whole if whole else 0.0
    places = 0 if value in (0, 100) else 1 if 0.05 <= value < 99.95 else 2 if 0.005 <= value < 99.995 else 3
    return f"{decimal(value, places)}{SPACE}%"


def histogram(
    labels: Sequence[str], before: Sequence[int], after: Sequence[int], *, title: str, x_label: str, width: int = 440
) -> str:
    """Shares of rows in each bin: before as an outline, after as bars. "" where there are no rows."""
    if not sum(before) and not sum(after):
        return ""
    height, left, top, bottom = 210, 46, 10, 40
    was, now = ([100 * value / max(1, sum(values)) for value in values] for values in (before, after))
    ticks = nice_ticks(0, max(*was, *now), 4)
    across, down = width - left - 8, height - top - bottom
    step = across / len(labels)

    def py(value: float) -> float:
        return top + down * (1 - value / ticks[-1])

    parts = []
    for tick in ticks:
        at = f"{py(tick):.1f}"
        unit = f"{SPACE}%" if tick else ""
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text x="{left - 8}" y="{at}" dy="0.35em" text-anchor="end">{tick_text(tick, ticks)}{unit}</text>'
        )
    outline = f"M{left} {py(0):.1f}"
    skip = max(1, round(26 / step))
    for index, label in enumerate(labels):
        x = left + index * step
        hint = f"{label}: {share_text(before[index], sum(before))} before, {share_text(after[index], sum(after))} after"
        parts.append(
            f'<rect class="now" x="{x + 2:.1f}" y="{py(now[index]):.1f}" width="{step - 4:.1f}" '
            f'height="{py(0) - py(now[index]):.1f}"><title>{escape(hint)}</title></rect>'
        )
        outline += f"L{x:.1f} {py(was[index]):.1f}L{x + step:.1f} {py(was[index]):.1f}"
        if index % skip == 0:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{height - bottom + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<path class="was" d="{outline}L{left + across:.1f} {py(0):.1f}"/>')
    parts.append(f'<text class="name" x="{width - 8}" y="{height - 4}" text-anchor="end">{escape(x_label)}</text>')
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def bar(before: float, after: float) -> str:
    """Two shares, from 0 to 1, as bars: before as a thin line above after."""
    return (
        '<svg class="bar" viewBox="0 0 200 14" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="was" x="0" y="1" width="{200 * before:.1f}" height="3"/>'
        f'<rect class="now" x="0" y="6" width="{200 * after:.1f}" height="7"/></svg>'
    )


def interval_bar(value: float, low: float, high: float, most: float, kind: str) -> str:
    """A value with its interval on an axis from 0 to `most`."""

    def px(number: float) -> str:
        return f"{4 + 252 * min(number / most, 1.0) if most else 4:.1f}"

    return (
        f'<svg class="chart interval {kind}" viewBox="0 0 260 14" aria-hidden="true">'
        '<line class="grid" x1="4" x2="256" y1="7" y2="7"/>'
        f'<line class="bar" x1="{px(low)}" x2="{px(high)}" y1="7" y2="7"/>'
        f'<circle class="value" cx="{px(value)}" cy="7" r="4.5"/></svg>'
    )
