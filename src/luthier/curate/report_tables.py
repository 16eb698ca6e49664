"""The tables and remarks of a dataset report, as plain values for its template."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from luthier.core.readable import count, decimal, plural
from luthier.curate.example import Entry
from luthier.curate.folder import Pass, View
from luthier.curate.ledger import UNDO
from luthier.curate.measure import Lengths, Measured
from luthier.curate.report_charts import Stage, bar, histogram, interval_bar, share_text
from luthier.curate.report_rows import Row
from luthier.curate.report_summary import OUT, Group, Summary, Tally

MOST_LINES: Final = 20  # of a table by source or category; the rest is added up
LOST_MORE: Final = 3.0  # a category that loses so many times the share that the dataset loses is remarked on
LOST_AT_LEAST: Final = 0.05
EDGES: Final = tuple(2**power for power in range(0, 14))  # words: a bin is [1, 2), [2, 4) …, the last without end
FEWEST_WORDS: Final = 2_000  # of a source whose rate of stock phrases is shown; the interval of a smaller one is wide
_DID: Final = {"edit": "changed", "flag": "for review", "keep": "kept by a person"}
Link = Callable[[Group], str]


class Remark(NamedTuple):
    """A sentence under the headline, with a tone: good, care or note."""

    tone: str
    text: str


class Line(NamedTuple):
    """A source or category before and after: rows, tokens, and its share of the tokens (0 to 1)."""

    name: str
    rows_in: int
    rows_used: int
    tokens_in: float
    tokens_used: float
    share_in: str
    share_used: str
    bar: Markup


def remarks(summary: Summary, passes: Sequence[Pass]) -> list[Remark]:
    """What a reader should know first: that rows add up, what no longer applies, and who lost more than others."""
    reasons = sorted((n for (_, what, _), n in summary.groups.items() if what == OUT), reverse=True)
    terms = [count(number) for number in reasons[:6]]
    terms += [f"{count(sum(reasons[6:]))} for {len(reasons) - 6} other reasons"] if len(reasons) > 6 else []
    added = " + ".join([f"{count(summary.rows_used)} used", *terms])
    made = [Remark("good", f"Every row is accounted for: {count(summary.rows_in)} read = {added}")]
    lost = 1 - summary.rows_used / summary.rows_in if summary.rows_in else 0.0
    for name, tally in summary.categories.items():
        gone = 1 - tally.rows_used / tally.rows_in if tally.rows_in else 0.0
        if name and tally.rows_in >= 20 and gone > max(LOST_AT_LEAST, LOST_MORE * lost):
            text = f"Category {name} lost {share_text(gone, 1)} of its rows, the whole dataset {share_text(lost, 1)}."
            made.append(Remark("care", text))
    if summary.void:
        verb, they = ("applies", "it was") if summary.void == 1 else ("apply", "they were")
        text = f"{plural(summary.void, 'edit')} no longer {verb}: what {they} built on was taken back."
        made.append(Remark("care", text))
    back = sum(made.step == UNDO for made in passes)
    if back:
        made.append(Remark("note", f"Decisions were taken back {'once' if back == 1 else f'{back} times'}."))
    return made


def stages(summary: Summary, passes: Sequence[Pass], link: Link) -> list[Stage]:
    """Steps for the flow picture, those that did nothing left out; the reasons of one step in order of rows."""
    made = []
    for number, name in [(0, "read"), *((made.number, step_name(made)) for made in passes)]:
        groups = {group: n for group, n in summary.groups.items() if group[0] == number}
        leaves = sorted(((group[2], n, link(group)) for group, n in groups.items() if group[1] == OUT), key=_largest)
        did = {what: sum(n for group, n in groups.items() if group[1] == what) for what in _DID}
        note = " · ".join(f"{count(n)} {_DID[what]}" for what, n in did.items() if n)
        if leaves or note:
            made.append(Stage(name, note, leaves))
    return made


def _largest(leaf: tuple[str, int, str]) -> tuple[int, str]:
    return (-leaf[1], leaf[0])


def step_name(made: Pass) -> str:
    """The step, and its kind where a step has more than one pass."""
    kind = made.parameters.get("kind", "")
    return f"{made.step}, {kind}" if isinstance(kind, str) and kind else made.step


def decisions(summary: Summary, passes: Sequence[Pass], link: Link) -> list[tuple[str, str, str, int, str]]:
    """(step, what, reason, rows, link) of what changed rows or marked them, without what took them out."""
    groups = [group for group in summary.groups if group[1] in _DID]
    groups.sort(key=lambda group: (group[0], list(_DID).index(group[1]), -summary.groups[group], group[2]))
    return [
        (step_name(passes[group[0] - 1]), _DID[group[1]], group[2], summary.groups[group], link(group))
        for group in groups
    ]


def balance(summary: Summary) -> list[tuple[str, list[Line]]]:
    """By category and by source, where there is more than one."""
    tables = [("category", summary.categories, "none given"), ("source", summary.sources, "unknown")]
    return [(name, _lines(tallies, blank)) for name, tallies, blank in tables if len(tallies) > 1]


def _lines(tallies: Mapping[str, Tally], blank: str) -> list[Line]:
    ordered = sorted(tallies.items(), key=lambda item: (-item[1].tokens_in, item[0]))
    rest = Tally()
    for _, tally in ordered[MOST_LINES:]:
        rest += tally
    left = len(ordered) - MOST_LINES
    named = [(name or blank, tally) for name, tally in ordered[:MOST_LINES]]
    named += [(f"{count(left)} more", rest)] if left > 0 else []
    total_in = sum(tally.tokens_in for _, tally in named)
    total_used = sum(tally.tokens_used for _, tally in named)
    lines = []
    for name, tally in named:
        was = tally.tokens_in / total_in if total_in else 0.0
        now = tally.tokens_used / total_used if total_used else 0.0
        shares = (share_text(was, 1), share_text(now, 1), Markup(bar(was, now)))
        lines.append(Line(name, tally.rows_in, tally.rows_used, tally.tokens_in, tally.tokens_used, *shares))
    return lines


def distributions(summary: Summary) -> list[tuple[str, str, Markup]]:
    """(title, note, chart) of lengths before and after."""
    before, after = summary.before.everything, summary.after.everything
    made = []
    for title, was, now in (
        ("Answers", before.words, after.words),
        ("Prompts", before.prompt_words, after.prompt_words),
    ):
        edges = (0, *EDGES)
        counts = [lengths.histogram(edges) for lengths in (was, now)]
        filled = 1 + max((at for at, pair in enumerate(zip(*counts, strict=True)) if any(pair)), default=0)
        labels = [str(edge) if edge < 1000 else f"{edge // 1000}k" for edge in edges[:filled]]
        shown = [numbers[:filled] for numbers in counts]
        chart = histogram(labels, *shown, title=f"{title} by number of words", x_label="words, from")
        if chart:
            made.append((title, f"median {_median(was)} → {_median(now)} words", Markup(chart)))
    return made


def _median(lengths: Lengths) -> str:
    return count(lengths.summary().get("p50", 0))


def languages(summary: Summary) -> list[tuple[str, int, int, str, str, Markup]]:
    """(language, rows before and after, shares before and after, bars), where there is more than one."""
    found = list(summary.languages.items())
    names = {"": "cannot be told", "code": "code"}
    total = [sum(pair[at] for _, pair in found) for at in (0, 1)]
    made = []
    for name, (was, now) in found[:MOST_LINES]:
        shares = [part / whole if whole else 0.0 for part, whole in zip((was, now), total, strict=True)]
        texts = [share_text(share, 1) for share in shares]
        made.append((names.get(name, name), was, now, texts[0], texts[1], Markup(bar(*shares))))
    return made if len(found) > 1 else []


def variety(summary: Summary) -> dict[str, Any]:
    """Stock phrases of the whole and by source, with intervals on one scale; the most frequent; measures of variety."""
    lines = [("whole dataset, as read", summary.before.everything, "was")]
    lines.append(("whole dataset, as used", summary.after.everything, "now"))
    sources = _of_sources(summary.after)
    enough = [line for line in lines + sources if line[1].jargon.words >= FEWEST_WORDS]
    rates = [(name, kind, made.jargon.rate, *made.jargon.interval) for name, made, kind in enough]
    most = max((high for *_, high in rates), default=0.0)
    table = [
        (
            name,
            decimal(rate, 2),
            f"{decimal(low, 2)} – {decimal(high, 2)}",
            Markup(interval_bar(rate, low, high, most, kind)),
        )
        for name, kind, rate, low, high in rates
    ]
    was, now = summary.before.everything.summary(), summary.after.everything.summary()
    measures = [
        (name, *(_number(made["variety"][key]) for made in (was, now)), note)
        for name, key, note in (
            (
                "Compression",
                "compression",
                "size over compressed size; English prose is near 2.4, higher is more alike",
            ),
            ("Distinct words in 100", "type_token", "share, mean over stretches of 100 words"),
            ("Repetition", "repeated", "share of 4-word sequences that stood in the same answer before"),
        )
        if was["variety"][key] is not None or now["variety"][key] is not None
    ]
    top = [(_spelled(text), number) for text, _, number in now["jargon"]["top"][:12]]
    return {"rates": table if most else [], "top": top, "measures": measures, "words": now["jargon"]["words"]}


def _spelled(phrase: str) -> str:
    """A line of the lexicon in its first form, without the signs that stand for others."""
    return " ".join(word.split("/")[0].strip("?~+") for word in phrase.split(" "))


def _number(value: float | None) -> str:
    return "–" if value is None else decimal(value, 3 if value < 1 else 2)


def _of_sources(measured: Measured) -> list[tuple[str, Any, str]]:
    if len(measured.sources) < 2:
        return []
    ordered = sorted(measured.sources.items(), key=lambda item: (-item[1].rows, item[0]))
    return [(name or "unknown", made, "now") for name, made in ordered[:MOST_LINES]]


def leaks(passes: Sequence[Pass]) -> list[tuple[str, int, int, int]]:
    """(set, items, items found in training rows, training rows taken out) of the last search for leaks."""
    tables = [made.parameters["table"] for made in passes if made.step == "leaks" and "table" in made.parameters]
    return [(line["set"], line["items"], line["items_leaked"], line["rows"]) for line in tables[-1]] if tables else []


def personal(summary: Summary) -> list[tuple[str, str, int]]:
    """(kind, what that is, places) of personal data and secrets that were replaced; never a value."""
    from luthier.curate.personal import REASONS

    return [(kind, REASONS.get(kind.partition("_")[0], ""), places) for kind, places in summary.personal.items()]


def quarantine(summary: Summary, rows: Mapping[str, Row]) -> list[tuple[str, int, str, str]]:
    """(reason, rows, place of one of them, what the reader said) of rows that no format fits."""
    made = []
    for group, number in summary.groups.items():
        if group[1] != OUT:
            continue
        found = [rows[name] for name in summary.picks[group] if name in rows]
        first = next((row for row in found if row.example is None), None)
        if first is not None:
            entry = first.out or Entry(first.stored.id, "drop", group[2])
            made.append((group[2], number, first.stored.where or first.stored.source, entry.detail[:300]))
    return made


def passes(view: View) -> list[tuple[int, str, str, str]]:
    """(number, step with version, parameters, what was taken back of it) of every pass."""
    gone = view.retracted()
    made = []
    for one in view.passes:
        back = ""
        if one.number in gone:
            found = gone[one.number]
            back = "taken back" if found is None else f"taken back for {plural(len(found), 'row')}"
        made.append((one.number, f"{step_name(one)} {one.version}", pass_settings(one), back))
    return made


def pass_settings(made: Pass) -> str:
    """The parameters of a pass as text, without its kind (`step_name` tells it) and without tables of results."""
    plain = {key: value for key, value in made.parameters.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{key} {str(value)[:80]}" for key, value in plain.items() if value != "" and key != "kind")
