"""Which words and word pairs mark one set of texts against another, with how much certainty.

Source: B. L. Monroe, M. P. Colaresi, K. M. Quinn, "Fightin' Words: Lexical Feature Selection and Evaluation for
Identifying the Content of Political Conflict", Political Analysis 16 (2008) 372-403: log-odds ratios with an
informative Dirichlet prior, divided by their standard error. The prior keeps rare words from winning by chance; here it
is the two sets together, given the weight of PRIOR words.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from luthier.core.errors import DataError
from luthier.curate.slop import ENDS, TOKEN, prose

PRIOR: Final = 1000.0  # words that the prior counts as
_Z95: Final = 1.959964
LEAST_ROWS: Final = 5  # texts a term must be in: one long text says nothing about a set
BEYOND: Final = 1.1  # times the z of its words, that of a pair
CERTAIN: Final = 3.0  # standard errors; with thousands of terms compared, 2 is reached by chance all the time


@dataclass(frozen=True, slots=True)
class Marker:
    """A word or pair of words that one set has more of.

    Attributes:
        term: in lower case.
        z: log-odds ratio in standard errors.
        at_least: its odds here are at least so many times its odds there: the lower end of a 95 % interval.
        per_10k, reference_per_10k: how often it is there in 10,000 words (pairs: in 10,000 pairs).
        rows: texts it is in.
    """

    term: str
    z: float
    at_least: float
    per_10k: float
    reference_per_10k: float
    rows: int


@dataclass
class Terms:
    """Counts of terms of one length; `rows` is in how many texts each was."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)


def count_terms(texts: Iterable[str], length: int) -> Terms:
    """Words (`length` 1) or pairs of words within a sentence (2), in lower case, code blocks left out."""
    assert length in (1, 2), length
    terms = Terms()
    for text in texts:
        tokens = [token.rstrip("'") for token in TOKEN.findall(prose(text))]
        if length == 1:
            found = [token for token in tokens if token not in ENDS]
        else:
            found = [f"{a} {b}" for a, b in pairwise(tokens) if a not in ENDS and b not in ENDS]
        terms.counts.update(found)
        terms.rows.update(set(found))
    return terms


def log_odds(here: Terms, there: Terms, *, least_rows: int = LEAST_ROWS, prior: float = PRIOR) -> list[Marker]:
    """The terms that `here` has more of than `there`, the surest first."""
    n, m = here.counts.total(), there.counts.total()
    if not n or not m:
        return []
    markers = []
    for term, rows in here.rows.items():
        if rows < least_rows:
            continue
        y, x = here.counts[term], there.counts[term]
        alpha = prior * (y + x) / (n + m)
        delta = math.log((y + alpha) / (n + prior - y - alpha)) - math.log((x + alpha) / (m + prior - x - alpha))
        error = math.sqrt(1 / (y + alpha) + 1 / (x + alpha))
        if delta > 0:
            least = math.exp(delta - _Z95 * error)
            markers.append(Marker(term, delta / error, least, 10_000 * y / n, 10_000 * x / m, rows))
    return sorted(markers, key=lambda marker: (-marker.z, marker.term))


def markers(texts: Iterable[str], reference: Iterable[str], *, top: int = 40) -> list[Marker]:
    """Words and pairs that mark `texts` against a human reference of the same domain, at least CERTAIN.

    Words by which one reads a style come first, not those that are merely frequent: the order is that of `at_least`.
    Numbers are left out. A pair is listed beside its words only where it marks the texts more than either does.

    Raises:
        DataError: the reference holds no words.
    """
    texts, reference = list(texts), list(reference)
    words, others = count_terms(texts, 1), count_terms(reference, 1)
    if not others.counts:
        raise DataError("the human reference holds no words", fix="give files with human answers of the same domain")
    single = [marker for marker in log_odds(words, others) if marker.z >= CERTAIN and marker.term[0].isalpha()]
    z = {marker.term: marker.z for marker in single}
    pairs = [
        marker
        for marker in log_odds(count_terms(texts, 2), count_terms(reference, 2))
        if marker.z >= CERTAIN
        and not any(character.isdigit() for character in marker.term)
        and marker.z > BEYOND * max(z.get(word, 0.0) for word in marker.term.split(" "))
    ]
    return sorted(single + pairs, key=lambda marker: (-marker.at_least, marker.term))[:top]
