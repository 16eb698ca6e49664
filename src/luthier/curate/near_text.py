"""Rows as near duplicates are decided on: their parts, words, numbers and shingles.

A row is cut into parts (`PARTS`), as two rows are the same only where all of their parts are. Some words are *fixed*:
numbers, operators, code identifiers and words in short quotes. Another one in their place makes another row.
"""

import re
import unicodedata
from collections import Counter
from functools import cached_property, lru_cache
from typing import Final
from zlib import crc32

import numpy as np

from luthier.curate.example import Example
from luthier.data.records import Message, Record

SHORT: Final = 20  # words
PARTS: Final = ("setting", "asked", "answered", "rejected")
SEPARATOR: Final = "\x1e"  # between the parts of a stored row

_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts in which a letter counts as a word
_TOKEN = re.compile(
    rf"(?:(?<!\w)[-−])?\d+(?:[.,:/]\d+)*|[{_UNSPACED}]|[^\W\d{_UNSPACED}][^\W{_UNSPACED}]*\(?|[+*=<>^%$€£]|(?<=\d)[-/]"
)
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_QUOTE = re.compile(r"\"([^\"\n]{1,40})\"|“([^”\n]{1,40})”|`([^`\n]{1,40})`|(?<!\w)'([^'\n]{1,40})'(?!\w)")
_MARK = re.compile(r"[\"“`']")
_IDENTIFIER = re.compile(r"[_\d]|[a-z][A-Z]")
# Odd constants; any do. The last step is the finaliser of SplitMix64.
_FACTORS = [np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
                                           0x27D4EB2F165667C5, 0x85EBCA77C2B2AE63)]  # fmt: skip
_SHIFT, _FINAL = np.uint64(32), np.uint64(0xBF58476D1CE4E5B9)


def even_out(text: str) -> str:
    """NFKC, lower case, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.lower().split())


def hash_shingles(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """64-bit hashes of the character 5-grams of evened out texts; a text shorter than that is one shingle.

    Two of the 10^3 shingles of a pair of rows collide once in 10^13 pairs, so counting hashes is counting shingles.

    Returns:
        uint64 (N,), repeats included; int64 (n + 1,), where each text's shingles begin and the last ones end.
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    points = np.frombuffer(("\0" * 5).join([*texts, ""]).encode("utf-32-le", "surrogatepass"), np.uint32)
    points = points.astype(np.uint64)
    number = len(points) - 4
    hashes = points[:number] * _FACTORS[0]
    for index in range(1, 5):
        hashes += points[index : number + index] * _FACTORS[index]
    hashes ^= hashes >> _SHIFT
    hashes *= _FINAL
    hashes ^= hashes >> _SHIFT
    counts = np.maximum(lengths - 4, 1)
    ends = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    starts = np.cumsum(lengths + 5) - (lengths + 5)
    places = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], counts)
    return hashes[places], ends


def parts_of(example: Example) -> tuple[str, ...]:
    """What of an example is compared: its kind and label, and the texts named in `PARTS`."""
    record = example.record
    setting = [turn.content for turn in record.messages if turn.role == "system"]
    asked = [turn.content for turn in record.messages if turn.role in ("user", "tool")]
    answered = [record.text] if record.text else []
    answered += [turn.content + turn.tool_calls for turn in record.messages if turn.role == "assistant"]
    answered += [turn.content + turn.tool_calls for turn in record.chosen]
    rejected = [turn.content + turn.tool_calls for turn in record.rejected]
    kind = f"{record.kind} {record.label}"
    texts = ("\n".join(part) for part in ([*setting, record.tools], asked, answered, rejected))
    return kind, *(text.replace(SEPARATOR, " ") for text in texts)


@lru_cache(1 << 16)
def _kind_of(token: str) -> tuple[str, bool]:
    """A token in lower case, and whether a change of it makes another row, whatever stands around it."""
    name = token[:-1] if token[-1] == "(" else token
    return name.lower(), name is not token or not token[0].isalpha() or bool(_IDENTIFIER.search(token))


