"""The card of a dataset folder: a README.md that the Hugging Face hub and `datasets.load_dataset(DIR)` understand.

The same dataset has the same card: nothing in it depends on the time, the machine, or where the folder is.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from luthier.core.files import write_text
from luthier.core.readable import count, decimal
from luthier.curate.folder import Dataset, Pass
from luthier.curate.ledger import UNDO
from luthier.curate.report_charts import share_text
from luthier.curate.report_summary import OUT, Summary, summarise
from luthier.curate.report_tables import leaks, pass_settings, step_name
from luthier.curate.slop_report import slop_text

CARD_FILE: Final = "README.md"
UNKNOWN: Final = "unknown"
MOST_LINES: Final = 30  # of a table by category or source
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
                 (10_000_000, "1M<n<10M"))  # fmt: skip
_LIMITS: Final[Mapping[str, str]] = {
    "defects": "Defects are told by their form. A wrong fact or a wrong number in a well-formed answer is not noticed.",
    "language": "The language of short texts cannot be told and is not judged.",
    "personal": "Personal data are found by patterns and check digits: e-mail addresses, telephone and card numbers, "
    "ids, keys. Names, street addresses and dates of birth are not.",
    "dedup": "Duplicates are told by their characters. The same content in other words, or translated, stays.",
    "leaks": "Leaks are told by their words. An evaluation example in other words, or translated, is not found; sets "
    "that are not in the table were not searched for.",
}
_DID: Final = (("edit", "changed"), ("flag", "for review"), ("keep", "kept by a person"))


def write_card(dataset: Dataset, *, summary: Summary | None = None, license: str = UNKNOWN, workers: int = 1) -> Path:
    """Write `README.md` into the folder of a dataset, for its committed state, and return its path.

    Args:
        summary: from `summarise`, where it was made already.
        license: of the data, as the hub names it ("cc-by-sa-3.0").
        workers: processes for counting.
    """
    found = summary or summarise(dataset, workers=workers)
    parts = [
        _head(dataset, found, license),
        _what(dataset, found),
        _done(dataset, found),
        _balance(found),
        _leaks(dataset),
        _measures(found),
        _limits(dataset, license),
        _again(dataset),
    ]
    path = dataset.path / CARD_FILE
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _head(dataset: Dataset, summary: Summary, license: str) -> str:
    """YAML between dashes. Names come from us, but for the licence, which is quoted."""
    size = next((name for most, name in _SIZES if summary.rows_used < most), "n>10M")
    files = [
        line for item in dataset.state["data"] for line in (f"  - split: {item['side']}", f"    path: {item['file']}")
    ]
    configs = ["configs:", "- config_name: default", "  data_files:", *files] if files else []
    quoted = license.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return "\n".join(
        ["---", f'license: "{quoted}"', "task_categories:", "- text-generation", "size_categories:", f"- {size}",
         "tags:", "- luthier", *configs, "---"]
    )  # fmt: skip


def _what(dataset: Dataset, summary: Summary) -> str:
    total = summary.total
    out = summary.rows_in - summary.rows_used
    names = ", ".join(_cell(source["name"]) for source in dataset.state["sources"])
    lines = [
        "# Dataset",
        "",
        f"{count(summary.rows_used)} examples to fine-tune a language model with, made by Luthier "
        f"{dataset.state['luthier']} from {names}.",
        "",
        f"Of {count(summary.rows_in)} rows read, {count(summary.rows_used)} are used and {count(out)} are not, each "
        "for a reason that is written down. Nothing was deleted, and every decision can be taken back: `report.html` "
        "shows examples of each, `luthier data why DIR ID` tells all that was decided about a row.",
        "",
        *_table(
            ("", "as read", "as used"),
            [
                ("rows", count(summary.rows_in), count(summary.rows_used)),
                ("tokens trained on, estimated from words", count(total.tokens_in), count(total.tokens_used)),
            ],
        ),
        "",
        *_table(("file", "split", "rows"), [(i["file"], i["side"], count(i["rows"])) for i in dataset.state["data"]]),
        "",
        "Sources:",
        "",
        *_table(
            ("file", "rows", "sha256"), [(s["name"], count(s["rows"]), s["sha256"]) for s in dataset.state["sources"]]
        ),
    ]
    return "\n".join(lines)


def _done(dataset: Dataset, summary: Summary) -> str:
    """Every pass with its settings, and under it the reasons with their numbers."""
    gone = dataset.view.retracted()
    lines = ["## What was done", ""]
    for made in dataset.passes:
        settings = f" ({_cell(text)})" if (text := pass_settings(made)) else ""
        back = ""
        if made.number in gone:
            found = gone[made.number]
            back = ", taken back" if found is None else f", taken back for {count(len(found))} rows"
        did = "took back what was decided before" if made.step == UNDO else _numbers(summary, made) or "nothing to do"
        lines.append(f"{made.number}. **{_cell(step_name(made))}**, version {made.version}{settings}{back}: {did}")
    out = [(reason, n) for (_, what, reason), n in summary.groups.items() if what == OUT]
    terms = " + ".join(
        [f"{count(summary.rows_used)} used"]
        + [f"{count(n)} {_cell(reason)}" for reason, n in sorted(out, key=_most_first)]
    )
    lines += ["", f"It adds up: {count(summary.rows_in)} rows read = {terms}."]
    if summary.void:
        lines += ["", f"{count(summary.void)} edits no longer apply, because one they were built on was taken back."]
    return "\n".join(lines)


def _numbers(summary: Summary, made: Pass) -> str:
    told = []
    for what, words in ((OUT, "taken out"), *_DID):
        found = [
            (reason, n) for (number, kind, reason), n in summary.groups.items() if (number, kind) == (made.number, what)
        ]
        if found:
            reasons = ", ".join(f"{count(n)} × {_cell(reason)}" for reason, n in sorted(found, key=_most_first))
            told.append(f"{count(sum(n for _, n in found))} {words}: {reasons}")
    sides = sum(n for (number, kind, _), n in summary.groups.items() if (number, kind) == (made.number, "split"))
    return "; ".join(told + ([f"{count(sides)} put on a side"] if sides else []))


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return (-item[1], item[0])


def _balance(summary: Summary) -> str:
    """Categories with rows and shares of tokens, as read and as used; "" where there is but one."""
    if len(summary.categories) < 2:
        return ""
    total = summary.total
    ordered = sorted(summary.categories.items(), key=lambda item: (-item[1].tokens_used, item[0]))
    rows = [
        (
            name or "none given", count(tally.rows_in), count(tally.rows_used),
            share_text(tally.tokens_in, total.tokens_in), share_text(tally.tokens_used, total.tokens_used),
        )
        for name, tally in ordered[:MOST_LINES]
    ]  # fmt: skip
    head = ("category", "rows read", "rows used", "share of tokens read", "share of tokens used")
    more = ["", f"{count(len(ordered) - MOST_LINES)} smaller categories are not shown."] if ordered[MOST_LINES:] else []
    return "\n".join(["## Balance", "", *_table(head, rows), *more])


def _leaks(dataset: Dataset) -> str:
    found = leaks(dataset.passes)
    if not found:
        return ""
    rows = [(name, count(items), count(leaked), count(number)) for name, items, leaked, number in found]
    head = ("set", "items", "of these in training rows", "training rows found")
    text = "Training rows that give away what is held out, or an evaluation set. The training row goes."
    return "\n".join(["## Leaks", "", text, "", *_table(head, rows)])


def _measures(summary: Summary) -> str:
    was, now = summary.before.everything.summary(), summary.after.everything.summary()
    rows = [
        (f"{name}, median (5 % – 95 %)", _spread(was[key]), _spread(now[key]))
        for name, key in (("words of an answer", "words"), ("words of a prompt", "prompt_words"))
    ]
    rows += [
        (name, _decimal(was["variety"][key]), _decimal(now["variety"][key]))
        for name, key in (("compression", "compression"), ("distinct words in 100", "type_token"))
    ]
    lines = ["## Measures", "", *_table(("", "as read", "as used"), rows), ""]
    lines.append(
        "Compression is size over compressed size: English prose is near 2.4, and text that repeats itself higher. "
        "Both measures of variety compare data sets of one kind; they say nothing about whether answers are right."
    )
    if summary.measured < summary.rows_in:
        lines += ["", f"Measured on {count(summary.measured)} of the {count(summary.rows_in)} rows."]
    sources = {_cell(name): made.jargon for name, made in summary.after.sources.items()}
    if summary.after.everything.jargon.words:
        lines += ["", "### Stock phrases", "", slop_text(summary.after.everything.jargon, sources).strip()]
    return "\n".join(lines)


def _spread(found: Mapping[str, Any]) -> str:
    if not found["number"]:
        return "–"
    return f"{count(found['p50'])} ({count(found['p5'])} – {count(found['p95'])})"


def _decimal(value: float | None) -> str:
    return "–" if value is None else decimal(value, 2)


def _limits(dataset: Dataset, license: str) -> str:
    steps = {made.step for made in dataset.passes}
    lines = [text for step, text in _LIMITS.items() if step in steps]
    lines += [f"The step {step} was not run." for step in _LIMITS if step not in steps]
    lines.append(
        "`records/` and `ledger/` hold the rows as they were read, personal data included. To publish the dataset, "
        "publish `data/` and this card."
    )
    if license == UNKNOWN:
        lines.append("The licence of the sources is not known to Luthier: look it up before you publish or train.")
    return "\n".join(["## Limits", "", *(f"- {line}" for line in lines)])


def _again(dataset: Dataset) -> str:
    names = " ".join(shlex.quote(_flat(source["name"])) for source in dataset.state["sources"])
    return "\n".join(
        [
            "## How to make it again",
            "",
            f"With Luthier {dataset.state['luthier']}, the files above, and the settings of each step as listed:",
            "",
            f"    luthier data clean {names} --out DIR",
            "",
            "The same files give the same dataset, whatever their order and the number of workers.",
            "",
            "Taking back: `luthier data undo DIR --step STEP` or `--id ID`. A review: mark rows in `report.html`, then "
            "`luthier data apply DIR decisions.json`.",
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; every column but the first is aligned to the right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return lines + [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]


def _cell(text: str) -> str:
    """A text from outside, made harmless: no new line, cell, tag, link or emphasis can begin in it."""
    return "".join(f"\\{char}" if char in "\\|`*[]<>#" else char for char in _flat(text))


def _flat(text: str) -> str:
    """A text in one line."""
    return "".join(char if char.isprintable() else " " for char in text)
