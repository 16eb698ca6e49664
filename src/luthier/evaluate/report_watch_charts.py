"""Charts of what was watched: the learning rate's search, held-in beside held-out, forgetting, and the strength."""

import math

from luthier.core.charts import Notes, Series
from luthier.core.readable import decimal
from luthier.evaluate.decision_words import rate_text
from luthier.evaluate.event_values import text
from luthier.evaluate.report_charts import Chart, large_chart, overfit_marks
from luthier.evaluate.run_parts import StrengthPoint
from luthier.evaluate.summary import RunSummary

ACTIONS = {"replay": "more replay", "rate": "half the rate", "kl": "KL term", "stop": "stopped"}


def watch_charts(run: RunSummary) -> list[Chart]:
    """Those of them that the run has something for."""
    drawn = (_range_chart(run), _probe_chart(run), _general_chart(run), _strength_chart(run))
    return [chart for chart in drawn if chart is not None]


def _range_chart(run: RunSummary) -> Chart | None:
    test = run.range_test
    if test is None:
        return None
    # The loss at rates that are far too high would squeeze the rest of the curve to nothing: it is cut off.
    roof = max(test.smoothed[0], min(test.losses)) + 0.6 * (test.smoothed[0] - min(test.smoothed) + 0.2)
    losses = [min(loss, roof) for loss in test.losses]
    smoothed = [min(loss, roof) for loss in test.smoothed]
    series = [
        Series("loss at each rate", test.rates, losses, "faint"),
        Series("smoothed", test.rates, smoothed),
    ]
    marks = [] if test.chosen is None else [(test.chosen, f"chosen: {rate_text(test.chosen)}")]
    return large_chart(
        "Learning rates that were tried",
        "each for a step, on a copy of the adapter; nats per label token",
        series,
        x_label="learning rate (logarithmic)",
        log_x=True,
        notes=Notes(marks=marks),
    )


def _probe_chart(run: RunSummary) -> Chart | None:
    inside = [(point.step, point.probe_loss) for point in run.validations if point.probe_loss is not None]
    if len(inside) < 2:
        return None
    outside = [(point.step, point.loss) for point in run.validations]
    series = [
        Series("held-out rows", [x for x, _ in outside], [y for _, y in outside], "points", 2),
        Series("training rows (a fixed sample)", [x for x, _ in inside], [y for _, y in inside], "points", 3),
    ]
    return large_chart(
        "Held-out rows beside training rows",
        "both measured in the same way, without dropout; when they part, rows are learned by heart",
        series,
        x_label="step",
        notes=Notes(marks=overfit_marks([one for one in run.decisions if one.step is not None])),
    )


def _general_chart(run: RunSummary) -> Chart | None:
    points = run.general
    if not points:
        return None
    xs = [0, *(point.step for point in points)]
    ys = [0.0, *(point.change for point in points)]
    ends = [point.interval or (point.change, point.change) for point in points]
    known = any(point.interval is not None for point in points)
    series = Series(
        "general loss against the base" + (f", 95 % interval, n = {points[-1].rows} rows" if known else ""),
        xs,
        ys,
        "points",
        1,
        lows=[0.0, *(low for low, _ in ends)] if known else (),
        highs=[0.0, *(high for _, high in ends)] if known else (),
    )
    budget = points[-1].budget
    levels = [] if budget is None else [(budget, f"{decimal(budget, 2)} allowed")]
    marks = [
        (float(one.step or 0), ACTIONS.get(text(one.fields.get("what")), "action"))
        for one in run.decisions
        if one.kind == "action"
    ]
    return large_chart(
        "What the model may have forgotten",
        "change of the loss on general texts, nats per token; above 0 it got worse",
        [series],
        x_label="step",
        notes=Notes(marks=marks, levels=levels),
    )


def _strength_chart(run: RunSummary) -> Chart | None:
    sweep = run.strength
    points = [] if sweep is None else [point for point in sweep.points if point.general_change is not None]
    if sweep is None or len(points) < 2:
        return None
    chosen = [index for index, point in enumerate(points) if point.strength == sweep.chosen]
    ringed = chosen[0] if chosen and sweep.accepted else None
    names = ["" if index == ringed else f"{point.strength:g}" for index, point in enumerate(points)]
    series = Series(
        "strength of the adapter, with 95 % intervals",
        [point.general_change or 0.0 for point in points],
        [point.target_change for point in points],
        "spots",
        1,
        ringed,
        lows=[_ends(point)[0] for point in points],
        highs=[_ends(point)[1] for point in points],
        left=[(point.general_interval or (point.general_change or 0.0,) * 2)[0] for point in points],
        right=[(point.general_interval or (point.general_change or 0.0,) * 2)[1] for point in points],
        names=names,
    )
    budget = run.general[-1].budget if run.general else None
    shown = budget is not None and math.isfinite(budget) and budget <= 2 * max(series.right)
    return large_chart(
        "What each strength of the adapter gains and costs",
        "against the base, nats per token: further down is better at the task, further right is more forgotten"
        + ("" if ringed is None else "; the ring is the one that was chosen"),
        [series],
        x_label="general texts →",
        y_label="held-out rows",
        notes=Notes(marks=[(budget, f"{decimal(budget, 2)} allowed")] if shown and budget is not None else []),
        end_label=f"{sweep.chosen:g}, chosen",
    )


def _ends(point: StrengthPoint) -> tuple[float, float]:
    return point.target_interval or (point.target_change, point.target_change)