def fixed_words(text: str) -> set[str]:
    """Numbers, operators, code identifiers and words in short quotes, in lower case."""
    tokens = set(_TOKEN.findall(text))
    if _MARK.search(text):
        quoted = "\n".join(next(filter(None, groups)) for groups in _QUOTE.findall(text))
        inside = {_kind_of(token)[0] for token in _TOKEN.findall(quoted)}
    else:
        inside = set()
    return inside.union(name for name, is_fixed in map(_kind_of, tokens) if is_fixed)


class Words:
    """Words and how often each is there."""

    def __init__(self, words: list[str]) -> None:
        self.counts, self.total = Counter(words), len(words)

    def shared(self, other: "Words") -> int:
        """How many words are in both."""
        mine, theirs = self.counts, other.counts
        return sum(min(mine[word], theirs[word]) for word in mine.keys() & theirs.keys())

    def changed(self, other: "Words") -> int:
        """How many words of the longer are not in the other."""
        return max(self.total, other.total) - self.shared(other)

    def exchanged(self, other: "Words") -> int:
        """How many words each lacks of what the other has, of the one that lacks fewer."""
        return min(self.total, other.total) - self.shared(other)


def plain_example(row_id: str, *texts: str) -> Example:
    """A text, or a prompt and an answer, as an example."""
    if len(texts) == 1:
        return Example(row_id, Record(text=texts[0]))
    prompt, answer = texts
    return Example(row_id, Record((Message("user", prompt), Message("assistant", answer))))


class Part:
    """One text of a row: its words, and which of them a change of would make it another row."""

    def __init__(self, text: str) -> None:
        self.text = text
        kinds = [_kind_of(token) for token in _TOKEN.findall(text)]
        self.tokens = [token for token, _ in kinds]
        quoted: list[str] = []
        if _MARK.search(text):
            inside = [next(filter(None, groups)) for groups in _QUOTE.findall(text)]
            quoted = [_kind_of(token)[0] for token in _TOKEN.findall("\n".join(inside))]
            kinds = [_kind_of(token) for token in _TOKEN.findall(_QUOTE.sub(" ", text))]
        plain = [token for token, is_fixed in kinds if not is_fixed]
        fixed = [token for token, is_fixed in kinds if is_fixed] + quoted
        self.words, self.plain, self.fixed = Words(self.tokens), Words(plain), Words(fixed)

    @cached_property
    def shingles(self) -> np.ndarray:
        """Sorted hashes of the 5-grams, each once."""
        return _distinct(even_out(self.text))


class Row:
    """A row to compare, made of what `parts_of` gave; everything that costs time is worked out when needed."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.kind, self.texts = parts[0], parts[1:]

    @cached_property
    def text(self) -> str:
        """All parts but the setting, evened out."""
        return even_out(compared(self.texts))

    @cached_property
    def shingles(self) -> np.ndarray:
        """Sorted hashes of the 5-grams of the text, each once."""
        return _distinct(self.text)

    @cached_property
    def parts(self) -> list[Part]:
        """In the order of `PARTS`."""
        return [Part(unicodedata.normalize("NFKC", text)) for text in self.texts]

    @cached_property
    def numbers(self) -> Words:
        """Numbers of the text."""
        return Words(_NUMBER.findall(self.text))

    @cached_property
    def tokens(self) -> list[str]:
        """Words without the setting, in order."""
        return [token for part in self.parts[1:] for token in part.tokens]


def _distinct(text: str) -> np.ndarray:
    hashes = np.sort(hash_shingles([text])[0])
    first = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=first[1:])
    return hashes[first]  # np.unique takes four times as long


def compared(texts: tuple[str, ...]) -> str:
    """The text whose 5-grams stand for a row: all parts but the setting, which many rows have in common."""
    return "\n".join(texts[1:])


def hash_numbers(text: str) -> int:
    """32 bits of the numbers in a text, whatever their order."""
    return crc32(" ".join(sorted(_NUMBER.findall(text))).encode())


def is_short(text: str) -> bool:
    """Whether an evened out text has fewer than `SHORT` words; 8 characters are one where there are no spaces."""
    return max(text.count(" ") + 1, len(text) // 8) < SHORT
