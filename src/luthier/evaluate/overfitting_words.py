"""What is said about overfitting, a stall, and held-out rows of another kind: sentences with their numbers."""

from luthier.core.readable import SPACE, decimal, places_to_show, plural
from luthier.evaluate.interval import FEWEST_UNITS, Change

TO_TRY = (
    "To try: fewer epochs, more or more varied training data, a smaller lora_r, or lora_dropout between 0.05 and 0.1."
)


def change_words(change: Change, picked: int = 1) -> str:
    """ "rose by 0.12 nats a token (95 % interval 0.08 to 0.16, n = 200 rows in 50 groups)".

    Args:
        picked: what it was compared with is the best of so many; said where the interval was widened for it.
    """
    places = max(2, places_to_show(change.change))
    moved = "rose" if change.change > 0 else "fell"
    text = f"{moved} by {decimal(abs(change.change), places)} nats a token"
    size = f"n{SPACE}={SPACE}{plural(change.rows, 'row')}"
    if change.groups != change.rows:
        size += f" in {plural(change.groups, 'group')}"
    if change.interval is None:
        return f"{text} (no interval, {size})"
    ends = change.interval
    if change.change <= 0:
        ends = (-ends[1], -ends[0])
    widened = f", widened for the best of {picked} validations," if picked > 1 else ""
    return f"{text} (95{SPACE}% interval{widened} {decimal(ends[0], places)} to {decimal(ends[1], places)}, {size})"


def overfit_text(
    val: Change, probe: Change, best_step: int, *, picked: int, times: int, alarm: bool, left: int | None
) -> str:
    """A suspicion, an alarm, or the end.

    Args:
        picked: validations that the one at `best_step` is the best of.
        times: validations in a row that said so.
        alarm: there were enough of them.
        left: validations until the run is stopped, 0 or less now; None if it never is.
    """
    since = f"Since step {best_step}" if best_step else "Since before the training"
    kept = f"The adapter of step {best_step} is the one that is kept."
    if not best_step:
        kept = "No step was better than no training."
    numbers = (
        f"{since} the loss on rows that are trained on {change_words(probe)}, while that on held-out rows "
        f"{change_words(val, picked)}."
    )
    if not alarm:
        return f"Perhaps overfitting. {numbers} If the next validation says the same, it is."
    if left is not None and left <= 0:
        return f"Stopped for overfitting, seen at {times} validations in a row. {numbers} {kept} {TO_TRY}"
    waits = "The run goes on, since overfitting_patience is 0."
    if left is not None:
        waits = f"The run ends if {plural(left, 'more validation')} in a row {'say' if left > 1 else 'says'} the same."
    return f"Overfitting: the training rows are being learned by heart. {numbers} {waits} {kept}"


def stall_text(val: Change, probe: Change, since: int, validations: int) -> str:
    """Nothing moves any more."""
    return (
        f"Nothing has clearly moved for {validations} validations, since step {since}: the loss on rows that are "
        f"trained on {change_words(probe)}, that on held-out rows {change_words(val)}. If that is too early, try a "
        "higher learning_rate or lora_r; if not, fewer epochs give the same."
    )


def gap_text(gap: Change, val_rows: int, probe_rows: int) -> str:
    """Held-out rows that were harder, or easier, before any training."""
    assert gap.interval is not None
    harder = gap.change > 0
    ends = gap.interval if harder else (-gap.interval[1], -gap.interval[0])
    return (
        f"The held-out rows are of another kind: before any training their loss is {decimal(abs(gap.change), 2)} nats "
        f"a token {'higher' if harder else 'lower'} than that of training rows (95{SPACE}% interval "
        f"{decimal(ends[0], 2)} to {decimal(ends[1], 2)}, n{SPACE}={SPACE}{val_rows} and {probe_rows} rows). A gap of "
        "that size later on is no overfitting."
    )


def too_few_text(val_groups: int, probe_groups: int) -> str:
    """Why overfitting cannot be judged."""
    few, what = (val_groups, "held-out") if val_groups <= probe_groups else (probe_groups, "training")
    return (
        f"Overfitting is not watched: there {'is' if few == 1 else 'are'} {plural(few, 'group')} of {what} rows, and "
        f"{FEWEST_UNITS} are needed for an interval. More of them, or a larger val_set_size, would do."
    )
