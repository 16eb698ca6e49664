"""What belongs together in a split: records that come from one source, repeat each other, or answer the same question.

Two records are tied when
    * a duplicate or a flag in the ledger names the one as the other's counterpart (whether it was dropped or not);
    * they have the same `group`, or the same document or conversation in `meta`;
    * one is made from the other, or both from the same: parent or seed in `meta`;
    * their content, prompt or longer answer has the same tokens. A prompt or answer that very many records share is a
      form ("Continue.", a refusal) and ties nothing; nor does a prompt of fewer than four tokens.
A group is all that hangs together by such ties.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np

from luthier.curate.folder import Dataset, Folded
from luthier.curate.leaks_index import LONG, TRIVIAL
from luthier.curate.leaks_text import tokenise, whole
from luthier.curate.ledger import read_pass
from luthier.data.split import Key, key_of

BOTH: Final = "ties both sides"  # reason of a record that was refused a side; it ties nothing any more
DOCUMENT: Final = ("document", "document_id", "doc_id", "source_document")
CONVERSATION: Final = ("conversation", "conversation_id", "thread_id")
PARENT: Final = ("parent", "parent_id", "seed", "seed_id", "seed_task")
_OWN: Final = ("id", "record_id")  # names that a child's parent may mean


class _Read(NamedTuple):
    """A batch of rows: what a split has to know of each, and the names that tie it (row in the batch, hash of name)."""

    ids: list[str]
    keys: list[Key]
    sides: list[str]
    live: list[bool]
    names: np.ndarray  # (ties, 2) uint64
    forms: np.ndarray  # (ties, 2) uint64; of prompts and answers


@dataclass(frozen=True)
class Ties:
    """All usable rows of a dataset, sorted by id, and what ties them.

    Attributes:
        ids, keys: of each row; the key is what `data.split` decides a group by.
        sides: the side of each row, "" for a row that has none yet.
        live: whether the row is in the dataset; rows that were taken out tie too, and come back to their own side.
        names: (ties, 2) int64: row, and a number that all rows tied by the same name share.
        pairs: (pairs, 2) int64: rows that the ledger ties.
    """

    ids: list[str]
    keys: list[Key]
    sides: list[str]
    live: list[bool]
    names: np.ndarray
    pairs: np.ndarray


def _name(kind: str, value: Any) -> int:
    text = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def _names(meta: Mapping[str, Any], group: str, record_id: str, example_id: str) -> Iterator[int]:
    if group:
        yield _name("group", group)
    yield _name("content", record_id)
    yield _name("parent", example_id)
    for kind, keys in (("document", DOCUMENT), ("conversation", CONVERSATION), ("parent", PARENT)):
        for key in keys:
            value = meta.get(key)
            # A seed that is a number is a random seed, which ties nothing.
            if (isinstance(value, str) and value) or (type(value) is int and not key.startswith("seed")):
                yield _name(kind, value)
    for key in _OWN:
        if isinstance(value := meta.get(key), str | int):
            yield _name("parent", value)


def _read(rows: list[Folded]) -> _Read:
    examples = [
        (row.example, row.out is None)
        for row in rows
        if row.example is not None and (row.out is None or row.out.reason != BOTH)
    ]
    names = [
        (at, name)
        for at, (example, _) in enumerate(examples)
        for name in _names(example.record.meta, example.record.group, example.record.id, example.id)
    ]
    forms = []
    for kind, least, texts in (
        (1, TRIVIAL, [example.prompt or example.record.text for example, _ in examples]),
        (2, LONG, [example.answer for example, _ in examples]),
    ):
        tokens = tokenise(texts)
        told = np.flatnonzero(tokens.counts >= least)
        forms.append(np.stack([told.astype(np.uint64), whole(tokens)[told] + np.uint64(kind)], 1))
    return _Read(
        [example.id for example, _ in examples],
        [key_of(example.record) for example, _ in examples],
        [example.side for example, _ in examples],
        [live for _, live in examples],
        np.array(names, np.uint64).reshape(-1, 2),
        np.concatenate(forms),
    )


def read_ties(dataset: Dataset, *, workers: int = 1) -> Ties:
    """What a split has to know of a dataset."""
    ids: list[str] = []
    keys: list[Key] = []
    sides: list[str] = []
    live: list[bool] = []
    names, forms = [np.zeros((0, 2), np.uint64)], [np.zeros((0, 2), np.uint64)]
    for made in dataset.map_folded(_read, workers=workers):
        for part, found in ((names, made.names), (forms, made.forms)):
            found[:, 0] += np.uint64(len(ids))
            part.append(found)
        for column, found in ((ids, made.ids), (keys, made.keys), (sides, made.sides), (live, made.live)):
            column.extend(found)  # type: ignore[arg-type]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    most = min(max(10, len(ids) // 20), 1000)
    tied = np.concatenate([_shared(np.concatenate(names), len(ids)), _shared(np.concatenate(forms), most)])
    tied = np.unique(np.stack([place[tied[:, 0].astype(np.int64)], _numbered(tied[:, 1])], 1), axis=0)
    rows = {name: at for at, name in enumerate(ids)}
    pairs = [(place[rows[one]], place[rows[other]]) for one, other in _pairs(dataset) if {one, other} <= rows.keys()]
    return Ties(
        *([column[at] for at in order] for column in (ids, keys, sides, live)),
        tied,
        np.array(sorted(pairs), np.int64).reshape(-1, 2),
    )


def _shared(ties: np.ndarray, most: int) -> np.ndarray:
    """The ties by names that two rows have, and not more than `most`."""
    ties = np.unique(ties, axis=0)  # a row may have a name twice
    _, inverse, numbers = np.unique(ties[:, 1], return_inverse=True, return_counts=True)
    return ties[(numbers[inverse] > 1) & (numbers[inverse] <= most)]


def _numbered(names: np.ndarray) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _pairs(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """(record, counterpart) of every duplicate and flag that holds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for made, without in dataset.view.holding():
        table = read_pass(dataset.path / made.file)
        tells = pc.is_in(table["action"], value_set=pa.array(["duplicate", "flag"]))
        table = table.filter(pc.and_(tells, pc.not_equal(table["counterpart"], "")))
        for one, other in zip(table["record"].to_pylist(), table["counterpart"].to_pylist(), strict=True):
            if one not in without:
                yield one, other
