"""What a run's numbers mean, in sentences: the verdict and the reasons to believe it or not.

The limits below (how much a loss must move to count as moving, how wide a gap is remarkable) are rules of thumb; they
choose the words and change no number.
"""

from dataclasses import dataclass

from luthier.core.readable import SPACE, decimal, losses, percent, places_to_show, plural
from luthier.core.readable import loss as loss_text
from luthier.evaluate.event_values import number
from luthier.evaluate.interval import BETTER, FEWEST_UNITS, SAME, WORSE, Comparison
from luthier.evaluate.report_ends import ENDS, end_words, plan_words
from luthier.evaluate.summary import CRASHED, FAILED, INTERRUPTED, RUNNING, RunSummary

LEVEL_PERCENT = 0.5  # two validation losses closer than this are the same for a reader
WIDE_GAP_PERCENT = 25.0


@dataclass(frozen=True)
class Remark:
    """One sentence and what it is: "good", "care" (a reason for caution), "bad" or "note"."""

    tone: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """The top of the report: two or three words, the line with the numbers, and whether to believe it.

    `question` stands before the belief; "" where it is no answer to one.
    """

    tone: str
    words: str
    line: str
    belief: str
    remarks: tuple[Remark, ...]
    question: str = ""


def judge(run: RunSummary) -> Verdict:
    """The verdict on a run, for its state: compared, without validation, or not done."""
    if run.status in ENDS:
        return _ended(run)
    if run.heldout is None:
        return _not_compared(run)
    comparison = run.heldout
    state = []
    if run.status in (RUNNING, INTERRUPTED, CRASHED, FAILED):
        state = [Remark("care", f"The run is not complete: it is {run.status} at {_progress(run)}.")]
    remarks = (*state, _split_remark(run, comparison), _size_remark(comparison), *_course_remarks(run), _LIMITS)
    careful = any(remark.tone in ("care", "bad") for remark in remarks)
    if comparison.interval is None:
        tone, belief = "flat", "Not yet: with so few held-out records the difference may be chance."
    elif comparison.verdict == BETTER and comparison.groups < FEWEST_UNITS:
        tone = "good"
        belief = "Take it as a strong hint, not as proof: all held-out records come from very few groups."
    elif comparison.verdict == BETTER:
        tone = "good"
        belief = (
            "Yes, that it got better; mind the cautions below about the size and what to do next."
            if careful
            else "Yes: these records took no part in training, and the whole interval is on the better side of 0."
        )
    elif comparison.verdict == WORSE:
        tone = "bad"
        belief = (
            "Yes: the whole interval is on the worse side of 0. Do not use this adapter; a lower learning_rate or "
            "fewer epochs are the first things to try."
        )
    else:
        tone = "flat"
        belief = (
            "There is nothing to believe yet: the interval includes no change at all. More held-out records narrow "
            "it, more training or more data may move it."
        )
    words = "No measurable difference" if comparison.verdict == SAME else _capital(comparison.verdict)
    return Verdict(tone, words, comparison_line(comparison), belief, remarks, "Can this be believed?")


def _ended(run: RunSummary) -> Verdict:
    """A run that ended before its time, or whose result does not stand."""
    tone, words, said = end_words(run)
    remarks: tuple[Remark, ...] = tuple(_course_remarks(run))
    reached = [one.step for one in run.decisions if one.kind == "diverged" and one.step is not None]
    line = f"It ended at {_progress(run)}." if run.steps else ""
    if reached and run.total_steps:
        line = f"It ended at step {reached[-1]} of {run.total_steps}."
    if run.heldout is not None:
        line = comparison_line(run.heldout)
        remarks = (_split_remark(run, run.heldout), _size_remark(run.heldout), *remarks, _LIMITS)
    return Verdict(tone, words, line, said, remarks)


def comparison_line(comparison: Comparison) -> str:
    """ "Held-out loss 2.31 → 1.82 (21.2 % lower, 95 % interval 18.9–23.4 %, n = 288 records in 14 groups)"."""
    before, after = losses(comparison.before, comparison.after)
    return f"Held-out loss {before} → {after} ({change_text(comparison)}, {sample_size(comparison)})"


