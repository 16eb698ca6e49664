"""Texts as numbers: tokens, runs of eight tokens, and pieces of five characters, hashed for a million texts at a time.

A token is a run of letters and digits in lower case; everything else, "_" included, stands between tokens. So markup,
quotes, line ends and the spelling of operators make no difference. In scripts that write no spaces between words a
letter is a token. Hashes are 64 bits, the same in every process.
"""

import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np

NGRAM: Final = 8  # tokens
PIECE: Final = 5  # characters; of what is not ASCII, bytes
PIECE_BITS: Final = np.uint64(8 * PIECE)  # a piece is less than 2 to this, which leaves 24 bits above it
PIECE_MASK: Final = (np.uint64(1) << PIECE_BITS) - np.uint64(1)
_CHUNK: Final = 1 << 18  # bytes that are worked on at once, about
_ODD: Final = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_SPACE: Final = 32
_NUMBER: Final = re.compile(r"\d+")
_BETWEEN: Final = re.compile(r"[^\w\s]|_")
_UNSPACED: Final = re.compile(r"([\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")

_IS_WORD: Final = np.zeros(256, bool)
_IS_WORD[[*range(48, 58), *range(97, 123), *range(128, 256)]] = True
_LETTER: Final = np.random.Generator(np.random.PCG64(0x4C6C)).integers(1, 1 << 63, 256, dtype=np.uint64)


def normalise(text: str) -> bytes:
    """Lower case, compatibility forms folded (NFKC); of what is not ASCII, only letters and digits are left."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = _UNSPACED.sub(r" \1 ", _BETWEEN.sub(" ", text))
    return text.lower().encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of several texts in a row.

    Attributes:
        hashes: (N,) uint64, one a token.
        ends: (texts,) int64, where each text's tokens end in `hashes`; it begins where the one before ends.
    """

    hashes: np.ndarray
    ends: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """(texts,) int64, where each text's tokens begin."""
        return np.concatenate([[0], self.ends[:-1]]).astype(np.int64) if len(self.ends) else self.ends

    @property
    def counts(self) -> np.ndarray:
        """(texts,) int64, tokens of each text."""
        return np.diff(self.ends, prepend=0)

    def of(self, texts: np.ndarray) -> "Tokens":
        """The tokens of some of the texts, which are given by their places."""
        counts = self.counts[texts]
        ends = np.cumsum(counts)
        place = np.repeat(self.starts[texts] - ends + counts, counts) + np.arange(counts.sum())
        return Tokens(self.hashes[place], ends)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The texts normalised, about `_CHUNK` bytes at a time.

    Yields:
        the bytes of some texts, with a line end after each; which of these bytes are of words; where each text begins.
    """
    sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
    chunk = np.cumsum(sizes) // _CHUNK
    edges = [0, *(np.flatnonzero(chunk[1:] != chunk[:-1]) + 1).tolist(), len(texts)] if len(texts) else []
    for first, stop in pairwise(edges):
        lengths, joined = sizes[first:stop], "\n".join([*texts[first:stop], ""])
        if joined.isascii():  # then characters are bytes, and all can be done at once
            data = joined.lower().encode()
        else:
            parts = [normalise(text) for text in texts[first:stop]]
            lengths = np.fromiter(map(len, parts), np.int64, len(parts)) + 1
            data = b"\n".join([*parts, b""])
        letters = np.frombuffer(data, np.uint8)
        yield letters, _IS_WORD[letters], np.cumsum(lengths) - lengths


def tokenise(texts: Sequence[str]) -> Tokens:
    """The tokens of each text."""
    hashes, ends, before = [], [], 0
    for data, word, starts in _chunks(texts):
        flips = np.flatnonzero(np.diff(word, prepend=False))  # the last byte is a line end, so these are pairs
        first, last = flips[::2], flips[1::2]
        hashes.append(_mix(_polynomials(_LETTER[data], first, last)))
        ends.append(np.append(np.searchsorted(first, starts[1:]), len(first)) + before)
        before += len(first)
    if not hashes:
        return Tokens(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    return Tokens(np.concatenate(hashes), np.concatenate(ends))


def ngrams(tokens: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hash, text, place in the text) of every run of `NGRAM` tokens that lies within a text."""
    counts, starts = tokens.counts, tokens.starts
    runs = np.maximum(counts - NGRAM + 1, 0)
    text = np.repeat(np.arange(len(counts)), runs)
    place = np.arange(len(text)) - np.repeat(np.cumsum(runs) - runs, runs)
    first = starts[text] + place
    return _mix(_polynomials(tokens.hashes, first, first + NGRAM)), text, place


def whole(tokens: Tokens) -> np.ndarray:
    """(texts,) a hash of each text's tokens in order; texts without a token have the same."""
    return _mix(_polynomials(tokens.hashes, tokens.starts, tokens.ends))


def pieces(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(piece, text) of every run of `PIECE` bytes of the tokens written with one space after each.

    A piece is its bytes as a number, not a hash: equal numbers are equal pieces.
    """
    values, owners, before = [], [], 0
    for data, word, starts in _chunks(texts):
        kept = np.flatnonzero(word | np.concatenate([[False], word[:-1]]))
        letters = np.where(word[kept], data[kept], _SPACE).astype(np.uint64)
        text = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(data)))[kept]
        number = max(0, len(kept) - PIECE + 1)
        value = np.zeros(number, np.uint64)
        for place in range(PIECE):
            value |= letters[place : place + number] << np.uint64(8 * place)
        inside = text[:number] == text[PIECE - 1 :][:number]
        values.append(value[inside])
        owners.append(text[:number][inside] + before)
        before += len(starts)
    if not values:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    return np.concatenate(values), np.concatenate(owners)


def numbers_of(text: str) -> list[str]:
    """The numbers in a text as they are written, sorted."""
    return sorted(_NUMBER.findall(text))


def number_names(texts: Sequence[str]) -> np.ndarray:
    """(texts,) uint64 below 2^24, the same for texts with the same numbers; for others hardly ever."""
    numbers = (",".join(numbers_of(text)) for text in texts)
    return np.fromiter((zlib.crc32(one.encode()) & 0xFFFFFF if one else 0 for one in numbers), np.uint64, len(texts))


def _polynomials(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Σ values[first + k]·odd^k modulo 2^64 of each range, from one running sum over all values."""
    powers, inverses = _powers(1 << max(19, len(values).bit_length()))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return (sums[last] - sums[first]) * inverses[first]


@lru_cache(maxsize=4)
def _powers(number: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(  # type: ignore[return-value]
        np.cumprod(np.r_[np.uint64(1), np.full(number, base, np.uint64)], dtype=np.uint64)
        for base in (_ODD, pow(_ODD, -1, 1 << 64))
    )


def _mix(values: np.ndarray) -> np.ndarray:
    """Spreads every bit over all others (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values, sorted, and how often each occurs. `np.unique` hashes, and these values hash badly."""
    values = np.sort(values)
    first = np.flatnonzero(np.concatenate([np.ones(len(values[:1]), bool), values[1:] != values[:-1]]))
    return values[first], np.diff(first, append=len(values))
