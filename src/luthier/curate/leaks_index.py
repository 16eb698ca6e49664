"""The evaluation side of a search for leaks: what must not be trained on, as sorted arrays of hashes.

An item has prompts and answers, its *texts*. Three kinds of evidence tie a training row to a text:

* "same": a prompt has exactly the tokens of the text.
* "covered": runs of eight tokens of the text occur in the row, and cover half of its tokens and 16 of them or more.
  (Tülu 3, Lambert et al. 2024, counts so; Llama 2 and PaLM alike, with other lengths. The least number is ours: half of
  "Write a function that takes a list of numbers and returns their sum" is a phrase, not a task.)
* "similar": for prompts of fewer than 32 tokens, where half is less than that, the pieces of five characters of both
  have a Jaccard similarity of 0.8 or more.

A phrase that many texts of a set share ("how much money did she make in") says nothing about any one of them. Runs and
pieces that occur in more texts than `common` allows are no evidence, and tokens in such runs are not counted. "same"
does not know this exception, so a copied prompt is always found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np

from luthier.curate.leaks_text import (
    NGRAM,
    PIECE_BITS,
    PIECE_MASK,
    Tokens,
    distinct,
    ngrams,
    number_names,
    pieces,
    tokenise,
    whole,
)  # fmt: skip

COVERED: Final = 0.5  # share of a text's tokens
LONG: Final = 16  # tokens that must be covered
SHORT: Final = 2 * LONG  # tokens below which similarity is judged
SIMILAR: Final = 0.8  # Jaccard similarity of pieces
OWN_SIMILAR: Final = 0.5  # and of those pieces alone that are not common
TRIVIAL: Final = 4  # prompts of fewer tokens ("hi", "go on") are evidence only together with the answer
PROMPT, ANSWER = 0, 1


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an evaluation set, or one held-out record.

    Attributes:
        where: its name for people, as in "gsm8k_test.jsonl:17", or a record's id.
        prompts, answers: its texts; those without a letter or digit are evidence of nothing.
    """

    where: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...] = ()


