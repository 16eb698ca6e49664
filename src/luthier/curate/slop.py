"""How much stock prose a text holds: hits of the lexicon per 1,000 words, with an interval, and a flag for review.

Per data set this tells styles apart well: human-written sets lie near 0.4 to 0.6 hits per 1,000 words, answers of
large models between 1 and 7. Per row it tells little (`LIMITS`), so a row is only ever flagged, and only where chance
does not explain its hits.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any, Final

from luthier.curate.example import Entry, Example
from luthier.curate.language_words import ENGLISH
from luthier.curate.slop_lexicon import PATTERNS, WORDS
from luthier.curate.step import Step

# Hits per 1,000 words that 95 % of human answers of FEWEST_WORDS or more stay below, measured on other data with
# another list of 90 such phrases. One hit in 100 words is twice that already, so it counts only beyond chance.
LIMIT: Final = 4.7
FEWEST_WORDS: Final = 80  # in a shorter answer one hit decides, and says nothing
FEWEST_HITS: Final = 2  # one, of whatever strength, is not beyond chance in FEWEST_WORDS words
REASON: Final = "stock phrases"

TOKEN: Final = re.compile(r"\w[\w']*|[.!?\n]")  # words, and the ends of sentences, which no phrase crosses
ENDS: Final = (".", "!", "?", "\n")
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_Z95 = 1.959964  # two-sided 95 %
_Z95_ONE = 1.644854  # one-sided 95 %
_ANY = "*"
_APART = bytes(code if re.match(rb"\w", bytes([code])) else ord(" ") for code in range(256))

LIMITS: Final = f"""\
What the stock phrase measure can tell: how the prose of this dataset, or of one of its sources, compares with another
one of the same kind. Where their intervals do not meet, their style differs.
What it cannot tell: whether one answer was written by a model, or is any good. Row by row, lists of this kind separate
human answers of {FEWEST_WORDS} words or more from model answers with an AUC of 0.57 to 0.74 (0.5 is chance), and older
models not at all. Advice that follows a fashion in plain words is not seen. The list is English, code blocks are left
out, and a trade that needs a word of the list in its plain sense scores higher without fault. So no row is dropped for
it: answers whose rate is above {LIMIT} hits per 1,000 words beyond chance are flagged for a person to read.
"""


@dataclass(frozen=True, slots=True)
class Phrase:
    """An entry of the lexicon: how it is written there, its class and its strength."""

    text: str
    kind: str
    weight: float


@dataclass(frozen=True, slots=True)
class Hit:
    """`text[start:end]` is an instance of `phrase`."""

    start: int
    end: int
    phrase: Phrase


@dataclass(slots=True)
class Jargon:
    """Hits over any number of texts; two of them can be added.

    Attributes:
        rows, words: texts counted, and their words outside code.
        hits: how often each phrase was found.
        weight: Σ over texts of their weighted hits h; likewise `squares` Σ h², `cross` Σ h·w and `word_squares` Σ w²,
            with w the words of a text.
        variance: Σ over hits of their weight squared.

    Weights are halves and wholes, so all sums are exact, in whatever order they are made.
    """

    rows: int = 0
    words: int = 0
    hits: Counter[Phrase] = field(default_factory=Counter)
    weight: float = 0.0
    squares: float = 0.0
    cross: float = 0.0
    word_squares: float = 0.0
    variance: float = 0.0

    def add(self, words: int, found: Sequence[Phrase]) -> None:
        """Count a text."""
        weight = sum(phrase.weight for phrase in found)
        self.rows += 1
        self.words += words
        self.hits.update(found)
        self.weight += weight
        self.squares += weight * weight
        self.cross += weight * words
        self.word_squares += words * words
        self.variance += sum(phrase.weight**2 for phrase in found)

    def __iadd__(self, other: "Jargon") -> "Jargon":
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @property
    def rate(self) -> float:
        """Weighted hits per 1,000 words."""
        return 1000 * self.weight / self.words if self.words else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `rate`. Hits come in bunches, so texts are the units, not words: the linearised variance of
        a ratio (W. G. Cochran, Sampling Techniques, 1977, §2.11). It is never narrower than counting alone allows.
        """
        if not self.words:
            return 0.0, 0.0
        rate = self.weight / self.words
        spread = self.squares - 2 * rate * self.cross + rate * rate * self.word_squares
        half = _Z95 * math.sqrt(max(spread, 0.0) * self.rows / max(self.rows - 1, 1)) / self.words
        low, high = _poisson(self.weight, self.variance, _Z95)
        return max(0.0, 1000 * min(rate - half, low / self.words)), 1000 * max(rate + half, high / self.words)

    def summary(self, top: int = 20) -> dict[str, Any]:
        """For reports: rows, words, hits, rate, interval, rate of each class, and the most frequent phrases."""
        kinds: Counter[str] = Counter()
        for phrase, number in self.hits.items():
            kinds[phrase.kind] += number * phrase.weight
        ordered = sorted(self.hits.items(), key=lambda item: (-item[1] * item[0].weight, item[0].text))
        return {
            "rows": self.rows,
            "words": self.words,
            "hits": self.hits.total(),
            "per_1000_words": self.rate,
            "interval": self.interval,
            "classes": {kind: 1000 * kinds[kind] / max(self.words, 1) for kind in (*WORDS, "contrast")},
            "top": [[phrase.text, phrase.kind, number] for phrase, number in ordered[:top]],
        }


