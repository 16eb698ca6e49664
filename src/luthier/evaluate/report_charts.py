"""Which curves the report draws, and from what."""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from luthier.core.charts import Series, interval_chart, legend, line_chart, smooth
from luthier.core.readable import loss
from luthier.evaluate.summary import RunSummary, TrainStep

WIDE, NARROW, SMALL = (904, 320), (360, 260), (288, 190)  # drawn as wide as shown, so that texts keep their size


@dataclass(frozen=True)
class Chart:
    """A chart with its heading. `narrow` is the same for phones, or the same drawing where one fits both."""

    title: str
    note: str
    legend: Markup
    wide: Markup
    narrow: Markup


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
    series = []
    if over > 1:
        series += [Series("training loss, each step", xs, ys, "faint"), Series(f"mean of {over} steps", xs, means)]
    elif points:
        series.append(Series("training loss", xs, ys))
    best_text = ""
    if run.validations:
        steps = [point.step for point in run.validations]
        best = steps.index(run.best_step) if run.best_step in steps else None
        label = "validation loss (step 0 is the base model)" if steps[0] == 0 else "validation loss"
        series.append(Series(label, steps, [point.loss for point in run.validations], "points", 2, best))
        best_text = f"best {loss(run.validations[best].loss)}" if best is not None else ""
    marks = _marks(run)
    drawn = [
        line_chart(
            series,
            title="Training and validation loss by step",
            x_label="step",
            width=width,
            height=height,
            marks=marks,
            end_label=best_text,
        )
        for width, height in (WIDE, NARROW)
    ]
    if not drawn[0]:
        return None
    key = Markup(legend(series))
    return Chart("Loss", "nats per label token; lower is better", key, Markup(drawn[0]), Markup(drawn[1]))


def _marks(run: RunSummary) -> list[tuple[float, str]]:
    """Where epochs end (up to nine of them) and where the run was taken up again."""
    ends = [
        (float(before.step), f"epoch {int(before.epoch) + 1}")
        for before, after in zip(run.steps, run.steps[1:], strict=False)
        if before.epoch is not None and after.epoch is not None and int(after.epoch) > int(before.epoch)
    ]
    last = run.steps_done
    ends = [end for end in ends if end[0] < 0.97 * last]
    resumed = [(float(step), "resumed") for step in run.resumed_at if 0 < step < last]
    return (ends if len(ends) < 10 else []) + resumed


def _small(
    run: RunSummary, title: str, value: Callable[[TrainStep], float | None], *, zero: bool = False
) -> Chart | None:
    points = [(step.step, number) for step in run.steps if (number := value(step)) is not None]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    means, over = smooth(ys)
    # The learning rate is exact and has no noise to smooth away.
    noisy = over > 1 and title != "Learning rate"
    series = [Series("", xs, ys, "faint"), Series("", xs, means)] if noisy else [Series("", xs, ys)]
    width, height = SMALL
    svg = line_chart(series, title=f"{title} by step", x_label="step", width=width, height=height, zero=zero)
    return Chart(title, "", Markup(""), Markup(svg), Markup(svg)) if svg else None