def change_text(comparison: Comparison) -> str:
    """The change and its interval in words: "21.2 % lower, 95 % interval 18.9–23.4 %"."""
    change = comparison.change_percent
    if comparison.interval is None:
        return f"{_direction(change)}, no interval"
    low, high = comparison.interval
    level = f"95{SPACE}% interval"
    if low <= 0 <= high:
        return f"{_direction(change)}, {level} from {_direction(low)} to {_direction(high)}"
    places = places_to_show(change, low, high)
    ends = sorted((abs(low), abs(high)))
    return f"{_direction(change, places)}, {level} {decimal(ends[0], places)}–{percent(ends[1], places)}"


def sample_size(comparison: Comparison) -> str:
    """ "n = 288 records in 14 groups"."""
    text = f"n{SPACE}={SPACE}{plural(comparison.rows, 'record')}"
    return text if comparison.groups in (0, comparison.rows) else f"{text} in {plural(comparison.groups, 'group')}"


def _direction(change: float, places: int = 1) -> str:
    """ "21.2 % lower"; what would read as 0 is "under 0.1 % lower", and 0 is "unchanged"."""
    if change == 0:
        return "unchanged"
    size = percent(abs(change), places) if abs(change) >= 0.05 or places > 1 else f"under {percent(0.1)}"
    return f"{size} {'lower' if change > 0 else 'higher'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_LIMITS = Remark(
    "note",
    "A lower loss means that the expected answers of these records became more likely. It does not say whether facts "
    "are right, or what the model has become worse at elsewhere.",
)


def _split_remark(run: RunSummary, comparison: Comparison) -> Remark:
    if run.recipe.get("allow_leaks"):
        return Remark("care", "allow_leaks is set: training records that repeat held-out ones are trained on.")
    if run.recipe.get("val_datasets"):
        return Remark("good", "The held-out records come from val_datasets; no training record repeats one of them.")
    if comparison.groups == comparison.rows:
        return Remark(
            "note",
            "Every record counts as its own group, so close relatives of a held-out record may have been trained on. "
            'Give records of one source the same "group", and the split keeps them together.',
        )
    return Remark("good", "Whole groups were held out: no group has records both in training and here.")


def _size_remark(comparison: Comparison) -> Remark:
    size = (
        f"{_capital(comparison.method or sample_size(comparison))}; {plural(comparison.label_tokens, 'label token')}."
    )
    if comparison.interval is None or comparison.groups < FEWEST_UNITS:
        return Remark("care", size)
    return Remark("good" if comparison.verdict != SAME else "note", size)


