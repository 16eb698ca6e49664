"""What a run caught of what was injected, whether that was right, and what it did to rows that were right before."""

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, Literal

from inject import EDITS, KINDS, LEAKS, Injection, Mixture
from inject_kinds import WORD, Row
from injection_run import Fate

from luthier.curate.example import LEAVES, Entry

COPIES: Final = (*EDITS, "paraphrase")
BRIEF: Final = "short answers"  # of all domains together, so a rule about length shows
BRIEF_WORDS: Final = 10
LONG: Final = 20  # words; shorter rows must agree in more to be near duplicates
Result = Literal["removed", "repaired", "flagged", "missed"]

# kind → (step, what its reasons contain) of the decisions that count as having seen it, or None where no rule looks for
# it. A row that leaves for another reason is counted apart: it was luck.
RULES: Final[dict[str, tuple[str, str] | None]] = {
    **dict.fromkeys(COPIES, ("dedup|semantic", "")),
    **dict.fromkeys(LEAKS, ("leaks", "")),
    "swapped answers": None,
    "mojibake": ("repair", "encoding"),
    "truncation": ("defects", "^cut|ends openly|broken (JSON|Python)"),
    "refusal": ("defects", "refus|speaks as an AI"),
    "wrong number": None,
    "personal data": ("personal", ""),
    "secret": ("personal", ""),
    "wrong language": ("language", ""),
    "merged rows": ("defects|repair", "merged|leaked prompt|chat marker|several templates"),
    "prompt leak": ("defects|repair", "merged|leaked prompt|chat marker|several templates"),
}
# Kinds that look alike to a rule: for precision, any of them is a right hit for the others.
ALIKE: Final = (COPIES, LEAKS, ("personal data", "secret"), ("merged rows", "prompt leak"))


