"""Rows for speed and duplicate benchmarks: any number of them, the same for the same seed, none of them anyone's.

A row is one of 24 templates of a task, filled with made-up words and numbers, and an answer of made-up sentences. Words
follow Zipf's law over a vocabulary of 20,000, so shingles repeat as they do in text; the most frequent are English,
so that a row's language is told as that of English text is. Real rows from a file can be mixed in: they are cut into
sentences and put together anew, so a million rows can be had from a few thousand.
"""

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

VOCABULARY: Final = 20_000
SYLLABLES: Final = tuple(first + second for first in "bdfghklmnprstvwz" for second in "aeiou")
TEMPLATES: Final = tuple(
    f"{verb} {what}"
    for verb in ("Explain", "Write a short text about", "List facts about", "Compare with others:")
    for what in (
        "the {} of {} in {}.",
        "how {} makes a {} from {} and {}.",
        "{}, which {} found in {n}.",
        "why the {} was {} after {n} years in {}.",
        "the {n} kinds of {} that {} knows.",
        "a {} and its {}.",
    )
)
SMALL: Final = (
    "the", "of", "and", "to", "a", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he",
    "this", "are", "or", "his", "from", "at", "which", "but", "have", "an", "had", "they", "you", "were", "their",
    "one", "all", "we", "can", "her", "has", "there", "been", "if", "more", "when", "will", "would", "who", "so", "no",
)  # fmt: skip
SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")


class Row(NamedTuple):
    """A row, and the number of the row that it is a copy of, or -1."""

    prompt: str
    answer: str
    copy_of: int = -1


class Words:
    """Made-up words by frequency."""

    def __init__(self, random: Random) -> None:
        made: dict[str, None] = {}
        while len(made) < VOCABULARY:
            made["".join(random.choices(SYLLABLES, k=random.randint(1, 4)))] = None
        self.words = [*SMALL, *sorted(made.keys() - set(SMALL), key=lambda word: (len(word), word))][:VOCABULARY]
        self.weights = list(accumulate(1 / rank for rank in range(10, VOCABULARY + 10)))

    def draw(self, random: Random, number: int) -> list[str]:
        """Some words, frequent ones more often."""
        return random.choices(self.words, cum_weights=self.weights, k=number)


def make_rows(number: int, *, seed: int = 0, copies: float = 0.05, real: list[Row] | None = None) -> Iterator[Row]:
    """Rows, one after the other.

    Args:
        copies: share of rows that are copies of one of the 1,000 rows before them, with 5 % of their words replaced.
        real: rows that half of the others are put together from.
    """
    random = Random(seed)
    words = Words(random)
    sentences = [part for row in real or () for part in SENTENCE.split(row.answer) if part]
    recent: list[tuple[int, Row]] = []
    for index in range(number):
        if recent and random.random() < copies:
            source, row = random.choice(recent)
            made = Row(edit(row.prompt, 0.05, words, random), edit(row.answer, 0.05, words, random), source)
        elif real and random.random() < 0.5:
            first, second = random.choice(real), random.choice(real)
            answer = " ".join(random.choices(sentences, k=random.randint(2, 8)))
            made = Row(f"{first.prompt} {SENTENCE.split(second.prompt)[-1]} ({random.randrange(10**6)})", answer)
        else:
            template = random.choice(TEMPLATES)
            prompt = template.format(*words.draw(random, template.count("{}")), n=random.randrange(10_000))
            answer = " ".join(
                " ".join(words.draw(random, random.randint(6, 18))).capitalize() + "."
                for _ in range(random.randint(3, 11))
            )
            made = Row(prompt, answer)
        if made.copy_of < 0:
            recent.append((index, made))
            del recent[:-1000]
        yield made


def edit(text: str, share: float, words: Words, random: Random) -> str:
    """The text with a share of its words without a digit replaced by others."""
    parts = text.split(" ")
    places = [index for index, part in enumerate(parts) if part.isalpha()]
    for index in random.sample(places, min(len(places), round(share * len(parts)))):
        parts[index] = words.draw(random, 1)[0]
    return " ".join(parts)


def read_real(path: Path) -> list[Row]:
    """Rows of a JSON or JSONL file with a column for the prompt and one for the answer."""
    from injection_pools import read_pool

    return [Row(row.prompt, row.answer) for row in read_pool(path.stem, path)]


def write_rows(path: Path, rows: Iterator[Row]) -> None:
    """As JSONL of prompt and completion."""
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps({"prompt": row.prompt, "completion": row.answer}, ensure_ascii=False) + "\n")