def _course_remarks(run: RunSummary) -> list[Remark]:
    """Too short, too long, learned by heart: what the validation losses say, and their distance to training."""
    points = [point for point in run.validations if point.step > 0]
    if not points:
        return []
    base = next((point for point in run.validations if point.step == 0), None)
    last, best = points[-1], run.best_validation or points[-1]
    remarks = []
    kept = ""
    if run.heldout is not None and run.heldout_step == best.step < last.step:
        kept = (
            f" The adapter compared and saved is that of step {best.step}. It was picked by these same records, which "
            "flatters the comparison a little."
        )
    if run.strength is not None and run.strength.chosen not in (None, 1.0):
        flatters = "The adapter's strength was picked by some of these records, which flatters the comparison a little."
        remarks.append(Remark("note", flatters))
    rise = 100 * (last.loss - best.loss) / best.loss if best.loss else 0.0
    alarms = [one for one in run.decisions if one.kind == "overfit" and (number(one.fields, "times") or 0) >= 2]
    watched = any(point.probe_loss is not None for point in points)
    if len(points) < 2:
        remarks.append(Remark("note", "There was one validation only: the course of the training cannot be judged."))
    elif base is not None and base.loss <= best.loss:
        remarks.append(Remark("bad", "No validation was better than the base model before training."))
    elif best.step < last.step and rise > LEVEL_PERCENT and watched and not alarms:
        remarks.append(
            Remark(
                "note",
                f"The validation loss was lowest at step {best.step} and rose {percent(rise)} by step {last.step}; "
                f"that this is overfitting was not shown surely.{kept}",
            )
        )
    elif best.step < last.step and rise > LEVEL_PERCENT:
        remarks.append(
            Remark(
                "care",
                f"The validation loss was lowest at step {best.step} and rose {percent(rise)} by step {last.step}: "
                f"from there on the training rows were learned by heart (overfitting).{kept}",
            )
        )
    elif best.step < last.step:
        remarks.append(
            Remark("good", f"The validation loss was lowest at step {best.step} and stayed level after it.{kept}")
        )
    else:
        before = points[-2]
        fall = 100 * (before.loss - last.loss) / before.loss if before.loss else 0.0
        since = f"{percent(fall)} since step {before.step}"
        if fall > LEVEL_PERCENT:
            longer = "" if run.status in ENDS else ": training longer may help"
            remarks.append(Remark("note", f"The last validation was the best, and still falling ({since}){longer}."))
        else:
            remarks.append(Remark("good", f"The last validation was the best and had levelled off ({since})."))
    inside = last.probe_loss if last.probe_loss is not None else run.train_loss
    if inside is not None and last.loss:
        gap = 100 * (last.loss - inside) / last.loss
        named = "Training loss" if last.probe_loss is None else "Loss on training rows, measured in the same way,"
        sides = f"{named} {loss_text(inside)} at the end, validation loss {loss_text(last.loss)}"
        if gap > WIDE_GAP_PERCENT:
            text = "the model knows the training rows much better than new ones. More or more varied data help most."
            remarks.append(Remark("care", f"{sides}, a gap of {percent(gap)}: {text}"))
        elif gap >= 0:
            remarks.append(Remark("good", f"{sides}: the gap of {percent(gap)} is small."))
        else:
            remarks.append(Remark("note", f"{sides}: the held-out records are the easier ones."))
    return remarks


def _not_compared(run: RunSummary) -> Verdict:
    again = "No checkpoint had been saved yet."
    if run.checkpoint_step is not None:
        again = f"It can be resumed from its checkpoint at step {run.checkpoint_step}."
    stopped = {
        RUNNING: ("Still running", f"This report was written at {_progress(run)}."),
        INTERRUPTED: ("Interrupted", f"The run was stopped at {_progress(run)}. {again}"),
        FAILED: ("Failed", f"The run stopped itself at {_progress(run)}; the warnings below say why. {again}"),
        CRASHED: (
            "Broke off",
            f"The run stopped without writing an end at {_progress(run)}: it failed or was killed. {again}",
        ),
    }
    points = [point for point in run.validations if point.step > 0]
    base = next((point for point in run.validations if point.step == 0), None)
    line = ""
    if points:
        line = f"Validation loss {loss_text(points[-1].loss)} at step {points[-1].step}"
        line += f", {loss_text(base.loss)} before training. No interval was computed." if base else "."
    plan = plan_words(run)
    if plan is not None:
        return Verdict(*plan, "The adapter is that of the last stage; each stage has a report of its own.", ())
    if run.status in stopped:
        words, belief = stopped[run.status]
        return Verdict("flat", words, line, f"{belief} Nothing was compared yet.", tuple(_course_remarks(run)))
    if run.validations:
        belief = "The run ended before the comparison of before and after was made: there is no result to believe."
        return Verdict("flat", "Not compared", line, belief, tuple(_course_remarks(run)))
    belief = (
        "This run held no data back (val_set_size: 0), so nothing shows whether the model got better on data it has "
        "not seen. A falling training loss alone proves nothing: it also falls while rows are learned by heart."
    )
    return Verdict("flat", "Not measured", "", belief, ())


def _progress(run: RunSummary) -> str:
    return f"step {run.steps_done}" + (f" of {run.total_steps}" if run.total_steps else "")
