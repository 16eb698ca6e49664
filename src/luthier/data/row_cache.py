"""Rendered rows on disk: one folder an entry, `rows.safetensors` and `rows.json`, named by the hash of what made them.

    ids      (N,) int32    the tokens of all rows, one after the other
    mask     (N,) uint8    1 where a token is trained
    offsets  (R + 1,) int64  where each row begins, and N
    records  (R,) int64    index of the record a row came from

Groups, places and ids are taken from the records at hand, so an entry outlives a renamed file. The JSON holds the
counts and a hash of both files' contents: an entry that does not match it is damaged and is not used.
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from luthier.core.files import atomic_folder, hash_bytes, hash_json
from luthier.data.records import Record
from luthier.data.render import Row

_TENSORS, _FACTS = "rows.safetensors", "rows.json"


def load_rows(entry: Path, records: Sequence[Record], notes: list[str]) -> tuple[list[Row], Counter[str]] | None:
    """Rows and counts in the cache folder `entry`, None if there is none. A damaged one is deleted and noted."""
    if not entry.exists():
        return None
    try:
        facts = json.loads((entry / _FACTS).read_text(encoding="utf-8"))
        data = (entry / _TENSORS).read_bytes()
        whole = facts["hash"] == _hash(data, facts["counts"])
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        notes.append(f"the cached rows in {entry} were damaged and have been made anew")
        shutil.rmtree(entry, ignore_errors=True)
        return None
    tensors = safetensors.numpy.load(data)
    ids, mask = tensors["ids"].copy(), tensors["mask"].astype(np.bool_)  # copies: views of `data` are read-only
    offsets = tensors["offsets"].tolist()
    rows = []
    for index, start, end in zip(tensors["records"].tolist(), offsets, offsets[1:], strict=False):
        record = records[index]
        rows.append(Row(ids[start:end], mask[start:end], record.id, record.group or record.id, record.where))
    return rows, Counter(facts["counts"])


def save_rows(
    entry: Path, rows: Sequence[Row], records: Sequence[Record], counts: Counter[str], notes: list[str]
) -> None:
    """Write the folder `entry`. A full disk or a folder that cannot be written costs the cache only, and is noted."""
    index_of = {(record.id, record.group or record.id, record.where): index for index, record in enumerate(records)}
    tensors = {
        "ids": np.concatenate([row.ids for row in rows]).astype(np.int32),
        "mask": np.concatenate([row.mask for row in rows]).astype(np.uint8),
        "offsets": np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int64),
        "records": np.array([index_of[row.record_id, row.group, row.where] for row in rows], dtype=np.int64),
    }
    data = safetensors.numpy.save(tensors)
    facts = {
        "rows": len(rows),
        "tokens": len(tensors["ids"]),
        "counts": dict(counts),
        "hash": _hash(data, dict(counts)),
    }
    try:
        with atomic_folder(entry) as folder:
            (folder / _TENSORS).write_bytes(data)
            (folder / _FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        if not entry.exists():  # it does where another run has just written the same rows
            notes.append(f"the rows could not be cached in {entry} ({error.strerror})")


def _hash(data: bytes, counts: dict[str, int]) -> str:
    return hash_bytes(data, hash_json(counts).encode())
