"""When two rows are near duplicates: decided on their texts, whatever made them candidates.

Likeness of the whole. The sets of character 5-grams of two rows (white space and case evened out) have a Jaccard
similarity of at least 0.8, or 0.9 where either row has fewer than 20 words. A word that is replaced changes some ten
5-grams, so a Jaccard of 0.8 is reached with about 6 % of the words replaced and no more (10 % leave 0.73 in prose and
in maths). Rows of 20 words and more therefore also count as alike where at most 12 % of the words differ, as their
longest common subsequence tells, and the Jaccard is still at least 0.6.

Likeness is not sameness. Rows that were made from one template are alike, too, and are different rows. What tells them
from a damaged or reworded copy is where the differences are: changes to a copy fall on all words alike, those of a
template where it has its slots. So a pair that is alike is refused where

- the kind or the label differs;
- a number was exchanged for another, however much else is the same;
- operators, code identifiers or words in short quotes were exchanged for others, and more often than the words around
  them were (two-proportion z-test, 3 standard deviations);
- a part of the row (setting, what is asked, what is answered, what is rejected) differs, by the measures above, and
  more than the rest of the row does by the same test: another answer to the same prompt, the same refusal to another;
- of an answer nothing is left, or it is short and changed while the rest is the same;
- all that differs in what is asked is one run of at least 4 words: a filled slot.
"""

from collections import Counter
from operator import eq
from typing import Final

import numpy as np

from luthier.curate.near_text import PARTS, SHORT, Row, is_short

JACCARD: Final = 0.8
JACCARD_SHORT: Final = 0.9
FLOOR: Final = 0.6
CHANGED: Final = 0.12  # share of words
PART_CHANGED: Final = 0.15  # of one part: edits do not fall evenly
DEVIATIONS: Final = 3.0
SLOT: Final = 4  # words


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two sets given as sorted arrays without repeats."""
    merged = np.sort(np.concatenate([one, other]))
    both = int(np.count_nonzero(merged[1:] == merged[:-1]))
    return both / max(1, len(merged) - both)


def common_words(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence of two lists of words.

    Bit-parallel in Python's integers: a step takes all of `one` at once (Hyyrö 2004, Bit-parallel LCS-length
    computation).
    """
    places: dict[str, int] = {}
    for index, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << index
    everything = (1 << len(one)) - 1
    unmatched = everything
    for word in other:
        match = unmatched & places.get(word, 0)
        unmatched = ((unmatched + match) | (unmatched - match)) & everything
    return len(one) - unmatched.bit_count()


def _few_changed(one: list[str], other: list[str]) -> bool:
    """Whether at most `CHANGED` of the words differ. Where words were only replaced, comparing place by place tells."""
    longer = max(len(one), len(other))
    limit = CHANGED * longer
    return longer - sum(map(eq, one, other)) <= limit or longer - common_words(one, other) <= limit


def near(one: Row, other: Row) -> float | None:
    """The Jaccard similarity of two rows where they are near duplicates, None where they are not."""
    if one.kind != other.kind or one.numbers.exchanged(other.numbers):
        return None
    likeness = jaccard(one.shingles, other.shingles)
    if likeness < FLOOR:
        return None
    short = is_short(one.text) or is_short(other.text)
    if likeness < (JACCARD_SHORT if short else JACCARD) and (short or not _few_changed(one.tokens, other.tokens)):
        return None
    if _fixed_differ(one, other) or any(_part_differs(one, other, index) for index in range(len(PARTS))):
        return None
    return likeness


def _more_often(changed: int, of: int, rest_changed: int, rest_of: int) -> bool:
    """Whether the first share is larger than the second by more than chance: pooled two-proportion z-test."""
    if not of or not rest_of:
        return False
    pooled = (changed + rest_changed) / (of + rest_of)
    deviation = (pooled * (1 - pooled) * (1 / of + 1 / rest_of)) ** 0.5
    return changed / of - rest_changed / rest_of > DEVIATIONS * deviation


def _fixed_differ(one: Row, other: Row) -> bool:
    """Whether operators, identifiers and quotes were exchanged for others, more than the words around them were."""
    exchanged = of = changed = plain = 0
    for mine, theirs in zip(one.parts, other.parts, strict=True):
        if mine.text != theirs.text:
            exchanged += mine.fixed.exchanged(theirs.fixed)
            changed += mine.plain.changed(theirs.plain)
        of += max(mine.fixed.total, theirs.fixed.total)
        plain += max(mine.plain.total, theirs.plain.total)
    return _more_often(exchanged, of, changed, plain)


def _part_differs(one: Row, other: Row, index: int) -> bool:
    """Whether a part differs, and by more than the rest of the row does."""
    mine, theirs = one.parts[index], other.parts[index]
    if mine.tokens == theirs.tokens:
        return False
    difference, of = mine.words.changed(theirs.words), max(mine.words.total, theirs.words.total)
    if PARTS[index] == "asked" and _slot(mine.tokens, theirs.tokens):
        return True
    if of >= SHORT and difference <= PART_CHANGED * of:
        return False
    if jaccard(mine.shingles, theirs.shingles) >= (JACCARD_SHORT if of < SHORT else JACCARD):
        return False
    rest = [(a, b) for at, (a, b) in enumerate(zip(one.parts, other.parts, strict=True)) if at != index]
    if PARTS[index] != "asked" and (difference == of or all(a.tokens == b.tokens for a, b in rest)):
        return True
    plain = max(mine.plain.total, theirs.plain.total)
    rest_changed = sum(a.plain.changed(b.plain) for a, b in rest)
    rest_plain = sum(max(a.plain.total, b.plain.total) for a, b in rest)
    return _more_often(mine.plain.changed(theirs.plain), plain, rest_changed, rest_plain)


def _slot(one: list[str], other: list[str]) -> bool:
    """Whether two texts differ in one run of words that have little in common, and in nothing else."""
    start, limit = 0, min(len(one), len(other))
    while start < limit and one[start] == other[start]:
        start += 1
    end = 0
    while end < limit - start and one[-1 - end] == other[-1 - end]:
        end += 1
    mine, theirs = one[start : len(one) - end], other[start : len(other) - end]
    if min(len(mine), len(theirs)) < SLOT:
        return False
    shared = (Counter(mine) & Counter(theirs)).total()
    return shared < max(len(mine), len(theirs)) / 2
