"""The language of texts, and answers in another language than their prompt's.

A text is known by its small words (`language_words`), which takes microseconds and cannot be deceived by names; by its
script where that settles it; and only where neither does by `lingua` (Stahl 2022), in its low-accuracy mode, which is
the one that needs 60 MB and not 900. Lists of names are Italian, French or Tagalog to lingua with full confidence, so
what it alone says is never a reason to drop.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from string import ascii_letters
from typing import Any, Final

from luthier.curate.example import Entry, Example
from luthier.curate.language_words import ASKED, ENGLISH, FAMILIES, SCRIPTS, WORDS
from luthier.curate.pair import Pair, looks_like_code, pairs_of
from luthier.curate.step import Step

LOOK: Final = 600  # characters of a text that are looked at
LETTERS: Final = 40  # of prose, under which nothing is said about its language; of scripts without spaces a third
PROSE: Final = 0.7  # share of letters among the characters that are not blanks: code has less
CODE: Final = 0.04  # share of a text's characters that are code's, over which it is not looked at; prose has 0.01
RUNNING: Final = 15  # different words in lower case from which lingua is asked: lists of names have none
SURE: Final = 0.9  # confidence of lingua from which it counts

_COMMONEST: Final = {"cyrillic": "ru", "arabic": "ar", "devanagari": "hi"}
_NOT_PROSE: Final = re.compile(
    r"```[\s\S]*?(?:```|\Z)|`[^`\n]*`|\$\$[\s\S]*?\$\$|\$[^$\n]+\$|\\\[[\s\S]*?\\\]|\\\([^\n]*?\\\)|<<[^>\n]*>>"
    r"|<[^>\n]{1,80}>|https?://\S+|\S+@\S+|[\w/\\]+[./\\_]\w[\w./\\-]*"
)
_ASCII_LETTERS: Final = ascii_letters.encode()
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


@dataclass(frozen=True, slots=True)
class Guess:
    """The language of a text. `how` is "words", "script" or "lingua"."""

    code: str
    how: str
    confidence: float


@cache
def _detector() -> Any:
    from lingua import LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_all_spoken_languages().with_low_accuracy_mode().build()


def _lingua(text: str) -> Guess | None:
    value = _detector().compute_language_confidence_values(text[:300])[0]
    code = value.language.iso_code_639_1.name.lower()
    return Guess(code, "lingua", round(value.value, 3)) if value.value >= SURE else None


def _vote(words: list[str]) -> Guess | None:
    """The language that the small words among these belong to, if one leads clearly."""
    votes: Counter[str] = Counter()
    times = Counter(words)
    for word, number in times.items():
        for code in WORDS.get(word, ()):
            votes[code] += number
    if not votes:
        return None
    (first, most), second = votes.most_common(1)[0], 0
    if len([word for word in times if len(word) > 1 and first in WORDS.get(word, ())]) < 3:
        return None  # one word often, as "no" or "ale" in a list
    for code, count in votes.items():
        if count > second and not _close(code, first):
            second = count
    share = most / len(words)
    # A tenth of the text, and half as many again as any language that is not a sibling.
    return Guess(first, "words", round(share, 3)) if share >= 0.1 and most >= 1.5 * second else None


def _close(one: str, other: str) -> bool:
    return one == other or any(one in family and other in family for family in FAMILIES)


def _letters(text: str) -> int:
    """How many letters a text has."""
    if text.isascii():
        return len(text) - len(text.encode().translate(None, _ASCII_LETTERS))
    return sum(map(str.isalpha, text))


def language_of(text: str) -> Guess | None:
    """The language of a text, by its first `LOOK` characters without code, formulas and addresses; None if unsure."""
    if "```" not in text and "<<" not in text and sum(map(text[:LOOK].count, "={};()[]_")) > CODE * len(text[:LOOK]):
        return None
    text = _NOT_PROSE.sub(" ", text[: 2 * LOOK])[:LOOK]
    letters = _letters(text)
    if letters < LETTERS // 3 or letters < PROSE * sum(map(len, text.split())):
        return None
    if not text.isascii():
        script, most = "", 0
        for name, pattern in SCRIPTS:
            count = len(pattern.findall(text))
            if name == "ja" and count >= 3 and count * 8 >= letters:  # Japanese is known by its kana
                return Guess("ja", "script", 1.0)
            if count > most:
                script, most = name, count
        share = round(most / letters, 3)
        if most * 2 >= letters:
            if len(script) > 2:  # several languages share it; which one matters little, they are of one family
                found = _vote(_TOKEN.findall(text.lower())) or (_lingua(text) if letters >= LETTERS else None)
                script = found.code if found is not None else _COMMONEST[script]
            return Guess(script, "script", share)
    if letters < LETTERS:
        return None
    tokens = _TOKEN.findall(text.replace("’", "'"))
    found = _vote([token.lower() for token in tokens])
    if found is not None:
        return found
    running = {token for token in tokens if token.islower()}
    return None if len(running) < RUNNING or not running.isdisjoint(ENGLISH) else _lingua(text)


def _plainly_english(text: str) -> bool:
    """Whether two words in the first part of a text, and one in 20, are ones that only English has. A cheap proof."""
    words = text[:300].partition("```")[0].split()  # keywords of code are English words
    hits = sum(map(ENGLISH.__contains__, words))
    return hits >= 2 and hits * 20 >= len(words)


def _holds(text: str, code: str) -> bool:
    """Whether a text has anything in a language: three letters of its script, or two of its own small words."""
    for name, pattern in SCRIPTS:
        if name == code or (name == "zh" and code == "ja"):
            return len(pattern.findall(text)) >= 3
    own = [word for word in set(_TOKEN.findall(text.lower())) if code in WORDS.get(word, ()) and word not in ENGLISH]
    return len([word for word in own if "en" not in WORDS[word]]) >= 2


def _wrong(pair: Pair, said: str) -> Entry | None:
    """The entry for an answer whose language nothing explains, without its record; None for all others."""
    prompt, answer = pair.prompt, pair.answer
    if not answer or not prompt or len(answer) < LETTERS // 3:
        return None
    english = _plainly_english(answer)
    if english and prompt.isascii() and (len(prompt) < LETTERS or not ENGLISH.isdisjoint(prompt[:300].split())):
        return None
    answered = Guess("en", "words", 1.0) if english else language_of(answer)
    if answered is None:
        return None
    asked = Guess("en", "words", 1.0) if _plainly_english(prompt) else language_of(prompt)
    if asked is None or _close(asked.code, answered.code) or _holds(said, answered.code) or ASKED.search(said):
        return None
    if "```" not in answer and pair.looks_like_code:
        return None
    by_words = "lingua" not in (asked.how, answered.how)
    for guess, text in ((asked, prompt), (answered, answer)):  # a second opinion, where a drop depends on it
        if by_words and guess.how == "words" and guess.code != "en":
            second = _lingua(_NOT_PROSE.sub(" ", text[:LOOK]))
            by_words = second is not None and _close(second.code, guess.code)
    return Entry(
        "",
        "drop" if by_words else "flag",
        "wrong language" if by_words else "wrong language suspected",
        pair.answer_field,
        score=answered.confidence,
        detail=f"asked in {asked.code}, answered in {answered.code} (by {answered.how})",
    )


def language(examples: Sequence[Example]) -> list[Entry]:
    """Answers that are trained on, in another language than their prompt, with nothing in the prompt to explain it.

    Explained is: the name of a language, "translate" and the like, in any turn so far or the system turn; words of the
    answer's language in them. Languages of one family are never told apart. Dropped where small words or the script say
    so; where only lingua does, flagged. Not caught: answers under 40 letters, language switches inside an answer.
    """
    entries = []
    for example in examples:
        said = ""
        for pair in pairs_of(example):
            if pair.kind == "text":
                break
            said = f"{said or pair.system}\n{pair.prompt}"
            found = _wrong(pair, said)
            if found is not None:
                entries.append(
                    Entry(example.id, found.action, found.reason, found.field, score=found.score, detail=found.detail)
                )
                break
    return entries


def languages(examples: Iterable[Example]) -> Counter[str]:
    """How many examples have their answer in which language (ISO 639-1); "code" is code, "" too short or unsure."""
    counts: Counter[str] = Counter()
    for example in examples:
        text = example.answer
        if _plainly_english(text):
            counts["en"] += 1
            continue
        guess = language_of(text)
        if guess is not None:
            counts[guess.code] += 1
        else:
            counts["code" if looks_like_code(text) else ""] += 1
    return counts


LANGUAGE: Final = Step("language", 1, language)
