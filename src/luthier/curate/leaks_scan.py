"""The training side of a search for leaks: one look at every text of every record, against the indices of all sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from luthier.curate.example import fields_of
from luthier.curate.leaks_index import COVERED, LONG, SHORT, SIMILAR, TRIVIAL, Index, slot
from luthier.curate.leaks_text import (
    NGRAM,
    PIECE_BITS,
    PIECE_MASK,
    distinct,
    ngrams,
    number_names,
    pieces,
    tokenise,
    whole,
)  # fmt: skip
from luthier.data.records import Record

WHOLE_PROMPT: Final = "messages"  # the field of all user turns together


@dataclass(frozen=True, slots=True)
class Match:
    """A record and a text of the set that may be tied.

    Attributes:
        row: which of the records that were looked at.
        text: which of the set's texts.
        how: the evidence, as in `leaks_index`; "similar" holds only if numbers and telling pieces agree as well.
        score: share of the text's tokens; 1 for "same", 0 for a candidate.
        field: where in the record.
        key: of a candidate, the record's prompt.
        answer: of a text that is evidence only together with the answer, the record's answer.
    """

    row: int
    text: int
    how: Literal["same", "covered", "similar"]
    score: float
    field: str
    key: str = ""
    answer: str = ""


@dataclass(slots=True)
class _Looked:
    """The texts of the records that are looked at: `keys` are those that stand for a whole prompt."""

    texts: list[str]
    fields: list[str]
    rows: list[int]
    keys: list[int]


def answer_of(record: Record) -> str:
    """What is trained on, turns one under the other."""
    turns = record.messages + record.chosen
    return record.text or "\n".join(turn.content for turn in turns if turn.role == "assistant")


def _look(records: Sequence[Record]) -> _Looked:
    looked = _Looked([], [], [], [])
    for row, record in enumerate(records):
        users = []
        for field, text, turn in fields_of(record):
            if text:
                if turn is None or (turn.role == "user" and field[0] == "m"):
                    users.append(len(looked.texts))
                looked.texts.append(text)
                looked.fields.append(field)
                looked.rows.append(row)
        looked.keys += users[:1]
        if len(users) > 1:
            looked.keys.append(len(looked.texts))
            looked.texts.append("\n".join(looked.texts[at] for at in users))
            looked.fields.append(WHOLE_PROMPT)
            looked.rows.append(row)
    return looked


def scan(records: Sequence[Record], indices: Sequence[Index]) -> list[list[Match]]:
    """For each index what in these records may be tied to its texts, in the order of records, texts and evidence."""
    looked = _look(records)
    tokens = tokenise(looked.texts)
    run, run_owner, _ = ngrams(tokens)
    names, counts = whole(tokens), tokens.counts
    keys = np.array(looked.keys, np.int64)
    rows = np.array(looked.rows, np.int64)
    # The first of several user turns is a prompt of its own only if it says something.
    several = np.append(rows[keys[1:]] == rows[keys[:-1]], False) if len(keys) else np.zeros(0, bool)
    keys = keys[(counts[keys] > 0) & ~(several & (counts[keys] < TRIVIAL))]
    longest = max((int(index.longest[0]) for index in indices), default=0)
    short = _short(looked.texts, counts, keys, longest)
    made = []
    for index in indices:
        found = _same(index, names, keys) + _covered(index, run, run_owner, rows)
        known = {(rows[at], text) for at, text, _, _ in found}
        similar = _similar(index, short)
        found += [(at, text, "similar", 0.0) for at, text in similar if (rows[at], text) not in known]
        made.append([_match(looked, records, index, *item) for item in sorted(found)])
    return made


def _match(
    looked: _Looked, records: Sequence[Record], index: Index, at: int, text: int, how: str, score: float
) -> Match:
    row = looked.rows[at]
    key = looked.texts[at] if how == "similar" else ""
    answer = answer_of(records[row]) if index.forms[text] else ""
    return Match(row, text, how, score, looked.fields[at], key, answer)  # type: ignore[arg-type]


def _same(index: Index, names: np.ndarray, keys: np.ndarray) -> list[tuple[int, int, str, float]]:
    which, text = _look_up(names[keys], index.same, index.same_text)
    return [(at, found, "same", 1.0) for at, found in zip(keys[which].tolist(), text.tolist(), strict=True)]


def _look_up(values: np.ndarray, sorted_values: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """(which of the values, and the columns) of every place where a value occurs among the sorted ones."""
    order = np.argsort(values)  # neighbours are then looked for in memory that was just read
    first = np.searchsorted(sorted_values, values[order])
    held = np.flatnonzero(first < len(sorted_values))
    held = held[sorted_values[first[held]] == values[order[held]]]
    order, first = order[held], first[held]
    number = np.searchsorted(sorted_values, values[order], side="right") - first
    which = np.repeat(order, number)
    place = np.repeat(first - np.cumsum(number) + number, number) + np.arange(len(which))
    return which, *(column[place] for column in columns)


def _covered(index: Index, run: np.ndarray, owner: np.ndarray, rows: np.ndarray) -> list[tuple[int, int, str, float]]:
    if not len(index.runs) or not len(run):
        return []
    near = np.flatnonzero(index.filter_runs[slot(run, index.filter_runs)])
    which, text, place = _look_up(run[near], index.runs, index.run_text, index.run_place)
    if not len(which):
        return []
    at = owner[near[which]]
    order = np.lexsort((place, text, rows[at]))
    at, text, place = at[order], text[order].astype(np.int64), place[order].astype(np.int64)
    row = rows[at]
    last = np.append((row[1:] != row[:-1]) | (text[1:] != text[:-1]), True)
    width = np.where(last, NGRAM, np.minimum(np.diff(place, append=0), NGRAM))
    start = index.starts[text] + place
    counted = index.own_before[start + width] - index.own_before[start]
    first = np.flatnonzero(np.append(True, last[:-1]))
    of = text[first]
    own = index.own_before[index.starts[of + 1]] - index.own_before[index.starts[of]]
    found = np.add.reduceat(counted, first)
    score = found / np.maximum(own, 1)
    enough = (score >= COVERED) & (found >= LONG)
    ends = np.append(first[1:], len(at))
    # The field that most of the runs are in; of several, the first.
    return [
        (int(np.bincount(at[first[k] : ends[k]]).argmax()), int(of[k]), "covered", float(score[k]))
        for k in np.flatnonzero(enough).tolist()
    ]


@dataclass(frozen=True, slots=True)
class _Short:
    """The short prompts among the texts that are looked at: `texts` says which they are.

    Attributes:
        lengths: characters of each.
        names: the name of each one's numbers, above the bits of a piece.
        piece, owner: all their pieces, and which prompt each is of.
    """

    texts: np.ndarray
    lengths: np.ndarray
    names: np.ndarray
    piece: np.ndarray
    owner: np.ndarray


def _short(texts: Sequence[str], counts: np.ndarray, keys: np.ndarray, longest: int) -> _Short:
    """Those of the keys that have fewer than twice `SHORT` tokens and at most `longest` characters."""
    places = keys[counts[keys] < 2 * SHORT]
    lengths = np.fromiter((len(texts[at]) for at in places.tolist()), np.int64, len(places))
    places, lengths = places[lengths <= longest], lengths[lengths <= longest]
    chosen = [texts[at] for at in places.tolist()]
    return _Short(places, lengths, number_names(chosen) << PIECE_BITS, *pieces(chosen))


def _similar(index: Index, short: _Short) -> list[tuple[int, int]]:
    """Short prompts that share enough telling pieces with a short prompt of the set that has the same numbers."""
    if not len(index.pieces) or not len(short.texts):
        return []
    piece, owner = short.piece, short.owner
    near = np.flatnonzero(index.filter_pieces[slot(short.names[owner] | piece, index.filter_pieces)])
    near = near[short.lengths[owner[near]] <= index.longest[0]]
    telling, _ = distinct(owner[near].astype(np.uint64) << PIECE_BITS | piece[near])
    of = (telling >> PIECE_BITS).astype(np.int64)
    which, text = _look_up(short.names[of] | telling & PIECE_MASK, index.pieces, index.piece_text)
    number = len(index.needed)
    pairs, counts = distinct(of[which] * number + text)
    pairs = pairs[counts >= index.needed[pairs % number]]
    one, other = _similar_pairs(index, piece, owner, pairs // number, pairs % number)
    return list(zip(short.texts[one].tolist(), other.tolist(), strict=True))


def _similar_pairs(
    index: Index, piece: np.ndarray, owner: np.ndarray, one: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of prompts `one`, whose pieces are given with their owners, and texts `other` that are similar."""
    if not len(one):
        return one, other
    looked_at = np.zeros(int(owner.max()) + 1, bool)
    looked_at[one] = True
    kept = looked_at[owner]
    own, _ = distinct(owner[kept].astype(np.uint64) << PIECE_BITS | piece[kept])
    sizes = np.bincount((own >> PIECE_BITS).astype(np.int64), minlength=len(looked_at))[one]
    number = index.piece_starts[other + 1] - index.piece_starts[other]
    near = np.minimum(sizes, number) >= (SIMILAR - 1e-9) * np.maximum(sizes, number)  # no more can be in both
    one, other, sizes, number = one[near], other[near], sizes[near], number[near]
    first = np.cumsum(number) - number
    pair = np.repeat(np.arange(len(one)), number)
    place = np.repeat(index.piece_starts[other] - first, number) + np.arange(len(pair))
    wanted = one[pair].astype(np.uint64) << PIECE_BITS | index.every_piece[place]
    found = own[np.minimum(np.searchsorted(own, wanted), len(own) - 1)] == wanted
    both = np.bincount(pair, found, minlength=len(one))
    held = both >= (SIMILAR - 1e-9) * (number + sizes - both)
    return one[held], other[held]
