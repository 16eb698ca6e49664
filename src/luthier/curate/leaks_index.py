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

from luthier.curate.leaks_text import NGRAM, ngrams, pieces, tokenise, whole

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
        pieces, piece_text: sorted pieces to look for in short prompts, and the text of each.
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
    return EvalSet(name, items, _index(texts, parts, shared, common(len(items))), texts, owners)


def _index(texts: Sequence[str], parts: np.ndarray, shared: np.ndarray, limit: int) -> Index:
    tokens = tokenise(texts)
    long, starts = tokens.counts >= LONG, np.append(tokens.starts, len(tokens.hashes))
    prompts = np.flatnonzero(parts == PROMPT)
    same, same_text = _sorted(whole(tokens)[prompts], prompts)

    run, run_text, run_place = ngrams(tokens)
    told = ~_common(run, run_text, limit)
    own_before = np.append(0, np.cumsum(~_inside(starts[run_text] + run_place, ~told, len(tokens.hashes))))
    # An answer that many items share, a refusal for one, is no evidence for any.
    keep = told & (long & ~(shared & (parts == ANSWER)))[run_text]
    run, run_text, run_place = _sorted(run[keep], run_text[keep], run_place[keep])

    short = np.flatnonzero((parts == PROMPT) & (tokens.counts < SHORT))
    piece, owner = _unique_pairs(*pieces([texts[at] for at in short]))
    no_evidence = np.unique(piece[_common(piece, owner, limit)])
    every, sizes = piece, np.zeros(len(texts), np.int64)
    sizes[short] = np.bincount(owner, minlength=len(short))
    wanted, missing = _rarest(piece, owner, len(short))
    needed = np.zeros(len(texts), np.int64)
    np.add.at(needed, short[owner[wanted]], 1)
    needed[short] -= missing
    piece, piece_text = _sorted(piece[wanted], short[owner[wanted]])
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
        common_pieces=no_evidence,
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


def _unique_pairs(value: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each (value, owner) once, sorted by owner, then value."""
    order = np.lexsort((value, owner))
    value, owner = value[order], owner[order]
    new = np.ones(len(value), bool)
    new[1:] = (value[1:] != value[:-1]) | (owner[1:] != owner[:-1])
    return value[new], owner[new]


def _common(value: np.ndarray, owner: np.ndarray, limit: int) -> np.ndarray:
    """Which of the values occur with more than `limit` owners."""
    different, _ = _unique_pairs(value, owner)
    names, numbers = np.unique(different, return_counts=True)
    return numbers[np.searchsorted(names, value)] > limit if len(value) else np.zeros(0, bool)


def _rarest(value: np.ndarray, owner: np.ndarray, owners: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices of the rarest third of each owner's values; how many of an owner's values may be missing).

    With a similarity of s or more at most a share of 1 − s of the values is missing, so a part that is larger than that
    decides whom to look at (prefix filtering, Chaudhuri et al. 2006). Values are sorted by owner, different for each.
    """
    sizes = np.bincount(owner, minlength=owners)
    missing = np.floor((1 - SIMILAR + 1e-9) * sizes).astype(np.int64)
    if not len(value):
        return np.zeros(0, np.int64), missing
    _, inverse, numbers = np.unique(value, return_inverse=True, return_counts=True)
    order = np.lexsort((value, numbers[inverse], owner))
    rank = np.arange(len(value)) - (np.cumsum(sizes) - sizes)[owner[order]]
    return order[rank <= (missing + sizes // 8)[owner[order]]], missing


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
