"""The verdict on a run that ended otherwise than planned, and on a training in stages."""

from luthier.core.readable import loss as loss_text
from luthier.core.readable import plural
from luthier.evaluate.event_values import text
from luthier.evaluate.interval import BETTER
from luthier.evaluate.summary import DIVERGED, FORGETTING, NOT_ACCEPTED, OVERFITTING, RunSummary

ENDS = (OVERFITTING, FORGETTING, DIVERGED, NOT_ACCEPTED)
WORDS = {
    OVERFITTING: ("care", "Stopped for overfitting"),
    FORGETTING: ("bad", "Stopped for forgetting"),
    DIVERGED: ("bad", "Diverged"),
    NOT_ACCEPTED: ("bad", "Not accepted"),
}


def end_words(run: RunSummary) -> tuple[str, str, str]:
    """(tone, words, what it means and what to do) for a status of ENDS."""
    tone, words = WORDS[run.status]
    said = {
        OVERFITTING: _overfitting,
        FORGETTING: _forgetting,
        DIVERGED: _diverged,
        NOT_ACCEPTED: _not_accepted,
    }[run.status](run)
    return tone, words, said


def _last(run: RunSummary, kind: str) -> str:
    """What the last decision of a kind says, as a sentence."""
    said = [text(one.fields.get("text")) for one in run.decisions if one.kind == kind]
    words = next((words for words in reversed(said) if words), "")
    words = words if "_" in words.split(" ", 1)[0] else words[:1].upper() + words[1:]
    return words if not words or words.endswith(".") else f"{words}."


def _kept(run: RunSummary) -> str:
    """Which adapter there is."""
    best, step = run.best_validation, run.heldout_step if run.heldout_step is not None else run.best_step
    if run.published == "rejected":
        return "The best adapter is in the folder rejected: to be looked at, not to be used."
    if not run.published and run.heldout is None:
        return "There is no adapter to use."
    at = f" (validation loss {loss_text(best.loss)})" if best is not None and best.step == step else ""
    which = f"The adapter is that of step {step}{at}"
    if run.heldout is not None and run.heldout.verdict == BETTER:
        return f"{which}, and it is clearly better than before the training."
    return f"{which}." if step is not None else "The adapter is that of the last step."


def _overfitting(run: RunSummary) -> str:
    return (
        f"The rows that are trained on still got better while held-out rows got worse. {_kept(run)} To go further, "
        "more or more varied data help most; then a smaller lora_r, or lora_dropout."
    )


def _forgetting(run: RunSummary) -> str:
    return (
        f"{_last(run, 'action') or 'The model lost too much of what it knew.'} {_kept(run)} To try: general_datasets "
        "of your own, a larger replay_share, a lower learning_rate, or fewer epochs."
    )


def _diverged(run: RunSummary) -> str:
    return f"{_last(run, 'diverged') or 'The training could not be held stable.'} {_kept(run)}"


def _not_accepted(run: RunSummary) -> str:
    why = _last(run, "outcome") or _last(run, "gate") or _last(run, "strength")
    failed = next((line for line in run.stages if line.passed is False), None)
    if failed is not None and not run.steps:
        before = failed.parent
        kept = f"What is published is the adapter of stage {before}." if before else "Nothing was published."
        return f"{why or failed.text} {kept}".strip()
    return f"{why} {_kept(run)}".strip()


def plan_words(run: RunSummary) -> tuple[str, str, str] | None:
    """(tone, words, line) of a training in stages that is finished; None for what is not."""
    if not run.stages or run.steps or run.status != "finished":
        return None
    last = run.stages[-1]
    line = f"{plural(len(run.stages), 'stage')}, each with its gate passed"
    if last.base is not None:
        line += f"; on what stage {last.name} holds out, {last.base.verdict} than the base"
    return "good", "All stages accepted", f"{line}."
