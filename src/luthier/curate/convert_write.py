"""Rows to a JSONL, JSON or Parquet file that is whole or absent."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from luthier.core.files import sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".jsonl", ".json", ".parquet")
_BATCH = 4096  # rows of a Parquet row group
_AS_JSON = ("tools", "meta")  # columns of any shape: a table holds them as JSON text


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as the file's suffix says, one of `SUFFIXES`, and return their number.

    The rows of one call are all made by one target of `convert`, so that a column holds one kind of value.
    """
    kind = path.suffix.lower()
    assert kind in SUFFIXES, kind
    path.parent.mkdir(parents=True, exist_ok=True)
    with _new_file(path) as temporary:
        if kind == ".parquet":
            number = _write_parquet(temporary, rows)
        else:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                number = _write_lines(file, rows, as_list=kind == ".json")
        assert number, "a file without rows"
    return number


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when the block ends without an error."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    os.close(handle)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes files for the owner alone
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _line(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair in meta
        return json.dumps(row)
    return text


def _write_lines(file: TextIO, rows: Iterable[dict[str, Any]], *, as_list: bool) -> int:
    number = 0
    for row in rows:
        file.write(("[\n" if not number else ",\n") if as_list else "")
        file.write(_line(row) + ("" if as_list else "\n"))
        number += 1
    if as_list and number:
        file.write("\n]\n")
    return number


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Two passes, since the columns are known only when the last row is: the first keeps the rows as lines of JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent) as lines:
        columns: dict[str, Any] = {}  # column → a value of it
        turn_keys: dict[str, None] = {}  # in the order they were first seen
        number = _write_lines(lines, _seen(rows, columns, turn_keys), as_list=False)
        if not number:
            return 0
        order = [*(name for name in columns if name not in ("group", "category", "meta"))]
        order += [name for name in ("group", "category", "meta") if name in columns]
        schema = pa.schema([(name, _type(columns[name], list(turn_keys))) for name in order])
        lines.seek(0)
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            batch: list[dict[str, Any]] = []
            for line in lines:
                batch.append(json.loads(line))
                if len(batch) == _BATCH:
                    writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                    batch = []
            if batch:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    return number


def _seen(
    rows: Iterable[dict[str, Any]], columns: dict[str, Any], turn_keys: dict[str, None]
) -> Iterator[dict[str, Any]]:
    """The rows as a table holds them; what columns and turns are made of is noted on the way."""
    for row in rows:
        row = {
            key: value if key not in _AS_JSON or isinstance(value, str) else _line(value) for key, value in row.items()
        }
        for key, value in row.items():
            columns.setdefault(key, value)
            for turn in value if isinstance(value, list) else [value]:
                if isinstance(turn, dict):
                    turn_keys.update(dict.fromkeys(turn))
        yield row


def _type(value: Any, turn_keys: list[str]) -> "pa.DataType":
    import pyarrow as pa

    call = pa.struct(
        [
            ("id", pa.string()),
            ("type", pa.string()),
            ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])),
        ]
    )
    turn = pa.struct([(key, pa.list_(call) if key == "tool_calls" else pa.string()) for key in turn_keys])
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, dict):
        return turn
    if isinstance(value, list):
        return pa.list_(turn) if value and isinstance(value[0], dict) else pa.list_(pa.list_(pa.string()))
    return pa.string()
