"""Stock phrases of a dataset for a person to read: its rate and its sources', against a human reference where there is
one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from luthier.core.errors import DataError
from luthier.curate.example import Example
from luthier.curate.logodds import Marker
from luthier.curate.slop import LIMITS, Jargon, phrases_in
from luthier.data.read import read_records


def reference_texts(files: Sequence[Path]) -> list[str]:
    """The answers in data files, in any format that can be read: what people wrote, of the dataset's domain.

    Raises:
        DataError: a file cannot be read, or none holds an answer.
    """
    records = [record for file in files for record in read_records(file).records]
    texts = [answer for record in records if (answer := Example("", record).answer)]
    if not texts:
        raise DataError("no answers in the human reference", where=", ".join(map(str, files)))
    return texts


def count_jargon(texts: Sequence[str]) -> Jargon:
    """Stock phrases of texts."""
    made = Jargon()
    for text in texts:
        made.add(*phrases_in(text))
    return made


def slop_text(
    everything: Jargon,
    sources: Mapping[str, Jargon],
    *,
    reference: Jargon | None = None,
    marks: Sequence[Marker] = (),
    top: int = 10,
) -> str:
    """Markdown for the card: a table of rates, the phrases found most, the words that mark the dataset, and what the
    measure can and cannot tell.

    Args:
        everything, sources: counts of the dataset and of each source.
        reference: counts of the human reference, if one was given.
        marks: `logodds.markers` of the dataset against the reference.
        top: phrases and words to list.
    """
    named = [("whole dataset", everything)]
    named += [(f"source {name}", made) for name, made in sorted(sources.items())] if len(sources) > 1 else []
    named += [("human reference", reference)] if reference is not None else []
    lines = ["| | answers | words | stock phrases per 1,000 words | 95 % interval |", "|---|---:|---:|---:|---:|"]
    for name, made in named:
        low, high = made.interval
        # a name comes from a file and must not break out of its cell
        cell = name.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {cell} | {made.rows:,} | {made.words:,} | {made.rate:.2f} | {low:.2f} to {high:.2f} |")
    found = everything.summary(top)["top"]
    if found:
        lines += ["", "Found most: " + ", ".join(f"{_plain(text)} ({number:,})" for text, _, number in found) + "."]
    if marks:
        lines += [
            "",
            "Words that mark this dataset against the reference (times in 10,000 words, reference in brackets): "
            + ", ".join(f"{mark.term} {mark.per_10k:.1f} ({mark.reference_per_10k:.1f})" for mark in marks[:top])
            + ".",
        ]
    return "\n".join([*lines, "", LIMITS])


def _plain(text: str) -> str:
    """A line of the lexicon as a person would write it: its first form."""
    words = [word.split("/")[0].removeprefix("?").rstrip("~+") for word in text.split(" ")]
    return " ".join("…" if word == "*" else word for word in words)