def wilson(hits: int, number: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share after Wilson (1927), which holds for few rows and for shares near 0 and 1."""
    if not number:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf((1 + level) / 2), hits / number
    centre, spread = share + z * z / (2 * number), z * math.sqrt(share * (1 - share) / number + (z / number / 2) ** 2)
    scale = 1 + z * z / number
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def share(hits: int, number: int) -> dict[str, Any]:
    """A share with what it is made of and its interval."""
    low, high = wilson(hits, number)
    value = round(hits / number, 4) if number else None
    return {"share": value, "hits": hits, "of": number, "interval": [round(low, 4), round(high, 4)]}


def saw(kind: str, step: str, entry: Entry) -> bool:
    """Whether a decision is one that a rule for this kind makes."""
    rule = RULES[kind]
    if rule is None or entry.action == "split":
        return False
    return bool(re.fullmatch(rule[0], step) and re.search(rule[1], entry.reason))


def _seen(kind: str, fate: Fate) -> list[Entry]:
    return [entry for step, entry in fate.decisions if saw(kind, step, entry)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an injection. `right` says it is as it should be; `luck` that another rule took or marked it."""

    injection: Injection
    result: Result
    right: bool
    luck: str = ""


def judge(injection: Injection, fates: Mapping[str, Fate]) -> Verdict:
    """Compare what became of an injected row with what should have.

    Right is: of a copy and its original exactly one is left; a leaked copy is gone; mojibake is repaired to the very
    text there was before; personal data and secrets are no longer in the row; a merged row or one with a leaked prompt
    is repaired to the text before, or gone, or marked; everything else is gone or marked for review.
    """
    fate, kind = fates[injection.key], injection.kind
    pair = [fate]
    if kind in COPIES:
        pair.append(fates[injection.partner])
    seen = [entry for one in pair for entry in _seen(kind, one)]
    out = [one.out for one in pair if one.out is not None]
    clean = fate.text == (injection.clean.prompt, injection.clean.answer)
    if injection.values:
        gone = not any(value in text for value in injection.values for text in fate.text)
        if gone and fate.out is None:
            return Verdict(injection, "repaired", True)
    if kind in ("mojibake", "prompt leak", "merged rows") and clean and fate.out is None:
        return Verdict(injection, "repaired", True)
    if any(entry in seen for entry in out):
        # Both may be out, too, as copies of a third.
        kept = len(out) == 1 or all(entry.action == "duplicate" for entry in out)
        return Verdict(injection, "removed", kept and kind != "mojibake")
    if any(entry.action == "edit" for entry in seen):
        return Verdict(injection, "repaired", False)  # something was cut or changed, but not to what it was
    if any(entry.action == "flag" for entry in seen):
        return Verdict(injection, "flagged", kind not in ("mojibake", "personal data", "secret", *LEAKS))
    others = [entry for one in pair[:1] for _, entry in one.decisions if entry.action in (*LEAVES, "flag")]
    return Verdict(injection, "missed", False, f"{others[0].action}: {others[0].reason}" if others else "")


def same_words(one: Row, other: Row) -> bool:
    """Whether two rows are copies of each other, decided here and not by what is measured.

    The same numbers in the same order, and at least 85 % of the words of both in the same order.
    """
    a, b = (WORD.findall(f"{row.prompt}\n{row.answer}".lower()) for row in (one, other))
    if [word for word in a if word.isdigit()] != [word for word in b if word.isdigit()]:
        return False
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() >= 0.85


def gives_away(row: Row, held: Row) -> bool:
    """Whether training on a row shows a held-out one: a copy, the same prompt, or all of a longer answer within it."""
    asked, asked_there, told = (" ".join(WORD.findall(text.lower())) for text in (row.prompt, held.prompt, held.answer))
    whole = " ".join(WORD.findall(f"{row.prompt} {row.answer}".lower()))
    return asked == asked_there or (len(told.split()) >= 20 and told in whole) or same_words(row, held)


@dataclass(frozen=True, slots=True)
class Touched:
    """A row with nothing injected that something was done to. `why` is step, action and reason."""

    row: Row
    entry: Entry
    why: str
    counterpart: Row | None = None


@dataclass
class Untouched:
    """The rows of a domain that nothing was injected into, and what was done to them.

    Attributes:
        rows: how many there are.
        wrong: taken out or edited.
        copies: taken out as a copy of another row of the pool or for giving a held-out one away, which `same_words` and
            `gives_away` find, too: right, and not wrong.
        marked: marked for review, of those that stay as they are.
    """

    rows: int
    wrong: list[Touched]
    copies: list[Touched]
    marked: list[Touched]


def untouched(mixture: Mixture, fates: Mapping[str, Fate], ids: Mapping[str, str]) -> dict[str, Untouched]:
    """Domain → what was done to rows that nothing was injected into; rows with short answers count once more, together.

    `ids` is example id → key.
    """
    rows = {row.key: row for row in (*mixture.rows, *mixture.validation, *mixture.evaluation)}
    injected = {one.key for one in mixture.injections}
    copy_of = {one.partner: one.key for one in mixture.injections if one.kind in COPIES}
    found: dict[str, Untouched] = {row.domain: Untouched(0, [], [], []) for row in mixture.rows}
    found[BRIEF] = Untouched(0, [], [], [])
    for row in mixture.rows:
        if row.key in injected:
            continue
        fate, copy = fates[row.key], copy_of.get(row.key)
        made = [
            Touched(row, entry, f"{step} · {entry.action} · {entry.reason}", rows.get(ids.get(entry.counterpart, "")))
            for step, entry in fate.decisions
            if entry.action in (*LEAVES, "edit", "flag")
        ]
        if copy and fate.out is not None and fates[copy].out is None and _seen("paraphrase", fate):
            made = []  # the injected copy was kept in its place
        brief = len(WORD.findall(row.answer)) <= BRIEF_WORDS
        for here in (found[row.domain], found[BRIEF]) if brief else (found[row.domain],):
            here.rows += 1
            if made:
                _sort(here, row, made)
    return found


def _sort(here: Untouched, row: Row, made: list[Touched]) -> None:
    """Put what was done to a row where it belongs."""
    heavy = [one for one in made if one.entry.action != "flag"]
    gone = [one for one in heavy if one.entry.action in LEAVES]
    check = gives_away if gone and gone[0].why.startswith("leaks") else same_words
    if gone and gone[0].counterpart and check(row, gone[0].counterpart):
        here.copies.append(gone[0])
    elif heavy:
        here.wrong.append((gone or heavy)[0])
    else:
        here.marked.append(made[0])


def by_kind(
    verdicts: Sequence[Verdict], fates: Mapping[str, Fate], copies: Sequence[Touched]
) -> dict[str, dict[str, Any]]:
    """For every kind: what was caught, with precision, recall and F1.

    Precision is of all rows that a rule for the kind took out, edited or marked: how many have the kind injected, or
    one that looks alike. The pools are not without such defects themselves, so it is a lower bound; only copies that
    are confirmed here are left out of it.
    """
    table: dict[str, dict[str, Any]] = {}
    natural = {touched.row.key for touched in copies}
    for kind in KINDS:
        mine = [verdict for verdict in verdicts if verdict.injection.kind == kind]
        if not mine:
            continue
        group = next((names for names in ALIKE if kind in names), (kind,))
        alike = {
            key
            for verdict in verdicts
            if verdict.injection.kind in group
            for key in (verdict.injection.key, verdict.injection.partner)
        }
        hit = {key for key, fate in fates.items() if _seen(kind, fate)} - natural
        counts = Counter(verdict.result for verdict in mine)
        done = counts["removed"] + counts["repaired"]
        caught = done + counts["flagged"]
        precision = share(len(hit & alike), len(hit))
        recall = share(caught, len(mine))
        p, r = precision["share"] or 0.0, recall["share"] or 0.0
        table[kind] = {
            "rows": len(mine),
            "a_rule_looks_for_it": RULES[kind] is not None,
            "removed_or_repaired": share(done, len(mine)),
            "flagged_for_review": share(counts["flagged"], len(mine)),
            "recall": recall,
            "precision": precision,
            "f1": round(2 * p * r / (p + r), 4) if p + r else 0.0,
            "as_it_should_be": share(sum(verdict.right for verdict in mine), len(mine)),
            "another_rule_took_or_marked_it": sum(bool(verdict.luck) for verdict in mine),
            "by_variant": _variants(mine),
        }
    return table


def _variant(verdict: Verdict) -> str:
    if verdict.injection.kind in COPIES:
        return f"{LONG} words and more" if verdict.injection.clean.words >= LONG else f"under {LONG} words"
    return verdict.injection.variant


def _variants(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Variant → "caught of rows"; of copies, by length."""
    rows = Counter(map(_variant, verdicts))
    caught = Counter(_variant(verdict) for verdict in verdicts if verdict.result != "missed")
    return {name: f"{caught[name]} of {rows[name]}" for name in sorted(rows) if name}
