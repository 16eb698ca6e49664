"""What belongs together in a split: records that come from one source, repeat each other, or answer the same question.

Two records are tied when
    * a duplicate or a flag in the ledger names the one as the other's counterpart (whether it was dropped or not);
    * they have the same `group`, or the same document or conversation in `meta`;
    * one is made from the other, or both from the same: parent or seed in `meta`;
    * their content, prompt or longer answer has the same tokens. A prompt or answer that very many records share is a
      form ("Continue.", a refusal) and ties nothing; nor does a prompt of fewer than four tokens.
A group is all that hangs together by such ties.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from luthier.curate.clusters import repeated
from luthier.curate.example import SIDES, Example
from luthier.curate.folder import Dataset, Folded, Since, places_in
from luthier.curate.leaks_index import LONG, TRIVIAL
from luthier.curate.leaks_text import tokenise, whole
from luthier.curate.ledger import read_pass
from luthier.data.split import fraction

if TYPE_CHECKING:
    import pyarrow as pa

BOTH: Final = "ties both sides"  # reason of a record that was refused a side; it ties nothing any more
DOCUMENT: Final = ("document", "document_id", "doc_id", "source_document")
CONVERSATION: Final = ("conversation", "conversation_id", "thread_id")
PARENT: Final = ("parent", "parent_id", "seed", "seed_id", "seed_task")
_OWN: Final = ("id", "record_id")  # names that a child's parent may mean
_ID = re.compile(r"[0-9a-f]{20}")
_PRIME: Final = (1 << 64) - 59


class Read(NamedTuple):
    """A batch of rows: what a split has to know of each, and the names that tie it (row in the batch, hash of name)."""

    ids: np.ndarray  # (n,) bytes
    keys: "pa.Array"
    fractions: np.ndarray  # (n,) float64
    sides: np.ndarray  # (n,) int8
    live: np.ndarray  # (n,) bool
    names: np.ndarray  # (ties, 2) uint64
    forms: np.ndarray  # (ties, 2) uint64; of prompts and answers


@dataclass(frozen=True)
class Ties:
    """All usable rows of a dataset, sorted by id, and what ties them.

    Attributes:
        ids: (n,) bytes.
        keys: what `data.split` decides a row by when it is a group of its own: "g" and the name of its group, or else
            "r" and the id of its content. Sorted as text they are in the order of `data.split.Key`.
        fractions: (n,) float64, of each key, see `data.split.fraction`; of rows that have no side yet.
        sides: (n,) int8, the side of each row: 1 + its place in `SIDES`, 0 for a row that has none yet.
        live: (n,) bool, whether the row is in the dataset; rows that were taken out tie too, and come back to their own
            side.
        names: (ties, 2) int64: row, and a number that all rows tied by the same name share.
        pairs: (pairs, 2) int64: rows that the ledger ties.
    """

    ids: np.ndarray
    keys: "pa.Array"
    fractions: np.ndarray
    sides: np.ndarray
    live: np.ndarray
    names: np.ndarray
    pairs: np.ndarray


def _name(kind: str, value: Any) -> int:
    text = str(value)
    if kind == "parent" and _ID.fullmatch(text):
        return int(text, 16) % _PRIME  # an example's id, which every row has: a hash already
    return int.from_bytes(blake2b(f"{kind}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _names(meta: Mapping[str, Any], group: str, record_id: str, example_id: str) -> Iterator[int]:
    if group:
        yield _name("group", group)
    yield int(record_id, 16)  # 64 bits of a hash
    yield _name("parent", example_id)
    if not meta:
        return
    for kind, keys in (("document", DOCUMENT), ("conversation", CONVERSATION), ("parent", PARENT)):
        for key in keys:
            value = meta.get(key)
            # A seed that is a number is a random seed, which ties nothing.
            if (isinstance(value, str) and value) or (type(value) is int and not key.startswith("seed")):
                yield _name(kind, value)
    for key in _OWN:
        if isinstance(value := meta.get(key), str | int):
            yield _name("parent", value)


def _read_folded(seed: int, rows: list[Folded]) -> Read:
    used = [
        (row.example, row.out is None)
        for row in rows
        if row.example is not None and (row.out is None or row.out.reason != BOTH)
    ]
    return read_batch(seed, [example for example, _ in used], [live for _, live in used])


def read_batch(seed: int, examples: Sequence[Example], live: Sequence[bool]) -> Read:
    """What a split has to know of these examples; `live` are those in the dataset."""
    import pyarrow as pa

    keys, fractions, names = [], [], []
    for at, example in enumerate(examples):
        group, content = example.record.group, example.record.id
        keys.append(f"g{group}" if group else f"r{content}")
        fractions.append(0.0 if example.side else fraction(seed, ("group", group) if group else ("record", content)))
        names += [(at, name) for name in _names(example.record.meta, group, content, example.id)]
    forms = []
    for kind, least, texts in (
        (1, TRIVIAL, [example.prompt or example.record.text for example in examples]),
        (2, LONG, [example.answer for example in examples]),
    ):
        tokens = tokenise(texts)
        told = np.flatnonzero(tokens.counts >= least)
        forms.append(np.stack([told.astype(np.uint64), whole(tokens)[told] + np.uint64(kind)], 1))
    return Read(
        np.array([example.id for example in examples], np.bytes_),
        pa.array(keys, pa.large_string()),
        np.array(fractions, np.float64),
        np.array([SIDES.index(example.side) + 1 if example.side else 0 for example in examples], np.int8),
        np.array(live, bool),
        np.array(names, np.uint64).reshape(-1, 2),
        np.concatenate(forms),
    )


def read_ties(
    dataset: Dataset, *, seed: int, workers: int = 1, read: list[Read] | None = None, since: Since | None = None
) -> Ties:
    """What a split has to know of a dataset.

    Args:
        seed: of the fractions.
        read: what `read_batch` made of all rows, where that is known, and what was said `since`. It is emptied.
    """
    import pyarrow as pa

    batches = [read_batch(seed, [], [])]
    number = 0
    for made in dataset.map_folded(partial(_read_folded, seed), workers=workers) if read is None else read:
        made.names[:, 0] += np.uint64(number)
        made.forms[:, 0] += np.uint64(number)
        number += len(made.ids)
        batches.append(made)
    if read is not None:
        read.clear()
    ids = np.concatenate([made.ids for made in batches])
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    place = np.empty(number, np.int64)
    place[order] = np.arange(number)
    most = min(max(10, number // 20), 1000)
    names = _shared(np.concatenate([made.names for made in batches]), number)
    tied = np.concatenate([names, _shared(np.concatenate([made.forms for made in batches]), most)])
    tied = np.unique(np.stack([place[tied[:, 0].astype(np.int64)], _numbered(tied[:, 1])], 1), axis=0)
    fractions, sides, live = (np.concatenate([made[column] for made in batches])[order] for column in (2, 3, 4))
    if since is not None:
        live[places_in(ids, since.out)] = False
    return Ties(
        ids,
        pa.concat_arrays([made.keys for made in batches]).take(order),
        fractions,
        sides,
        live,
        tied,
        _pairs(dataset, ids),
    )


def _shared(ties: np.ndarray, most: int) -> np.ndarray:
    """The ties by names that two rows have, and not more than `most`."""
    ties = ties[repeated(ties[:, 1])]  # nearly all names are of one row, and sorting pairs takes long
    ties = np.unique(ties, axis=0)  # a row may have a name twice
    _, inverse, numbers = np.unique(ties[:, 1], return_inverse=True, return_counts=True)
    return ties[(numbers[inverse] > 1) & (numbers[inverse] <= most)]


def _numbered(names: np.ndarray) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _pairs(dataset: Dataset, ids: np.ndarray) -> np.ndarray:
    """(pairs, 2) int64: places in `ids` of record and counterpart of every duplicate and flag that holds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = [np.zeros((0, 2), np.int64)]
    for made, without in dataset.view.holding():
        table = read_pass(dataset.path / made.file)
        tells = pc.is_in(table["action"], value_set=pa.array(["duplicate", "flag"]))
        table = table.filter(pc.and_(tells, pc.not_equal(table["counterpart"], "")))
        both = zip(table["record"].to_pylist(), table["counterpart"].to_pylist(), strict=True)
        names = np.array([[part.encode() for part in pair] for pair in both if pair[0] not in without], np.bytes_)
        if names.size and len(ids):
            places = np.minimum(np.searchsorted(ids, names), len(ids) - 1)
            found.append(places[(ids[places] == names).all(1)])
    return np.concatenate(found)
