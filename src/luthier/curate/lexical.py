"""How varied the language of a dataset is, measured on a sample of fixed size.

Every measure of variety falls with the amount of text, so sets are compared on equal amounts: the answers with the
smallest ids until there are SAMPLE_WORDS words. Ids are hashes, so this is a random sample, and the same one in
whatever order and portions the answers come.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

SAMPLE_WORDS: Final = 50_000
LONGEST: Final = 20_000  # characters of an answer that go into a sample: no single one may fill it
WINDOW: Final = 100  # words
BLOCK: Final = 32_768  # bytes; what zlib looks back on
REPEATED: Final = 4  # words of an n-gram whose repetition within an answer is counted


@dataclass(slots=True)
class Sample:
    """(id, text, words) of the answers with the smallest ids; samples of parts add up to the sample of the whole."""

    answers: list[tuple[str, str, int]] = field(default_factory=list)

    def add(self, key: str, text: str, words: int) -> None:
        """Offer an answer; `cut` once all of a portion are offered."""
        if len(text) > LONGEST:
            text = text[:LONGEST]
            words = len(text.split())
        self.answers.append((key, text, words))

    def cut(self) -> None:
        """Keep what is needed: answers in order of their ids while those before have less than SAMPLE_WORDS words."""
        self.answers.sort()
        before = 0
        for index, (_, _, words) in enumerate(self.answers):
            if before >= SAMPLE_WORDS:
                del self.answers[index:]
                break
            before += words

    def __iadd__(self, other: "Sample") -> "Sample":
        self.answers = self.answers + other.answers
        self.cut()
        return self

    def texts(self) -> list[str]:
        """The answers, in order of their ids."""
        return [text for _, text, _ in self.answers]


def variety(sample: Sample) -> dict[str, Any]:
    """Numbers between sets of one kind; each is None where the sample is too small for it.

    words: in the sample. At fewer than SAMPLE_WORDS, `distinct` is higher for that reason alone.
    type_token: distinct words in WINDOW words, mean over windows (W. Johnson, "Studies in language behavior", 1944).
    compression: bytes before over after zlib level 6, in blocks of BLOCK bytes, as a measure of repetition (C. Shaib et
        al., "Standardizing the Measurement of Text Diversity", 2024). English prose is near 2.4; higher is more alike.
    repeated: share of the n-grams of REPEATED words that stood in the same answer before.
    distinct: distinct n-grams over n-grams of 1, 2 and 3 words (J. Li et al., "A Diversity-Promoting Objective Function
        for Neural Conversation Models", 2016).
    """
    texts = [text.lower().split() for text in sample.texts()]
    flat = [word for words in texts for word in words]
    windows = [len(set(flat[at : at + WINDOW])) / WINDOW for at in range(0, len(flat) - WINDOW + 1, WINDOW)]
    again = number = 0
    for words in texts:
        grams = list(_grams(words, REPEATED))
        number += len(grams)
        again += len(grams) - len(set(grams))
    return {
        "words": len(flat),
        "type_token": sum(windows) / len(windows) if windows else None,
        "compression": _compression("\n".join(sample.texts()).encode("utf-8", "surrogatepass")),
        "repeated": again / number if number else None,
        "distinct": [_distinct(texts, n) for n in (1, 2, 3)],
    }


def _grams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[at:] for at in range(n)), strict=False)


def _distinct(texts: list[list[str]], n: int) -> float | None:
    number, found = 0, set()
    for words in texts:
        number += max(0, len(words) - n + 1)
        found.update(_grams(words, n))
    return len(found) / number if number else None


def _compression(data: bytes) -> float | None:
    blocks = [data[at : at + BLOCK] for at in range(0, len(data) - BLOCK + 1, BLOCK)]
    if not blocks:
        return None
    return sum(map(len, blocks)) / sum(len(zlib.compress(block, 6)) for block in blocks)
