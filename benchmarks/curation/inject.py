"""Put known defects into clean pools and keep the truth: which row, what kind, and what should become of it.

The same pools and seed give the same rows, whatever else is installed. A row serves one kind at most. Kinds that
damage a row take the place of it; copies are added beside their original, which stays, or is held out.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import inject_kinds as kinds
from inject_kinds import PLAIN, Made, Row
from inject_text import TABLES, Tables

EDITS: Final = {f"near duplicate {share} %": share / 100 for share in (2, 5, 10, 20, 30)}
IN_PLACE: Final[dict[str, Callable[[Row, Random], Made | None]]] = {
    "truncation": kinds.truncate,
    "wrong number": kinds.wrong_number,
    "personal data": kinds.personal,
    "secret": kinds.secret,
}
FROM_TABLES: Final[dict[str, Callable[[Row, Random, Tables], Made | None]]] = {
    "refusal": kinds.refuse,
    "wrong language": kinds.wrong_language,
}
WITH_OTHER: Final = {"merged rows": kinds.merge, "prompt leak": kinds.prompt_leak}
LEAKS: Final = ("cross-split copy", "evaluation copy")
KINDS: Final = (*EDITS, "paraphrase", "swapped answers", "mojibake", *IN_PLACE, *FROM_TABLES, *WITH_OTHER, *LEAKS)
DAMAGE: Final = ("mojibake", *IN_PLACE, *FROM_TABLES, *WITH_OTHER)  # takes the place of a row
HELD_OUT_MORE: Final = 2  # rows held out without a copy, for each one with a copy


@dataclass(frozen=True, slots=True)
class Injection:
    """One injected defect.

    Attributes:
        kind: one of `KINDS`.
        key: of the row that is wrong.
        partner: key of the row it is a copy of; "" for damage.
        clean: the row as it would be without the defect.
        variant: which way it was made.
        values: texts that must be gone from the row.
    """

    kind: str
    key: str
    clean: Row
    variant: str = ""
    partner: str = ""
    values: tuple[str, ...] = ()


@dataclass
class Mixture:
    """Rows for training with the truth about them, and the rows that are held out."""

    rows: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    evaluation: list[Row] = field(default_factory=list)
    injections: list[Injection] = field(default_factory=list)
    short: Counter[str] = field(default_factory=Counter)  # kind → rows wanted that no row of the pool was fit for


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


class _Deck:
    """The rows of a domain in an order of the seed; each is handed out once."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        self.left = sorted(rows, key=lambda row: _rank(seed, row.key))

    def draw(self, fit: Callable[[Row], Made | None]) -> tuple[Row, Made] | None:
        """The next row that `fit` makes something of, and what it made."""
        for place, row in enumerate(self.left):
            if (made := fit(row)) is not None:
                del self.left[place]
                return row, made
        return None

    def take(self) -> Row:
        """The next row."""
        return self.left.pop(0)


def inject(pool: Sequence[Row], *, rate: float = 0.01, seed: int = 0, tables: Tables = TABLES) -> Mixture:
    """Make a mixture: in every domain, `rate` of its rows (at least one) for each kind.

    `tables` are the words that some kinds are made of: the reported half has its own.

    A kind that needs more than a domain has (an edit of 2 % needs 50 words) gets fewer there; see `Mixture.short`.
    """
    mixture = Mixture()
    domains = list(dict.fromkeys(row.domain for row in pool))
    for domain in domains:
        rows = [row for row in pool if row.domain == domain]
        assert len(rows) > 50, f"{domain} has only {len(rows)} rows in this half: too few to inject into"
        vocabulary = [word for row in rows for word in PLAIN.findall(f"{row.prompt} {row.answer}")]
        deck, number = _Deck(rows, seed), max(1, round(rate * len(rows)))
        for kind in KINDS:
            random = Random(f"{seed}:{domain}:{kind}")
            made = list(_make(kind, deck, number, vocabulary, random, mixture, tables))
            mixture.short[kind] += number - len(made)
            mixture.injections += made
        mixture.rows += deck.left
    mixture.short = +mixture.short
    for rows in (mixture.rows, mixture.validation, mixture.evaluation):
        rows.sort(key=lambda row: _rank(seed + 1, row.key))  # no copy stands beside its original
    return mixture


def _make(
    kind: str, deck: _Deck, number: int, vocabulary: list[str], random: Random, mixture: Mixture, tables: Tables
) -> Iterator[Injection]:
    """Inject `number` defects of a kind (fewer when no row is left that is fit), rows into the mixture."""
    if kind == "swapped answers":  # in pairs, so one more where the number is odd
        for _ in range(math.ceil(number / 2)):
            pair = deck.take(), deck.take()
            for clean, made in zip(pair, kinds.swap(*pair), strict=True):
                mixture.rows.append(made.row)
                yield Injection(kind, clean.key, clean)
        return
    for _ in range(number):
        if kind == "mojibake":
            clean, made = kinds.mojibake(deck.take(), random)
        elif kind in WITH_OTHER:  # the other row went into this one and is no longer there by itself
            clean = deck.take()
            made = WITH_OTHER[kind](clean, deck.take(), random, tables)
        else:
            drawn = deck.draw(lambda row: _copy_or_damage(kind, row, vocabulary, random, tables))
            if drawn is None:
                return
            clean, made = drawn
        if kind in DAMAGE:
            mixture.rows.append(made.row)
            yield Injection(kind, clean.key, clean, made.variant, values=made.values)
            continue
        key = f"{clean.key}+"
        mixture.rows.append(kinds.replace(made.row, key=key))
        held = {"cross-split copy": mixture.validation, "evaluation copy": mixture.evaluation}.get(kind)
        (mixture.rows if held is None else held).append(clean)
        if held is not None:
            held += [deck.take() for _ in range(HELD_OUT_MORE)]
        yield Injection(kind, key, clean, made.variant, partner=clean.key)


def _copy_or_damage(kind: str, row: Row, vocabulary: list[str], random: Random, tables: Tables) -> Made | None:
    if kind in EDITS:
        return kinds.edit_words(row, EDITS[kind], vocabulary, random)
    if kind == "paraphrase":
        return kinds.paraphrase(row, random)
    if kind in LEAKS:
        return kinds.leak_copy(row, vocabulary, random)
    if kind in FROM_TABLES:
        return FROM_TABLES[kind](row, random, tables)
    return IN_PLACE[kind](row, random)
