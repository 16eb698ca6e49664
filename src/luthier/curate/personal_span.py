"""What the searches for personal data share: spans, a text folded to ASCII digits, words nearby, and masking."""

import re
import unicodedata
from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from re import Pattern


@dataclass(frozen=True, slots=True)
class Span:
    """Personal data or a secret in a text.

    Attributes:
        start, end: the characters, as in text[start:end].
        kind: what it is: "EMAIL", "CARD", "ID_US_SSN" …; the name that its placeholder bears.
        proof: why it is believed to be one, for people; never holds the value.
    """

    start: int
    end: int
    kind: str
    proof: str


_MATHEMATICAL = (0x1D7CE, 0x1D800)  # 𝟎 to 𝟿


@cache
def _foldings() -> tuple[Pattern[str], dict[str, str]]:
    """Characters that people write digits, gaps and joints with, and the ASCII character each stands for.

    Made when the first text needs it: a pattern that lists every character is twice as fast as one with a class. Of
    the digits beyond the basic plane only the mathematical ones are taken, which people write fancy numbers with.
    """
    codes = (*range(0x80, 0x10000), *range(*_MATHEMATICAL))
    table = {chr(code): str(unicodedata.digit(chr(code))) for code in codes if chr(code).isdecimal()}
    table |= {chr(code): " " for code in (0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)}
    table |= {chr(code): "-" for code in (*range(0x2010, 0x2016), 0x2212, 0xFE63)}
    table |= {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
    listed = re.escape("".join(char for char in table if ord(char) < 0x10000))
    return re.compile(f"[{listed}{chr(_MATHEMATICAL[0])}-{chr(_MATHEMATICAL[1] - 1)}]"), table


def fold_text(text: str) -> str:
    """The text with Unicode digits, spaces, hyphens and full-width forms as ASCII; as long as before, so that places in
    one are places in the other."""
    if text.isascii():
        return text
    pattern, table = _foldings()
    return pattern.sub(lambda match: table[match[0]], text)


def listed(text: str) -> frozenset[str]:
    """The words of a text, as a set: long tables stay readable that way."""
    return frozenset(text.split())


def words_pattern(words: Iterable[str]) -> Pattern[str]:
    """A pattern that finds any of these words or phrases (regular expressions), in any case, as whole words.

    A word in capitals is found in capitals only: "SIN" is a number in Canada, "sin" is a function. The word in a
    placeholder is none: "[CARD_1]" says nothing about the number after it.
    """
    parts = [f"(?-i:{word})" if word.isupper() else word for word in words]
    return re.compile(rf"(?<![^\W\d_])(?:{'|'.join(parts)})(?![^\W\d_]|_\d+\])", re.IGNORECASE)


def word_near(pattern: Pattern[str], text: str, start: int, end: int, *, before: int = 48, after: int = 24) -> str:
    """The word of the pattern that stands near text[start:end], the closest one before it first; "" for none."""
    found = ""
    for match in pattern.finditer(text[max(0, start - before) : start]):
        found = match[0]
    if found:
        return found.lower()
    match = pattern.search(text[end : end + after])
    return match[0].lower() if match else ""


def mask(value: str) -> str:
    """The value so that a person who knows it recognises it and nobody learns it: its first and last characters."""
    if len(value) < 6:
        return "…"
    shown = 1 if len(value) < 12 else 2
    return f"{value[:shown]}…{value[-shown:]}".replace("\n", " ")


def settle(spans: Iterable[Span], ranks: dict[str, int]) -> list[Span]:
    """The spans of which no two overlap, in order: of two that do, the kind of lower rank stays, then the longer."""
    taken: list[Span] = []
    for span in sorted(spans, key=lambda span: (ranks.get(span.kind, 1), span.start - span.end, span.start, span.kind)):
        place = bisect(taken, span.start, key=lambda other: other.start)
        free_before = place == 0 or taken[place - 1].end <= span.start
        if free_before and (place == len(taken) or span.end <= taken[place].start):
            taken.insert(place, span)
    return taken
