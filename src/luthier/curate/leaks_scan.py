"""The training side of a search for leaks: one look at every text of every record, against the indices of all sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from luthier.curate.example import fields_of
from luthier.curate.leaks_index import COVERED, LONG, SHORT, SIMILAR, TRIVIAL, Index, slot
from luthier.curate.leaks_text import NGRAM, PIECE, Tokens, ngrams, pieces, tokenise, whole
from luthier.data.records import Record

_SHIFT: Final = np.uint64(8 * PIECE)  # a piece is less than 2 to this; above it, numbers have room for its owner
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
    made = []
    for index in indices:
        found = _same(index, names, keys) + _covered(index, run, run_owner, rows)
        known = {(rows[at], text) for at, text, _, _ in found}
        similar = [(at, text) for at, text in _similar(index, looked.texts, tokens, keys)]
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
    first, last = (np.searchsorted(sorted_values, values, side=side) for side in ("left", "right"))
    number = last - first
    which = np.repeat(np.arange(len(values)), number)
    place = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(number) - number, number)
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


def _similar(index: Index, texts: Sequence[str], tokens: Tokens, keys: np.ndarray) -> list[tuple[int, int]]:
    """Short prompts that share a rare piece with a short prompt of the set."""
    if not len(index.pieces):
        return []
    longest, counts = int(index.longest[0]), tokens.counts
    short = [at for at in keys[counts[keys] < 2 * SHORT].tolist() if len(texts[at]) <= longest]
    piece, owner = pieces([texts[at] for at in short])
    near = index.filter_pieces[slot(piece, index.filter_pieces)]
    rare, _ = _distinct(owner[near].astype(np.uint64) << _SHIFT | piece[near])
    which, text = _look_up(rare & ~(~np.uint64(0) << _SHIFT), index.pieces, index.piece_text)
    number = len(index.needed)
    pairs, counts = _distinct((rare >> _SHIFT).astype(np.int64)[which] * number + text)
    pairs = pairs[counts >= index.needed[pairs % number]]
    one, other = pairs // number, pairs % number
    held = _jaccard(index, piece, owner, one, other) >= SIMILAR - 1e-9
    return [(short[at], text) for at, text in zip(one[held].tolist(), other[held].tolist(), strict=True)]


def _jaccard(index: Index, piece: np.ndarray, owner: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(pairs,) similarity of the prompts `one`, whose pieces are given with their owners, and the texts `other`."""
    if not len(one):
        return np.zeros(0)
    looked_at = np.zeros(int(owner.max()) + 1, bool)
    looked_at[one] = True
    kept = looked_at[owner]
    own, _ = _distinct(owner[kept].astype(np.uint64) << _SHIFT | piece[kept])
    sizes = np.bincount((own >> _SHIFT).astype(np.int64), minlength=len(looked_at))[one]
    number = index.piece_starts[other + 1] - index.piece_starts[other]
    first = np.cumsum(number) - number
    pair = np.repeat(np.arange(len(one)), number)
    place = index.piece_starts[other][pair] + np.arange(len(pair)) - first[pair]
    wanted = one[pair].astype(np.uint64) << _SHIFT | index.every_piece[place]
    found = own[np.minimum(np.searchsorted(own, wanted), len(own) - 1)] == wanted
    both = np.add.reduceat(found, first, dtype=np.int64)
    return both / (number + sizes - both)


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values, sorted, and how often each occurs. `np.unique` hashes, and these values hash badly."""
    values = np.sort(values)
    first = np.flatnonzero(np.concatenate([np.ones(len(values[:1]), bool), values[1:] != values[:-1]]))
    return values[first], np.diff(first, append=len(values))
