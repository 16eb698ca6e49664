"""Which curves the report draws, and from what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from luthier.core.charts import Notes, Series, interval_chart, legend, line_chart, smooth
from luthier.core.readable import loss
from luthier.evaluate.event_values import number, text
from luthier.evaluate.run_parts import Decision, TrainStep
from luthier.evaluate.summary import RunSummary

WIDE, NARROW, SMALL = (904, 320), (360, 260), (288, 190)  # drawn as wide as shown, so that texts keep their size
APART = 4  # steps between two that were taken back, from which on they are not joined
CUT = 1.25  # of the highest loss that stands: how much higher one that was taken back is drawn


@dataclass(frozen=True)
class Chart:
    """A chart with its heading. `narrow` is the same for phones; a small one has no legend, and one drawing."""

    title: str
    note: str
    legend: Markup
    wide: Markup
    narrow: Markup


def large_chart(title: str, note: str, series: Sequence[Series], **options: Any) -> Chart | None:
    """A chart across the page, drawn wide and narrow; None where there is too little to draw."""
    drawn = [line_chart(series, title=title, width=width, height=height, **options) for width, height in (WIDE, NARROW)]
    key = Markup(legend(series))
    return Chart(title, note, key, Markup(drawn[0]), Markup(drawn[1])) if drawn[0] else None


def charts(run: RunSummary) -> list[Chart]:
    """The loss chart first, then the small ones; those without enough points are left out."""
    small = [
        _small(run, "Learning rate", lambda step: step.learning_rate),
        _small(run, "Gradient norm", lambda step: step.grad_norm),
        _small(run, "Tokens per second", lambda step: step.tokens_per_second, zero=True),
    ]
    return [chart for chart in (_loss_chart(run), *small) if chart is not None]


def interval_charts(run: RunSummary) -> list[str]:
    """The change with its interval, wide and narrow; empty where there is no interval."""
    if run.heldout is None or run.heldout.interval is None:
        return []
    return [
        interval_chart(run.heldout.change_percent, run.heldout.interval, width=width) for width in (WIDE[0], NARROW[0])
    ]


def _loss_chart(run: RunSummary) -> Chart | None:
    points = [(step.step, step.loss) for step in run.steps if step.loss is not None]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    means, over = smooth(ys)
    series, gaps = [], rewinds(run)
    if over > 1:
        series.append(Series("training loss, each step", xs, ys, "faint", gaps=gaps))
        series.append(Series(f"mean of {over} steps", xs, means, gaps=gaps))
    elif points:
        series.append(Series("training loss", xs, ys, gaps=gaps))
    gone = sorted((step.step, step.loss) for step in run.thrown if step.loss is not None)
    if gone:
        # A loss that went far away would press the rest of the curve flat: it is drawn to the edge.
        roof = CUT * max([*ys, *(point.loss for point in run.validations), 0.1])
        cut = " (higher than shown)" if max(y for _, y in gone) > roof else ""
        xs, ys = [x for x, _ in gone], [min(y, roof) for _, y in gone]
        apart = [(float(x), float(after)) for x, after in pairwise(xs) if after - x > APART]
        series.append(Series(f"taken back by a rewind{cut}", xs, ys, "gone", gaps=apart))
    best_text = ""
    if run.validations:
        steps = [point.step for point in run.validations]
        best = steps.index(run.best_step) if run.best_step in steps else None
        label = "validation loss (step 0 is before the training)" if steps[0] == 0 else "validation loss"
        series.append(Series(label, steps, [point.loss for point in run.validations], "points", 2, best))
        best_text = f"best {loss(run.validations[best].loss)}" if best is not None else ""
    note = "nats per label token; lower is better"
    if skips := [one for one in run.decisions if one.kind == "skipped"]:
        note += f"; ▲ {'a step that was' if len(skips) == 1 else 'steps that were'} skipped"
    return large_chart("Loss", note, series, x_label="step", notes=loss_notes(run), end_label=best_text)


def rewinds(run: RunSummary) -> list[tuple[float, float]]:
    """For each rewind the step that it went back to, and the one after which it went on."""
    found = []
    for one in run.decisions:
        if one.kind == "rewind" and one.step is not None:
            start, end = number(one.fields, "to_step"), number(one.fields, "next_step")
            found.append((one.step if start is None else start, one.step if end is None else end))
    return found


def _together(stretches: Sequence[tuple[float, float]]) -> list[tuple[float, float, str]]:
    """Bands for rewinds; those that overlap are one."""
    bands: list[tuple[float, float, int]] = []
    for start, end in sorted(stretches):
        if bands and start < bands[-1][1]:
            first, last, times = bands.pop()
            bands.append((first, max(last, end), times + 1))
        else:
            bands.append((start, end, 1))
    return [(start, end, "rewound" if times == 1 else f"rewound {times} times") for start, end, times in bands]


def loss_notes(run: RunSummary) -> Notes:
    """Where epochs end (up to nine of them), where the run was taken up again, and what it did."""
    gaps = rewinds(run)
    ends = [
        (float(before.step), f"epoch {int(before.epoch) + 1}")
        for before, after in zip(run.steps, run.steps[1:], strict=False)
        if before.epoch is not None and after.epoch is not None and int(after.epoch) > int(before.epoch)
        if not any(before.step <= start and after.step > end for start, end in gaps)
    ]
    last = run.steps_done
    marks = [end for end in ends if end[0] < 0.97 * last] if len(ends) < 10 else []
    marks += [(float(step), "resumed") for step in run.resumed_at if 0 < step < last]
    known = [one for one in run.decisions if one.step is not None]
    marks += [(float(one.step or 0), "disk full") for one in known if one.kind == "paused"]
    marks += overfit_marks(known)
    bands = _together(gaps)
    spots = [
        (float(one.step or 0), f"step {one.step} skipped: {text(one.fields.get('reason'))}")
        for one in known
        if one.kind == "skipped"
    ]
    return Notes(marks, bands, spots)


def overfit_marks(decisions: Sequence[Decision]) -> list[tuple[float, str]]:
    """Where each alarm began."""
    return [
        (float(one.step or 0), "overfitting")
        for one in decisions
        if one.kind == "overfit" and number(one.fields, "times") == 2
    ]


def _small(
    run: RunSummary, title: str, value: Callable[[TrainStep], float | None], *, zero: bool = False
) -> Chart | None:
    points = [(step.step, number) for step in run.steps if (number := value(step)) is not None]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    means, over = smooth(ys)
    # The learning rate is exact and has no noise to smooth away.
    noisy = over > 1 and title != "Learning rate"
    gaps = rewinds(run)
    series = [Series("", xs, ys, "faint" if noisy else "line", gaps=gaps)]
    series += [Series("", xs, means, gaps=gaps)] if noisy else []
    width, height = SMALL
    svg = line_chart(series, title=f"{title} by step", x_label="step", width=width, height=height, zero=zero)
    return Chart(title, "", Markup(""), Markup(svg), Markup(svg)) if svg else None
