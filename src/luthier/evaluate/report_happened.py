"""The section "What happened": what the run noticed and did, with its numbers, and what a person can try."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from luthier.core.readable import plural
from luthier.evaluate.decision_words import (
    QUIET,
    rate_text,
    records_text,
    rewind_text,
    skip_numbers,
    waited_text,
    wheres_of,
)
from luthier.evaluate.event_values import number, text
from luthier.evaluate.run_parts import Decision
from luthier.evaluate.summary import RunSummary

MOST_REASONS, MOST_STEPS = 4, 6  # told one by one


@dataclass(frozen=True)
class Happening:
    """One entry: `tone` is that of a remark, `title` a few words, `text` what and why, `advice` what to try or ""."""

    tone: str
    title: str
    text: str
    advice: str = ""


def happenings(run: RunSummary) -> list[Happening]:
    """What is worth telling of a run, in order; nothing where all went as planned."""
    told: list[Happening] = []
    for kind, group in groupby(_worth_telling(run.decisions), key=_family):
        some = list(group)
        if kind in _TELL and not (kind == "gate" and not run.steps):  # a plan's gates are told by its stages
            told += _TELL[kind](some)
    return told


def _worth_telling(decisions: Sequence[Decision]) -> list[Decision]:
    """Without validations that found nothing, and of each row of overfitting ones the last, which says the most."""
    last = {number(one.fields, "since"): one for one in decisions if one.kind == "overfit"}
    return [
        one
        for one in decisions
        if not (one.kind == "forgetting" and text(one.fields.get("verdict")) in QUIET)
        and not (one.kind == "overfit" and last[number(one.fields, "since")] is not one)
    ]


def _family(decision: Decision) -> str:
    """What is told together."""
    return {"unpaused": "paused", "action": "forgetting"}.get(decision.kind, decision.kind)


def _skipped(some: Sequence[Decision]) -> list[Happening]:
    reasons = [(why, list(same)) for why, same in groupby(some, key=lambda one: text(one.fields.get("reason")))]
    parts = []
    for why, same in reasons[:MOST_REASONS]:
        steps = [str(one.step) for one in same]
        shown = steps if len(steps) <= MOST_STEPS else [*steps[:MOST_STEPS], f"{len(steps) - MOST_STEPS} more"]
        where = {"wheres": [at for one in same for at in wheres_of(one.fields)]}
        named = f"step{'s' if len(steps) > 1 else ''} {_listed(shown)}"
        parts.append(f"{named}: {why}{skip_numbers(same[0].fields) if len(same) == 1 else ''}{records_text(where)}")
    rest = sum(len(same) for _, same in reasons[MOST_REASONS:])
    more = f"; and {plural(rest, 'more step')}" if rest else ""
    named = any(wheres_of(one.fields) for one in some)
    return [
        Happening(
            "care",
            f"{plural(len(some), 'step')} skipped",
            f"{_capital('; '.join(parts))}{more}. No weight was changed by {'it' if len(some) == 1 else 'them'}.",
            "Look at the records that are named: text that repeats itself, or is no text, is the usual cause."
            if named
            else "",
        )
    ]


def _listed(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _rewind(some: Sequence[Decision]) -> list[Happening]:
    again = "Should it come back, a lower learning_rate or a longer warmup (warmup_ratio) is what to try first."
    return [
        Happening(
            "care",
            f"Rewound at step {one.step}",
            f"The run {rewind_text(one.fields)}.",
            again if one is some[-1] else "",
        )
        for one in some
    ]


def _diverged(some: Sequence[Decision]) -> list[Happening]:
    said = text(some[-1].fields.get("text")) or text(some[-1].fields.get("reason"))
    return [Happening("bad", "Diverged", _capital(said))]


def _paused(some: Sequence[Decision]) -> list[Happening]:
    told = []
    for one in some:
        if one.kind == "paused":
            told.append(Happening("care", f"Waited for the disk at step {one.step}", _capital(_said(one))))
        elif told:
            old = told.pop()
            told.append(Happening("note", old.title, f"{old.text}; {waited_text(one.fields)}."))
    return told


def _overfit(some: Sequence[Decision]) -> list[Happening]:
    told = []
    for one in some:
        alarm = (number(one.fields, "times") or 0) >= 2
        title = "Overfitting" if alarm else "A suspicion of overfitting"
        told.append(Happening("bad" if alarm else "note", f"{title}, step {one.step}", _said(one)))
    return told


def _forgetting(some: Sequence[Decision]) -> list[Happening]:
    """Each action with what led to it, and the last measurement if it was not fine."""
    told, seen = [], None
    for one in some:
        if one.kind == "forgetting":
            seen = one
            continue
        why = f" {_capital(_said(seen))}." if seen is not None else ""
        stop = one.fields.get("what") == "stop"
        unrelated = one.fields.get("unrelated") is True
        title = "The answers do not go by their prompts" if unrelated else "Against forgetting"
        told.append(Happening("bad" if stop else "care", f"{title}, step {one.step}", _full(one) + why))
        seen = None
    if seen is not None and seen.fields.get("unrelated") is True:
        title = f"The answers go less by their prompts, step {seen.step}"
        told.append(Happening("care", title, _full(seen), "See whether each answer stands with its own prompt."))
    elif seen is not None:
        title = f"The model begins to forget, step {seen.step}"
        told.append(
            Happening("care", title, _full(seen), "A larger replay_share, or general_datasets of your own, hold it.")
        )
    return told


def _strength(some: Sequence[Decision]) -> list[Happening]:
    fields = some[-1].fields
    accepted, chosen = fields.get("accepted") is True, number(fields, "chosen")
    if not accepted:
        lower = "Try a larger replay_share, a lower learning_rate or fewer epochs; or allow more with max_forgetting."
        return [Happening("bad", "No strength of the adapter is good enough", _full(some[-1]), lower)]
    title = f"The adapter acts at strength {chosen:g}" if chosen is not None else "The adapter's strength"
    return [Happening("note", title, _full(some[-1]))]


def _range_test(some: Sequence[Decision]) -> list[Happening]:
    fields = some[-1].fields
    chosen, steps = number(fields, "chosen"), number(fields, "steps")
    title = (
        "The learning rate was looked for" if chosen is None else f"Learning rate {rate_text(chosen)} by a range test"
    )
    cost = f" It took {plural(steps, 'step')} on a copy." if steps is not None else ""
    why = _capital(text(fields.get("why")))
    return [Happening("note", title, f"{why}{'' if why.endswith('.') else '.'}{cost}")]


def _gate(some: Sequence[Decision]) -> list[Happening]:
    return [
        Happening(
            "good" if one.fields.get("passed") is True else "bad",
            f"Gate of stage {one.fields.get('stage')}",
            _full(one),
        )
        for one in some
    ]


def _outcome(some: Sequence[Decision]) -> list[Happening]:
    fields = some[-1].fields
    if not text(fields.get("text")):
        return []
    kept = " The adapter is kept in the folder rejected, to be looked at." if fields.get("folder") == "rejected" else ""
    return [Happening("bad", "The adapter was not published", _full(some[-1]) + kept)]


def _advice(some: Sequence[Decision]) -> list[Happening]:
    return [
        Happening("note", "Advice" if one.step is None else f"Noticed at step {one.step}", _full(one)) for one in some
    ]


_TELL: dict[str, Callable[[Sequence[Decision]], list[Happening]]] = {
    "skipped": _skipped,
    "rewind": _rewind,
    "diverged": _diverged,
    "paused": _paused,
    "overfit": _overfit,
    "forgetting": _forgetting,
    "strength": _strength,
    "range_test": _range_test,
    "gate": _gate,
    "outcome": _outcome,
    "advice": _advice,
}


def _said(decision: Decision) -> str:
    return text(decision.fields.get("text"))


def _full(decision: Decision) -> str:
    """Its text as a sentence."""
    said = _capital(_said(decision))
    return said if not said or said.endswith((".", "!", "?")) else f"{said}."


def _capital(said: str) -> str:
    """As the beginning of a sentence; a field's name stays as it is written."""
    return said if "_" in said.split(" ", 1)[0] else said[:1].upper() + said[1:]
