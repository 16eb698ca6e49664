"""The ledger: one Parquet file for each pass of a step over the dataset, written once and never changed.

Its entries are in the order of the batches that their records are in: those of a batch lie together, and reading
a batch takes no look at the others.

A pass that takes something back is a file too: entries with action "undo", whose counterpart is the number of the pass
and whose record is one example, or "" for all of them.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.curate.example import Entry

if TYPE_CHECKING:
    import pyarrow as pa

UNDO = "undo"
NAMES = ("record", "action", "reason", "field", "start", "end", "score", "counterpart", "before", "after", "detail")


def schema() -> "pa.Schema":
    """Columns of entries: those of `Entry`."""
    import pyarrow as pa

    types = {"start": pa.int32(), "end": pa.int32(), "score": pa.float64()}
    return pa.schema([(name, types.get(name, pa.string())) for name in NAMES])


def to_table(entries: Sequence[Entry]) -> "pa.Table":
    """Entries as a table."""
    import pyarrow as pa

    return pa.table({name: [getattr(entry, name) for entry in entries] for name in NAMES}, schema=schema())


def columns_table(number: int, **columns: "pa.Array") -> "pa.Table":
    """So many entries from these columns; in the others they have what an `Entry` has where nothing is said."""
    import pyarrow as pa

    empty = {field.name: getattr(Entry("", "flag", ""), field.name) for field in schema()}
    return pa.table(
        [columns.get(field.name, pa.repeat(pa.scalar(empty[field.name], field.type), number)) for field in schema()],
        schema=schema(),
    )


def to_entries(table: "pa.Table") -> Iterator[Entry]:
    """Entries of a table, in order."""
    columns: list[Any] = [table.column(name).to_pylist() for name in NAMES]
    return (Entry(*values) for values in zip(*columns, strict=True))


def write_pass(path: Path, entries: "pa.Table", batches: np.ndarray) -> None:
    """Write a ledger file.

    Args:
        batches: (n,) int32, the batch of each entry's record; −1 for an entry about no single record.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = np.argsort(batches, kind="stable")
    table = entries.append_column("batch", pa.array(batches, pa.int32())).take(order)
    pq.write_table(table, path, compression="zstd")


def read_pass(path: Path) -> "pa.Table":
    """A ledger file's table; the last ones that were read are kept, as every batch needs them."""
    return _read(path, *facts(path))[0]


def read_batch(path: Path, index: int) -> "pa.Table":
    """The part of a ledger file that is about batch `index`, in the order in which it was said."""
    table, batches = _read(path, *facts(path))
    first, stop = np.searchsorted(batches, [index, index + 1])
    return table.slice(first, stop - first)


def facts(path: Path) -> tuple[int, int]:
    """What tells that a file is still the one that was read: when it was changed, and its size in bytes."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=64)
def _read(path: Path, changed: int, size: int) -> tuple["pa.Table", np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return table, table["batch"].to_numpy()
