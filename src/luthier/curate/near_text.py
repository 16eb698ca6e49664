"""Rows as near duplicates are decided on: their parts, words, numbers and shingles.

A row is cut into parts (`PARTS`), as two rows are the same only where all of their parts are. Some words are *fixed*:
numbers, operators, code identifiers and words in short quotes. Another one in their place makes another row.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain, compress
from operator import not_
from typing import Any, Final
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
_ASCII_TOKEN = re.compile(  # finds the same in ASCII, in half the time
    r"[A-Za-z_][A-Za-z0-9_]*\(?|(?:(?<!\w)-)?\d+(?:[.,:/]\d+)*|[+*=<>^%$]|(?<=\d)[-/]", re.ASCII
)
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_QUOTE = re.compile(r"\"([^\"\n]{1,40})\"|“([^”\n]{1,40})”|`([^`\n]{1,40})`|(?<!\w)'([^'\n]{1,40})'(?!\w)")
_MARK = re.compile(r"[\"“`']")
_IDENTIFIER = re.compile(r"[_\d]|[a-z][A-Z]")
# Odd constants; any do. The last step is the finaliser of SplitMix64.
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5,
                     0x85EBCA77C2B2AE63], np.uint64)  # fmt: skip
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
    hashes = _hash_grams(("\0" * 5).join([*texts, ""]))
    counts = np.maximum(lengths - 4, 1)
    ends = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    runs = np.stack([counts, lengths + 5 - counts], 1).ravel()  # 5-grams of a text; those that reach out of it
    inside = np.repeat(np.tile([True, False], len(texts)), runs)
    return hashes[inside[: len(hashes)]], ends


def _hash_grams(text: str) -> np.ndarray:
    """64-bit hashes of all runs of five characters."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.correlate(points, _FACTORS)  # Σ points[i + k]·factors[k] modulo 2^64
    hashes ^= hashes >> _SHIFT
    hashes *= _FINAL
    hashes ^= hashes >> _SHIFT
    return hashes


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


class _Kept(dict[str, Any]):
    """What a function makes of a token, kept for the next time: rows have their words from one language."""

    def __init__(self, function: Callable[[str], Any]) -> None:
        super().__init__()
        self.function = function

    def __missing__(self, token: str) -> Any:
        if len(self) >= 1 << 16:
            self.clear()
        self[token] = made = self.function(token)
        return made


_NAME = _Kept(lambda token: token.removesuffix("(").lower())
_IS_FIXED = _Kept(lambda token: token[-1] == "(" or not token[0].isalpha() or bool(_IDENTIFIER.search(token)))


def _kinds(text: str) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """The tokens of a text in lower case, and of each whether a change of it makes another row, whatever is around."""
    found = (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text)
    return tuple(map(_NAME.__getitem__, found)), tuple(map(_IS_FIXED.__getitem__, found))


def fixed_words(text: str) -> set[str]:
    """Numbers, operators, code identifiers and words in short quotes, in lower case."""
    return set(_quoted(text)).union(compress(*_kinds(text)))


def _quoted(text: str) -> tuple[str, ...]:
    """The words in short quotes, in lower case."""
    if not _MARK.search(text):
        return ()
    return _kinds("\n".join(next(filter(None, groups)) for groups in _QUOTE.findall(text)))[0]


class Words:
    """Words and how often each is there."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.total = words, len(words)

    @cached_property
    def counts(self) -> Counter[str]:
        """Each word and how often it is there."""
        return Counter(self.words)

    def shared(self, other: "Words") -> int:
        """How many words are in both."""
        if not self.total or not other.total or self.words == other.words:
            return min(self.total, other.total)
        mine, theirs = self.counts, other.counts
        common = mine.keys() & theirs.keys()
        return sum(map(min, map(mine.__getitem__, common), map(theirs.__getitem__, common)))

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


_NO_WORDS: Final = Words(())


class Part:
    """One text of a row: its words, and which of them a change of would make it another row."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens, fixed = _kinds(text)
        self.words, names, quoted = Words(self.tokens), self.tokens, _quoted(text)
        if quoted:
            names, fixed = _kinds(_QUOTE.sub(" ", text))
        if quoted or any(fixed):
            self.plain = Words(tuple(compress(names, map(not_, fixed))))
            self.fixed = Words((*compress(names, fixed), *quoted))
        else:
            self.plain, self.fixed = self.words, _NO_WORDS

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
        return Words(_numbers(self.text))

    @cached_property
    def tokens(self) -> list[str]:
        """Words without the setting, in order."""
        return list(chain.from_iterable(part.tokens for part in self.parts[1:]))


def _distinct(text: str) -> np.ndarray:
    hashes = _hash_grams(text.ljust(5, "\0"))  # as `hash_shingles` has them, without its work for many texts
    hashes.sort()
    first = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=first[1:])
    return hashes[first]  # np.unique takes four times as long


def compared(texts: tuple[str, ...]) -> str:
    """The text whose 5-grams stand for a row: all parts but the setting, which many rows have in common."""
    return "\n".join(texts[1:])


def hash_numbers(text: str) -> int:
    """32 bits of the numbers in a text, whatever their order."""
    return crc32(" ".join(sorted(_numbers(text))).encode())


def _numbers(text: str) -> list[str]:
    """The numbers in a text, in order."""
    if not text.isascii():
        return _NUMBER.findall(text)
    digits = [digit for digit in "0123456789" if digit in text]
    if not digits:
        return []
    # In most texts they are few and stand close together, and the pattern is slow where there are none.
    return _NUMBER.findall(text, min(map(text.find, digits)), max(map(text.rfind, digits)) + 1)


def is_short(text: str) -> bool:
    """Whether an evened out text has fewer than `SHORT` words; 8 characters are one where there are no spaces."""
    return max(text.count(" ") + 1, len(text) // 8) < SHORT