def _poisson(total: float, variance: float, z: float) -> tuple[float, float]:
    """Interval of a sum of weighted Poisson counts: Byar's approximation (Breslow and Day, Statistical Methods in
    Cancer Research II, 1987, p. 69) for the count with the same mean and variance up to a factor (Dobson et al.,
    Statistics in Medicine 10, 1991). Without a hit, the upper end is that of a count of 0, whose weight is taken as 1.
    """
    if total <= 0:
        return 0.0, (1 - 1 / 9 + z / 3) ** 3
    scale = variance / total
    count = total / scale
    low = count * (1 - 1 / (9 * count) - z / (3 * math.sqrt(count))) ** 3
    high = (count + 1) * (1 - 1 / (9 * (count + 1)) + z / (3 * math.sqrt(count + 1))) ** 3
    return max(low, 0.0) * scale, high * scale


def lower_rate(found: Sequence[Phrase], words: int) -> float:
    """Hits per 1,000 words that a text's true rate is above, with 95 % confidence: what chance does not explain."""
    weight = sum(phrase.weight for phrase in found)
    return 1000 * _poisson(weight, sum(phrase.weight**2 for phrase in found), _Z95_ONE)[0] / words


def prose(text: str) -> str:
    """The text to search: in lower case, apostrophes straight, code blocks blanked, every character in its place."""
    if "```" in text:
        text = _CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    lowered = text.lower()
    if len(lowered) != len(text):  # a few capitals have longer small forms, as İ
        lowered = "".join(low if len(low := char.lower()) == 1 else char for char in text)
    return lowered.replace("’", "'")


def phrases_in(text: str) -> tuple[int, list[Phrase]]:
    """Words of a text and the phrases in it, each as often as it occurs; of overlapping ones the longest."""
    low = prose(text)
    tokens = TOKEN.findall(low)
    words = len(tokens) - sum(map(tokens.count, ENDS))
    return words, [phrase for _, _, phrase in _in_tokens(tokens)] + [hit.phrase for hit in _in_text(low)]


def hits_in(text: str) -> list[Hit]:
    """The phrases in a text with their places, in order."""
    low = prose(text)
    places = [match.span() for match in TOKEN.finditer(low)]
    found = _in_tokens([low[start:end] for start, end in places])
    hits = [Hit(places[first][0], places[last][1], phrase) for first, last, phrase in found]
    return sorted(hits + _in_text(low), key=lambda hit: (hit.start, hit.end, hit.phrase.text))


def _in_tokens(tokens: Sequence[str]) -> list[tuple[int, int, Phrase]]:
    """(first token, last token, phrase), from left to right, longest first, without overlaps."""
    found: list[tuple[int, int, Phrase]] = []
    tree, free, number = _tree(), 0, len(tokens)
    for index in [index for index, token in enumerate(tokens) if token in tree]:
        if index >= free:
            best, node, at = None, tree[tokens[index]], index
            while node is not None:
                if "" in node:
                    best = (index, at, node[""])
                at += 1
                if at == number:
                    break
                node = node.get(tokens[at]) or (node.get(_ANY) if tokens[at] not in ENDS else None)
            if best is not None:
                found.append(best)
                free = best[1] + 1
    return found


