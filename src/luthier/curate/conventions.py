"""How the answers of a source end, measured on the source itself, and the answers that end otherwise.

One answer alone does not show that "#### 18" should stand behind it, or that "several" is no word to end on. The others
do: where nearly all answers with calculations in "<<…>>" end in a line of "####", one that does not was probably cut,
and one with such a line in its middle probably holds a second answer. And a word that occurs often but hardly ever at
the end of a sentence says the same of an answer that it ends, in any language that parts words by blanks, with no list
of words. All of it is for review: the rest of the rows is evidence, and no proof.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from luthier.curate.defects_length import TAIL_WANTED
from luthier.curate.example import Entry, Example
from luthier.curate.folder import Dataset
from luthier.curate.pair import looks_like_code, pairs_of

if TYPE_CHECKING:
    import pyarrow as pa

OPEN: Final = "ends openly"
MERGED: Final = "merged rows suspected"
VERSION: Final = 1
SUPPORT: Final = 100  # answers before they make a convention
SHARE: Final = 0.97  # of them that keep to it
WITHIN: Final = 0.01  # of them that may have the mark in the middle
SAMPLE: Final = 5_000  # answers whose words are counted
LONGEST: Final = 4000  # characters of an answer in which words are counted
OFTEN: Final = 50  # times that a word occurs before it says anything
SELDOM: Final = 0.02  # of these, at the end of a sentence
SENTENCE: Final = 8  # words of an answer before a full stop is expected of it

# What answers have in common, by which they are compared: names for people, and how to see it.
TRAITS: Final = (
    "answers",
    "answers with calculations in <<…>>",
    "answers with a code fence",
    "answers with TeX mathematics",
    "answers that begin with a tag",
    "answers to sums in words",
)
_CALCULATION: Final = re.compile(r"<<[\d(.$]")
_TAG: Final = re.compile(r"\s*<[A-Za-z]\w*>")
_WORD_PROBLEM: Final = re.compile(r"\bhow (?:many|much|long|far|old)\b[^\n]*\Z", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\d+")
# Ways to end, the last of which is a full stop.
ENDS: Final = (
    "a line of “####”",
    "a line with “the answer is”",
    "a boxed result",
    "a closing fence",
    "a closing tag",
    "a full stop",
)
_HASHES: Final = re.compile(r"^#{4}[ \t]*[^#\s]", re.MULTILINE)
_SAYS: Final = re.compile(r"^\W*(?:so |thus |therefore |hence )?,? ?(?:the )?(?:final )?answer(?: is\b|:)", re.I | re.M)
_CLOSED: Final = re.compile(r"</\w+>\Z")
_STOPS: Final = frozenset(".!?…。！？؟।;:)]}>\"'”’»*`|$")
MARKS: Final = 2  # the first so many ends are marks that an answer has once
STOP: Final = 5

_WORD: Final = re.compile(r"([^\W\d_]+(?:['’-][^\W\d_]+)*)([.!?:;\n)…。！？\"”»])?")
_LAST: Final = re.compile(r"(?<![\w'’-])([^\W\d_]+(?:['’-][^\W\d_]+)*)\Z")


@dataclass(frozen=True, slots=True)
class Looked:
    """A batch: a table of its answers, and for a sample of them how often each word occurs and how often it ends."""

    answers: "pa.Table"
    words: Counter[str]
    ending: Counter[str]


def share_of(dataset: Dataset) -> float:
    """The share of its rows in which words are counted."""
    return SAMPLE / max(1, sum(item["rows"] for item in dataset.state["records"]))


def conventions(dataset: Dataset, *, workers: int = 1, read: Iterable[Looked] | None = None) -> list[Entry]:
    """Flags for answers that end as hardly any other of their source does; see the module. One pass, sorted by id.

    Args:
        read: what `look` made of all batches, where that is known.
    """
    import pyarrow as pa

    tables, words, ending = [], Counter(), Counter()
    for looked in dataset.map(partial(look, share_of(dataset)), workers=workers) if read is None else read:
        tables.append(looked.answers)
        words.update(looked.words)
        ending.update(looked.ending)
    if not tables:
        return []
    answers = pa.concat_tables(tables)
    never = {word for word, number in words.items() if number >= OFTEN and ending[word] <= SELDOM * number}
    entries: dict[tuple[str, str], Entry] = {}
    for entry in (*_unlike(answers), *_unended(answers, never)):
        entries.setdefault((entry.record, entry.reason), entry)
    return [entries[key] for key in sorted(entries)]


def look(share: float, examples: list[Example]) -> Looked:
    """What `conventions` needs to know of a batch. `share` of the examples, chosen by id, is counted word by word."""
    import pyarrow as pa

    rows: list[tuple[str, str, str, int, int, int, int, str, bool, bool]] = []
    words: Counter[str] = Counter()
    ending: Counter[str] = Counter()
    for example in examples:
        *_, pair = (None, *pairs_of(example))
        if pair is None or not pair.answer or pair.kind == "text":
            continue
        text = pair.answer.rstrip()
        if int(example.id[:8], 16) < share * 2**32 and not looks_like_code(text):
            found = _WORD.findall(f"{text[:LONGEST]}\n")
            words.update(word for word, _ in found)
            ending.update(word for word, stop in found if stop)
        ends, within = _ends(text)
        last = _LAST.search(text[-40:]) if text[-1:].isalpha() and text[-60:].count(" ") > 2 else None
        if last and (not last[1][0].islower() or TAIL_WANTED.search(pair.prompt) or looks_like_code(text)):
            last = None
        seen = OPEN in example.flags, MERGED in example.flags
        count = min(text.count(" ") + 1, 1000)
        rows.append(
            (example.id, example.source, pair.answer_field, len(text), count, _traits(text, pair.prompt),
             ends | within << 8, last[1] if last else "", *seen)
        )  # fmt: skip
    names = ("id", "source", "field", "length", "words", "traits", "ends", "last", "open", "merged")
    kinds = (pa.string(), pa.string(), pa.string(), pa.int32(), pa.int16(), pa.int32(), pa.int32(),
             pa.string(), pa.bool_(), pa.bool_())  # fmt: skip
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    made = pa.table([pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)], names=list(names))
    for name in ("source", "field", "last"):
        at = made.column_names.index(name)
        made = made.set_column(at, name, made[name].dictionary_encode())
    return Looked(made, words, ending)


def _traits(text: str, prompt: str) -> int:
    """The bits of `TRAITS`."""
    return (
        1
        | (bool("<<" in text and _CALCULATION.search(text)) << 1)
        | (("```" in text) << 2)
        | (("\\boxed" in text or "$$" in text or "\\(" in text or "\\[" in text) << 3)
        | (("<" in text[:20] and _TAG.match(text) is not None) << 4)
        | (_is_sum(prompt) << 5)
    )


def _is_sum(prompt: str) -> bool:
    """Whether a prompt is one paragraph with two numbers and asks how many at its end."""
    if len(prompt) > 2000 or "ow " not in prompt or "\n" in prompt.strip():
        return False
    return _WORD_PROBLEM.search(prompt) is not None and len(_NUMBER.findall(prompt)) > 1


def _ends(text: str) -> tuple[int, int]:
    """The bits of `ENDS` that hold for the last line, and those of the marks that an earlier line has."""
    at = text.rfind("\n") + 1
    last = text[at:]
    hashes, says = "####" in text, "nswer" in text
    ends = (
        bool(hashes and _HASHES.match(last))
        | (bool(says and _SAYS.match(last)) << 1)
        | (("\\boxed" in last) << 2)
        | (text.endswith("```") << 3)
        | ((text.endswith(">") and _CLOSED.search(last) is not None) << 4)
        | ((text[-1:] in _STOPS) << STOP)
    )
    return ends, bool(hashes and _HASHES.search(text, 0, at)) | (bool(says and _SAYS.search(text, 0, at)) << 1)


def _unlike(answers: "pa.Table") -> Iterator[Entry]:
    """Answers that lack an end which nearly all others of their source with the same trait have, or have it twice."""
    sources = answers["source"].unify_dictionaries().combine_chunks()
    code, names = sources.indices.to_numpy(), sources.dictionary.to_pylist()
    traits, ends, words = (answers[name].to_numpy() for name in ("traits", "ends", "words"))
    for source, name in enumerate(names):
        here = code == source
        for trait, which in enumerate(TRAITS):
            group = here & (traits >> trait & 1).astype(bool)
            for end, how in enumerate(ENDS):
                mine = group & (words >= SENTENCE) if end == STOP else group
                number = int(mine.sum())
                if number < SUPPORT:
                    break
                kept = (ends >> end & 1).astype(bool)
                share = int((mine & kept).sum()) / number
                if share < SHARE:
                    continue
                detail = f"of {number:,} {which} in {name}, {100 * share:.1f} % end in {how}"
                yield from _entries(answers, mine & ~kept, OPEN, "open", f"{detail}; this one does not", share)
                twice = mine & kept & (ends >> (8 + end) & 1).astype(bool)
                if end < MARKS and twice.sum() <= WITHIN * number:
                    yield from _entries(
                        answers, twice, MERGED, "merged", f"{detail}; this one has it before, too", share
                    )


def _unended(answers: "pa.Table", never: set[str]) -> Iterator[Entry]:
    """Answers whose last word hardly ever ends a sentence in this dataset."""
    last = answers["last"].unify_dictionaries().combine_chunks()
    fits = np.array([word in never for word in last.dictionary.to_pylist()], bool)
    found = answers.filter(fits[last.indices.to_numpy()] & ~answers["open"].to_numpy())
    for row in found.to_pylist():
        yield _flag(row, OPEN, f"ends in {row['last']!r}, which hardly ever ends a sentence here")


def _entries(
    answers: "pa.Table", which: np.ndarray, reason: str, seen: str, detail: str, score: float
) -> Iterator[Entry]:
    """A flag for each of these answers that does not have it already."""
    for row in answers.filter(which & ~answers[seen].to_numpy()).to_pylist():
        yield _flag(row, reason, detail, round(score, 4))


def _flag(row: dict[str, Any], reason: str, detail: str, score: float | None = None) -> Entry:
    """The end of the answer is the evidence."""
    start, end = max(0, row["length"] - 60), row["length"]
    return Entry(row["id"], "flag", reason, row["field"], start, end, score, detail=detail)
