"""Rows as they are stored: what a records file holds, and how it is written.

A records file is Parquet with the columns of `Stored`, in row groups that are what a worker gets at a time.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.files import canonical_json, hash_bytes
from luthier.data.records import Record, record_from_json

if TYPE_CHECKING:
    import pyarrow as pa

QUARANTINED = "quarantined"  # kind of a stored row that no format fits; its content is {"row": …} or {"line": …}


def content_of(record: Record) -> str:
    """Canonical JSON of `Record.as_json`."""
    if record.kind == "conversation" and not record.tools and not any(t.tool_calls or t.name for t in record.messages):
        # By far the most, and a quarter of the time of the general way.
        turns = (
            f'{{"content":{encode_basestring(turn.content)},"role":{encode_basestring(turn.role)}}}'
            for turn in record.messages
        )
        return f'{{"messages":[{",".join(turns)}]}}'
    return canonical_json(record.as_json())


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of a records file. `content` is canonical JSON of `Record.as_json`, or of what could not be read."""

    id: str
    source: str
    where: str
    kind: str
    content: str
    group: str = ""
    category: str = ""
    meta: str = "{}"


COLUMNS = tuple(Stored.__slots__)
_decode = json.JSONDecoder().raw_decode  # of canonical JSON there is nothing before or behind the value


def record_of(stored: Stored) -> Record:
    """The record of a row that is not quarantined."""
    meta = _decode(stored.meta)[0] if stored.meta != "{}" else {}
    return record_from_json(_decode(stored.content)[0], where=stored.where, group=stored.group, meta=meta)


def example_id(content: str, source: str, copy: int) -> str:
    """The id of the `copy`-th row (from 0) of a source with this canonical content: of the JSON list of the three."""
    return hash_bytes(f"[{encode_basestring(content)},{encode_basestring(source)},{copy}]".encode())[:20]


def records_schema() -> "pa.Schema":
    """Columns of a records file: those of `Stored`."""
    import pyarrow as pa

    return pa.schema([(column, pa.string()) for column in COLUMNS])


def table_of(rows: Sequence[Stored]) -> "pa.Table":
    """Rows as a table."""
    import pyarrow as pa

    return pa.table({column: [getattr(row, column) for row in rows] for column in COLUMNS}, schema=records_schema())


def tables_of(rows: Iterable[Stored], size: int) -> Iterator["pa.Table"]:
    """Rows as tables of this size, the last one shorter."""
    remaining = iter(rows)
    while batch := list(islice(remaining, size)):
        yield table_of(batch)


def _batches(tables: Iterable["pa.Table"], size: int) -> Iterator["pa.Table"]:
    """The same rows in tables of this size, the last one shorter."""
    import pyarrow as pa

    held = records_schema().empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= size:
            yield held.slice(0, size).combine_chunks()
            held = held.slice(size)
    if len(held):
        yield held.combine_chunks()


def write_records(path: Path, tables: Iterable["pa.Table"], size: int) -> tuple[int, int]:
    """Write a records file in row groups of this size; returns the numbers of rows and of row groups."""
    import pyarrow.parquet as pq

    number, batches = 0, 0
    with pq.ParquetWriter(path, records_schema(), compression="zstd") as writer:
        for table in _batches(tables, size):
            writer.write_table(table, row_group_size=size)
            number, batches = number + len(table), batches + 1
    return number, batches