def _in_text(low: str) -> list[Hit]:
    return [
        Hit(match.start(), match.end(), phrase)
        for needed, phrase, pattern in _patterns()
        if needed in low
        for match in pattern.finditer(low)
    ]


def _at_most(low: str) -> int:
    """A number of hits that a text in lower case has no more of; found in a third of the time of the hits."""
    words = low.encode("utf-8", "surrogatepass").translate(_APART).split()
    return sum(map(_telling().__contains__, words)) + len(_in_text(low))


@cache
def _patterns() -> list[tuple[str, Phrase, re.Pattern[str]]]:
    return [
        (needed, Phrase(name, "contrast", weight), re.compile(pattern)) for name, weight, needed, pattern in PATTERNS
    ]


@cache
def _telling() -> frozenset[bytes]:
    """Of each phrase its longest word that is not in all texts: who has none of these has none of the phrases."""

    def telling(word: str) -> tuple[bool, int]:
        return word not in ENGLISH, len(word)

    return frozenset(max(filter(str.isalpha, reversed(words)), key=telling).encode() for words, _ in _lexicon())


def _lexicon() -> Iterator[tuple[list[str], Phrase]]:
    """The words of each way to spell each phrase."""
    for kind, strengths in WORDS.items():
        for weight, lines in strengths.items():
            for line in lines.split("|"):
                text = " ".join(line.split())
                for spelled in product(*(_forms(word) for word in text.split(" "))):
                    yield [word for word in spelled if word], Phrase(text, kind, weight)


@cache
def _tree() -> dict[str, Any]:
    """The lexicon as a tree of words; the phrase that ends at a node is under ""."""
    tree: dict[str, Any] = {}
    for words, phrase in _lexicon():
        node = tree
        for word in words:
            node = node.setdefault(word, {})
        if "" not in node or node[""].weight < phrase.weight:  # of two that spell alike, the stronger
            node[""] = phrase
    return tree


def _forms(word: str) -> tuple[str, ...]:
    """The words that one place of a line stands for; "" where it may be absent."""
    optional = word.startswith("?")
    forms = [form for part in word.removeprefix("?").split("/") for form in _inflected(part)]
    return tuple(forms + [""] * optional)


def _inflected(word: str) -> list[str]:
    if word.endswith("+"):
        stem = word[:-1]
        return [stem, f"{stem}s"]
    if not word.endswith("~"):
        return [word]
    stem = word[:-1]
    if stem.endswith("e"):
        return [stem, f"{stem}s", f"{stem}d", f"{stem[:-1]}ing"]
    if stem.endswith("y") and stem[-2] not in "aeiou":
        return [stem, f"{stem[:-1]}ies", f"{stem[:-1]}ied", f"{stem}ing"]
    third = "es" if stem.endswith(("s", "sh", "ch", "x", "z")) else "s"
    return [stem, f"{stem}{third}", f"{stem}ed", f"{stem}ing"]


def slop(examples: Sequence[Example]) -> list[Entry]:
    """Flag answers of FEWEST_WORDS words or more whose rate of stock phrases is above LIMIT beyond chance (95 %)."""
    entries: list[Entry] = []
    for example in examples:
        answer = example.answer
        if len(answer) < 3 * FEWEST_WORDS:  # words of two letters and a space would hardly be prose
            continue
        if _at_most(prose(answer)) < FEWEST_HITS:
            continue
        words, found = phrases_in(answer)
        if words >= FEWEST_WORDS and lower_rate(found, words) > LIMIT:
            seen = Counter(phrase.text for phrase in found)
            shown = ", ".join(text if number == 1 else f"{text} ×{number}" for text, number in seen.most_common(8))
            rate = 1000 * sum(phrase.weight for phrase in found) / words
            detail = f"{len(found)} in {words} words, {rate:.1f} weighted per 1,000: {shown}"
            entries.append(Entry(example.id, "flag", REASON, score=rate, detail=detail))
    return entries


SLOP = Step("slop", 1, slop)
