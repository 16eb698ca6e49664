"""Semantic duplicates: rows that ask the same and answer the same in other words, by static embeddings.

The vector of a row is that of what is asked beside that of what is answered (`semantic_table`), so the cosine of two
rows is the mean of both. From 0.95 on two rows are marked for review. They are never the same row where their numbers,
operators, code identifiers or words in short quotes differ; only rows with the same set of those are compared at all.

Within such a set the search is exact up to `EXACT` rows: every pair, by blocked matrix products. Beyond that rows are
compared that share one of their two nearest of √n centres (rows drawn evenly), which can miss pairs; the notes say so.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from luthier.curate.clusters import Components, preference_order, rank, stars
from luthier.curate.example import Action, Entry, Example
from luthier.curate.folder import BATCH, Dataset
from luthier.curate.near_text import fixed_words, parts_of, plain_example
from luthier.curate.semantic_table import StaticTable, open_table

REASON: Final = "semantic duplicate"
VERSION: Final = 1
COSINE: Final = 0.95
EXACT: Final = 200_000  # rows
BLOCK: Final = 2048  # rows of a matrix product


class _Texts(NamedTuple):
    """What is compared of the examples of a batch."""

    ids: np.ndarray  # bytes
    ranking: np.ndarray
    fixed: np.ndarray  # bytes, 16: hash of kind, setting, and the set of numbers, quotes, …
    asked: list[str]
    answered: list[str]


def semantic_duplicates(
    dataset: Dataset,
    embeddings: Path,
    *,
    workers: int = 1,
    action: Action = "flag",
    cosine: float = COSINE,
    notes: Counter[str] | None = None,
) -> list[Entry]:
    """Every example that says the same as another in other words, all but the best of each group.

    Args:
        embeddings: a folder of static embeddings, see `semantic_table.open_table`.
        action: "flag" marks for review, "duplicate" takes out.
        cosine: from where on two rows count as the same.
        notes: what was cut short is added to it.

    Raises:
        DataError: the folder cannot be used.
    """
    batches = dataset.map(_read, workers=workers)
    return _search(batches, open_table(embeddings), action, cosine, Counter() if notes is None else notes)


def semantic_duplicates_in(
    rows: Iterable[tuple[str, ...]], table: StaticTable, *, cosine: float = COSINE, notes: Counter[str] | None = None
) -> list[Entry]:
    """The same for rows that are no dataset: (id, text), or (id, prompt, answer). Ids are all different."""
    rest = iter(rows)
    batches = iter(lambda: [plain_example(*row) for row in islice(rest, BATCH)], [])
    return _search(map(_read, batches), table, "flag", cosine, Counter() if notes is None else notes)


def _search(
    batches: Iterable[_Texts], table: StaticTable, action: Action, cosine: float, counts: Counter[str]
) -> list[Entry]:
    parts, vectors = [], []
    for made in batches:
        if len(made.ids):
            parts.append(made._replace(asked=[], answered=[]))
            vectors.append(embed_rows(table, made.asked, made.answered))
    if not parts:
        return []
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "ranking", "fixed"))
    ids, ranking, fixed = columns
    order = np.argsort(ids, kind="stable")  # so that nothing depends on the order of the files
    ids, ranking, fixed = ids[order], ranking[order], fixed[order]
    values = np.concatenate(vectors)[order]
    vectors.clear()

    def compare(kept: int, row: int) -> float | None:
        likeness = float(values[kept].astype(np.float32) @ values[row].astype(np.float32))
        return likeness if likeness >= cosine else None

    entries, position = [], preference_order(ranking, ids)
    for members in _join(values, fixed, cosine, counts).groups():
        found, left = stars(members.tolist(), position, compare)
        if left:
            counts["rows kept because their group fell apart into too many"] += left
        for row, kept, likeness in found:
            entries.append(
                Entry(ids[row].decode(), action, REASON, score=round(likeness, 3), counterpart=ids[kept].decode())
            )
    return sorted(entries, key=lambda entry: entry.record)


def embed_rows(table: StaticTable, asked: list[str], answered: list[str]) -> np.ndarray:
    """Unit vectors of rows, float16 (n, 2 d): what is asked beside what is answered, each with the same weight."""
    both = np.concatenate([table.embed(asked), table.embed(answered)], 1)
    return (both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)).astype(np.float16)


def _read(examples: list[Example]) -> _Texts:
    ids, fixed, asked, answered = [], [], [], []
    for example in examples:
        kind, setting, ask, answer, rejected = parts_of(example)
        words = sorted(fixed_words(f"{ask}\n{answer}\n{rejected}"))
        ids.append(example.id.encode())
        text = "\x1f".join([kind, setting, *words]).encode("utf-8", "surrogatepass")
        fixed.append(blake2b(text, digest_size=15).digest() + b"\x01")  # numpy strips zeros from the end of bytes
        asked.append(ask)
        answered.append(answer)
    return _Texts(np.array(ids, np.bytes_), rank(examples), np.array(fixed, "S16"), asked, answered)


def _join(values: np.ndarray, fixed: np.ndarray, cosine: float, counts: Counter[str]) -> Components:
    """Join the rows of equal `fixed` whose cosine is large enough."""
    joined = Components(len(values))
    order = np.argsort(fixed, kind="stable")
    cuts = np.flatnonzero(fixed[order][1:] != fixed[order][:-1]) + 1
    for rows in np.split(order, cuts):
        rows = rows[np.any(values[rows] != 0, axis=1)] if len(rows) > 1 else rows
        if len(rows) < 2:
            continue
        if len(rows) > EXACT:
            counts["rows compared within neighbourhoods only"] += len(rows)
        for cell in _cells(values, rows) if len(rows) > EXACT else [rows]:
            _link(joined, values, cell, cosine)
    return joined


def _link(joined: Components, values: np.ndarray, rows: np.ndarray, cosine: float) -> None:
    """Join all pairs of these rows with at least this cosine."""
    for start in range(0, len(rows), BLOCK):
        mine = rows[start : start + BLOCK]
        vectors = values[mine].astype(np.float32)
        for across in range(start, len(rows), BLOCK):
            theirs = rows[across : across + BLOCK]
            close = vectors @ values[theirs].astype(np.float32).T >= cosine
            # One link a row and turn, until all that is close is joined: never as many steps as there are pairs.
            while (left := close & (joined.roots(mine)[:, None] != joined.roots(theirs))).any():
                for index in np.flatnonzero(left.any(1)).tolist():
                    joined.join(int(mine[index]), int(theirs[left[index].argmax()]))


def _cells(values: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Overlapping neighbourhoods: each row is in those of its two nearest centres."""
    number = max(2, int(len(rows) ** 0.5))
    centres = values[rows[np.linspace(0, len(rows) - 1, number).astype(np.int64)]].astype(np.float32)
    nearest = np.empty((len(rows), 2), np.int32)
    for start in range(0, len(rows), BLOCK):
        likeness = values[rows[start : start + BLOCK]].astype(np.float32) @ centres.T
        nearest[start : start + BLOCK] = np.argpartition(-likeness, 1, axis=1)[:, :2]
    flat = nearest.ravel()
    order = np.argsort(flat, kind="stable")
    cuts = np.flatnonzero(np.diff(flat[order])) + 1
    yield from (np.unique(rows[part // 2]) for part in np.split(order, cuts))
