"""A dataset folder as training reads it: the records of each side, and how often each is used in an epoch."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.core.files import hash_bytes, hash_file, read_json
from luthier.data.records import Message, Record

STATE: Final = "dataset.json"
FORMAT: Final = 1  # the newest one that is understood
REMAKE: Final = "make it again with `luthier data clean`, or restore it from a backup"


@dataclass(frozen=True, slots=True)
class Sides:
    """What a dataset folder holds.

    Attributes:
        train, validation: records in the order of the files.
        repeats: for each record of `train`, how often it is trained on in an epoch.
    """

    train: list[Record]
    validation: list[Record]
    repeats: list[float]


def is_dataset_folder(path: Path) -> bool:
    """Whether a path is a folder that `luthier data clean` made."""
    return (path / STATE).is_file()


def read_sides(path: Path) -> Sides:
    """Read the records of a dataset folder with the sides it was split into.

    Raises:
        DataError: the folder is damaged, was changed by hand, or was written by a newer Luthier.
    """
    where = str(path / STATE)
    try:
        state = read_json(path / STATE)
        newer = state["format"] > FORMAT
        files = [(item["side"], item["file"], item["sha256"]) for item in state["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"damaged: {error}", where=where, fix=REMAKE) from None
    if newer:
        raise DataError("written by a newer Luthier", where=where, fix="update luthier")
    records: dict[str, list[Record]] = {"train": [], "validation": []}
    repeats: list[float] = []
    for side, name, digest in files:
        file = path / name
        if not file.is_file() or hash_file(file) != digest:
            what = "changed since it was written" if file.is_file() else "missing"
            raise DataError(what, where=str(file), fix=REMAKE)
        for row, record in _rows(file):
            records[side].append(record)
            if side == "train":
                repeats.append(1.0 if row.get("repeats") is None else float(row["repeats"]))
    return Sides(records["train"], records["validation"], repeats)


def _rows(file: Path) -> Iterator[tuple[dict[str, Any], Record]]:
    import pyarrow.parquet as pq

    number = 0
    for batch in pq.ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield row, _record(row, f"{file}:row {number}")


def _record(row: dict[str, Any], where: str) -> Record:
    turns = {
        name: tuple(Message(**{key: value or "" for key, value in turn.items()}) for turn in row.get(name) or ())
        for name in ("messages", "chosen", "rejected")
    }
    texts = {name: row.get(name) or "" for name in ("text", "tools", "group")}
    return Record(**turns, **texts, label=row.get("label"), where=where, meta=json.loads(row.get("meta") or "{}"))


def repeated(records: Sequence[Record], repeats: Sequence[float], *, seed: int) -> list[Record]:
    """Each record as often as it is trained on in an epoch; copies follow one another.

    Of 2.4 repeats, two are certain, and a third is there if the hash of seed and record, read as a fraction, is below
    0.4. So with 0.5 one half of such records is trained on, the same in every epoch of a run.
    """
    made: list[Record] = []
    for record, times in zip(records, repeats, strict=True):
        made += [record] * int(times)
        part = times - int(times)
        if part > 0:
            digest = hash_bytes(str(seed).encode(), b"repeats", record.id.encode())
            made += [record] * (int(digest[:13], 16) / 16**13 < part)
    return made
