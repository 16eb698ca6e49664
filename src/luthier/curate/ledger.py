"""The ledger: one Parquet file for each pass of a step over the dataset, written once and never changed.

A pass that takes something back is a file too: entries with action "undo", whose counterpart is the number of the pass
and whose record is one example, or "" for all of them.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.curate.example import Entry

if TYPE_CHECKING:
    import pyarrow as pa

UNDO = "undo"
NAMES = ("record", "action", "reason", "field", "start", "end", "score", "counterpart", "before", "after", "detail")


def schema() -> "pa.Schema":
    """Columns of a ledger file: those of `Entry`."""
    import pyarrow as pa

    types = {"start": pa.int32(), "end": pa.int32(), "score": pa.float64()}
    return pa.schema([(name, types.get(name, pa.string())) for name in NAMES])


def to_table(entries: Sequence[Entry]) -> "pa.Table":
    """Entries as a table."""
    import pyarrow as pa

    return pa.table({name: [getattr(entry, name) for entry in entries] for name in NAMES}, schema=schema())


def to_entries(table: "pa.Table") -> Iterable[Entry]:
    """Entries of a table, in order."""
    columns: list[Any] = [table.column(name).to_pylist() for name in NAMES]
    return (Entry(*values) for values in zip(*columns, strict=True))


def write_pass(path: Path, entries: Sequence[Entry]) -> None:
    """Write a ledger file."""
    import pyarrow.parquet as pq

    pq.write_table(to_table(entries), path, compression="zstd")


def read_pass(path: Path) -> "pa.Table":
    """A ledger file's table; the last ones that were read are kept, as every batch needs them."""
    facts = path.stat()
    return _read(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=64)
def _read(path: Path, changed: int, size: int) -> "pa.Table":
    import pyarrow.parquet as pq

    return pq.read_table(path)