def common(texts: int) -> int:
    """In how many texts of so many a phrase may occur and still be evidence for each of them."""
    return min(10, max(2, texts // 20))


@dataclass(frozen=True)
class Index:
    """The texts of a set, each different one once. All attributes are arrays, so they can be mapped from files.

    Attributes:
        same, same_text: sorted hashes of whole prompts, and the text of each.
        runs, run_text, run_place: sorted hashes of runs of tokens that are evidence, the text of each, its place there.
        pieces, piece_text: sorted pieces to look for in short prompts, the name of the text's numbers (`number_names`)
            above each, and the text of each.
        needed: (texts,) how many of its `pieces` a prompt must have to be similar to the text.
        every_piece, piece_starts: all pieces of the short prompts, sorted; and (texts + 1,) where each text's begin.
        common_pieces: sorted pieces that are no evidence.
        own_before: (all tokens + 1,) how many of the tokens before this one, over all texts, coverage counts.
        starts: (texts + 1,) where each text's tokens begin among all tokens.
        parts: (texts,) `PROMPT` or `ANSWER`.
        forms: (texts,) whether the text is evidence only together with the answer: a trivial prompt, or one that many
            items share.
        longest: (1,) bytes of the longest short prompt, with room for what is similar to it.
        filter_runs, filter_pieces: (2^k,) bool, false where no run or piece with these upper bits is in the index.
    """

    same: np.ndarray
    same_text: np.ndarray
    runs: np.ndarray
    run_text: np.ndarray
    run_place: np.ndarray
    pieces: np.ndarray
    piece_text: np.ndarray
    needed: np.ndarray
    every_piece: np.ndarray
    piece_starts: np.ndarray
    common_pieces: np.ndarray
    own_before: np.ndarray
    starts: np.ndarray
    parts: np.ndarray
    forms: np.ndarray
    longest: np.ndarray
    filter_runs: np.ndarray
    filter_pieces: np.ndarray

    def save(self, folder: Path) -> None:
        """Write one .npy file an array into a new folder."""
        folder.mkdir()
        for item in fields(self):
            np.save(folder / f"{item.name}.npy", getattr(self, item.name), allow_pickle=False)


def load_index(folder: Path) -> Index:
    """The index that was saved in a folder; its arrays are mapped, so processes share them."""
    return Index(
        **{item.name: np.load(folder / f"{item.name}.npy", mmap_mode="r", allow_pickle=False) for item in fields(Index)}
    )


@dataclass(frozen=True)
class EvalSet:
    """A set of items with its index.

    Attributes:
        texts: the different texts; `index` speaks of them by their place here.
        owners: for each text, the items that have it.
    """

    name: str
    items: Sequence[Item]
    index: Index
    texts: Sequence[str]
    owners: Sequence[Sequence[int]]


def build(name: str, items: Sequence[Item]) -> EvalSet:
    """Index a set."""
    every = [
        (text, part, number)
        for number, item in enumerate(items)
        for part, texts in ((PROMPT, item.prompts), (ANSWER, item.answers))
        for text in texts
    ]
    tokens = tokenise([text for text, _, _ in every])
    places: dict[tuple[int, int], int] = {}
    texts: list[str] = []
    owners: list[list[int]] = []
    first: list[int] = []
    for place, (key, count) in enumerate(zip(whole(tokens).tolist(), tokens.counts.tolist(), strict=True)):
        text, part, number = every[place]
        if not count:
            continue
        at = places.setdefault((part, key), len(texts))
        if at == len(texts):
            texts.append(text)
            owners.append([])
            first.append(place)
        if not owners[at] or owners[at][-1] != number:
            owners[at].append(number)
    parts = np.array([every[place][1] for place in first], np.int8)
    shared = np.fromiter(map(len, owners), np.int64, len(owners)) > common(len(items))
    index = _index(texts, tokens.of(np.array(first, np.int64)), parts, shared, common(len(items)))
    return EvalSet(name, items, index, texts, owners)


def _index(texts: Sequence[str], tokens: Tokens, parts: np.ndarray, shared: np.ndarray, limit: int) -> Index:
    long, starts = tokens.counts >= LONG, np.append(tokens.starts, len(tokens.hashes))
    prompts = np.flatnonzero(parts == PROMPT)
    same, same_text = _sorted(whole(tokens)[prompts], prompts)

    run, run_text, run_place = _sorted(*ngrams(tokens))
    told = ~_common(run, run_text, limit)
    own_before = np.append(0, np.cumsum(~_inside(starts[run_text] + run_place, ~told, len(tokens.hashes))))
    # An answer that many items share, a refusal for one, is no evidence for any.
    keep = told & (long & ~(shared & (parts == ANSWER)))[run_text]
    run, run_text, run_place = run[keep], run_text[keep], run_place[keep]

    short = np.flatnonzero((parts == PROMPT) & (tokens.counts < SHORT))
    assert len(short) < 1 << 24, "more short prompts than there is room for above a piece"
    piece, owner = pieces([texts[at] for at in short])
    pairs, _ = distinct(owner.astype(np.uint64) << PIECE_BITS | piece)
    every, sizes = pairs & PIECE_MASK, np.zeros(len(texts), np.int64)
    piece, owner = _sorted(every, (pairs >> PIECE_BITS).astype(np.int64))
    no_evidence = _common(piece, owner, limit)
    sizes[short] = np.bincount(owner, minlength=len(short))
    needed = np.zeros(len(texts), np.int64)
    needed[short] = _needed(sizes[short], np.bincount(owner[~no_evidence], minlength=len(short)))
    common_pieces = np.unique(piece[no_evidence])
    names = number_names([texts[at] for at in short]) << PIECE_BITS
    telling = piece[~no_evidence] | names[owner[~no_evidence]]
    piece, piece_text = _sorted(telling, short[owner[~no_evidence]])
    longest = max((len(texts[at].encode("utf-8", "surrogatepass")) for at in short), default=0)
    return Index(
        same=same,
        same_text=same_text,
        runs=run,
        run_text=run_text.astype(np.int32),
        run_place=run_place.astype(np.int32),
        pieces=piece,
        piece_text=piece_text,
        needed=needed,
        every_piece=every,
        piece_starts=np.append(0, np.cumsum(sizes)),
        common_pieces=common_pieces,
        own_before=own_before,
        starts=starts,
        parts=parts,
        forms=(parts == PROMPT) & (shared | (tokens.counts < TRIVIAL)),
        longest=np.array([int(longest / SIMILAR) + 1]),
        filter_runs=_filter(run),
        filter_pieces=_filter(piece),
    )


def _inside(first: np.ndarray, chosen: np.ndarray, number: int) -> np.ndarray:
    """(number,) which tokens lie in one of the chosen runs, which begin at `first`."""
    edges = np.zeros(number + 1, np.int64)
    np.add.at(edges, first[chosen], 1)
    np.add.at(edges, first[chosen] + NGRAM, -1)
    return np.cumsum(edges[:-1]) > 0


def _sorted(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    order = np.argsort(columns[0], kind="stable")
    return tuple(column[order] for column in columns)


def _common(value: np.ndarray, owner: np.ndarray, limit: int) -> np.ndarray:
    """Which of the values, sorted, and of equal ones by owner, occur with more than `limit` owners."""
    new = np.append(True, value[1:] != value[:-1])[: len(value)]
    first_of_owner = new.copy()
    first_of_owner[1:] |= owner[1:] != owner[:-1]
    group = np.cumsum(new) - 1
    return (np.bincount(group[first_of_owner]) > limit)[group]


def _needed(every: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many of its own pieces, those that are not common, a text must share with a prompt to be similar to it.

    With a similarity of s or more at most a share of 1 − s of a text's pieces is missing, of all and of its own alike
    (Chaudhuri et al. 2006). So at least one of its own is shared, and no other piece need be looked for: those of a
    template, which would tie every row that follows it to all texts that do, stay out of the index.
    """
    missing = np.minimum(np.floor((1 - SIMILAR + 1e-9) * every), np.floor((1 - OWN_SIMILAR + 1e-9) * own))
    return own - missing.astype(np.int64)


def _filter(values: np.ndarray) -> np.ndarray:
    """A table that is false for nearly all values that are not among these."""
    bits = min(26, max(16, (32 * len(values)).bit_length()))
    table = np.zeros(1 << bits, bool)
    table[slot(values, table)] = True
    return table


def slot(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Where the filter table looks for each value."""
    bits = len(table).bit_length() - 1
    return (values * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)
