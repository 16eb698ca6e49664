"""One reader a kind of dataset file.

A reader yields (where, row), or (where, BadRow) for a row that is broken by itself; what is wrong with the file as a
whole it raises. `where` is "file:LINE", or "file:row N" where lines mean nothing.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.data.formats_values import TOO_DEEP, is_deep, parse_json

SUFFIXES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_SKIP_HINT: Final = "mend it, or set on_bad_row: skip to leave such rows out, counted"


class BadRow(DataError):
    """A row that cannot be read, with what stands there.

    Attributes:
        content: {"line": the line's text} or {"row": what the row holds}. Bytes that are no UTF-8 are in the text as
            Python's "surrogateescape" writes them.
    """

    def __init__(self, what: str, *, where: str, content: dict[str, Any]) -> None:
        super().__init__(what, where=where, fix=_SKIP_HINT)
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        """To go from one process to another."""
        return partial(BadRow, where=self.where, content=self.content), (self.what,)


Rows = Iterator[tuple[str, dict[str, Any] | BadRow]]


def kind_of(path: Path) -> str | None:
    """The suffix that says how to read the file, ".gz" taken off; None when it is no data file."""
    name = path.name.lower()
    kind = next((suffix for suffix in SUFFIXES if name.removesuffix(".gz").endswith(suffix)), None)
    return None if kind == ".parquet" and name.endswith(".gz") else kind


def _bad(reason: str, where: str, content: dict[str, Any]) -> tuple[str, BadRow]:
    return where, BadRow(reason, where=where, content=content)


def _line(line: bytes) -> dict[str, str]:
    return {"line": line.decode("utf-8", "surrogateescape")}


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their line ends; the UTF-8 byte order mark is taken off."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                        raise DataError("not UTF-8: this is UTF-16", where=str(path), fix="save it as UTF-8")
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield number, line.removesuffix(b"\n").removesuffix(b"\r")
    except EOFError:
        raise DataError("the gzip file is cut short", where=str(path), fix="copy or download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"damaged gzip file: {error}", where=str(path), fix="copy or download it again") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from None


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines as text. Raises DataError at the first line that is not text."""
    for number, line in byte_lines(path):
        if error := _not_text(line):
            raise DataError(error, where=f"{path}:{number}", fix="save the file as UTF-8 text")
        yield number, line.decode("utf-8")


def _not_text(line: bytes) -> str:
    """Why these bytes are not text, or ""."""
    if b"\0" in line:
        return f"NUL byte: byte {line.index(0) + 1} of the line is 0, as in damaged or binary files"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start + 1} of the line is 0x{line[error.start]:02x}"
    return ""


def read_jsonl(path: Path) -> Rows:
    """One object a line; blank lines are passed over."""
    return json_rows(str(path), byte_lines(path))


def json_rows(name: str, lines: Iterable[tuple[int, bytes]]) -> Rows:
    """As `read_jsonl`, of numbered lines of a file of this name."""
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{name}:{number}"
        if error := _not_text(line):
            yield _bad(error, where, _line(line))
            continue
        row, error = parse_json(line.decode("utf-8"))
        if error:
            yield _bad(f"broken line: {error}", where, _line(line))
        elif not isinstance(row, dict):
            yield _bad("not an object: a line is one {...}", where, _line(line))
        else:
            yield where, row


def read_json(path: Path) -> Rows:
    """The whole file at once; see `luthier.data.read.read_rows` for the layouts."""
    lines = [line for _, line in _text_lines(path)]
    if not any(line.strip() for line in lines):
        return
    try:
        value = json.loads("\n".join(lines))
    except RecursionError:
        raise DataError(f"{TOO_DEEP} to be a dataset", where=str(path)) from None
    except json.JSONDecodeError as error:
        first = parse_json(next(line for line in lines if line.strip()))[0]
        if error.msg == "Extra data" and isinstance(first, dict):  # JSON lines under the name .json
            yield from read_jsonl(path)
            return
        extra = error.msg == "Extra data"
        what = "something follows the end of the JSON value" if extra else f"broken JSON: {error.msg}"
        fix = "remove it; a file with one object a line is named .jsonl" if extra else "mend the file"
        raise DataError(what, where=f"{path}:{error.lineno} column {error.colno}", fix=fix) from None
    except ValueError as error:
        raise DataError(f"broken JSON: {error}", where=str(path)) from None
    for number, row in enumerate(_rows_of(value, path), 1):
        where = f"{path}:row {number}"
        if is_deep(row):
            raise DataError(f"{TOO_DEEP} to be a dataset", where=where)
        yield (where, row) if isinstance(row, dict) else _bad("not an object: a row is {...}", where, {"row": row})


def _rows_of(value: Any, path: Path) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        if isinstance(value.get("data"), list):
            return value["data"]
        if not {"messages", "conversations", "conversation"} & value.keys() and len(lists) == 1:
            return lists[0]
        return [value]
    raise DataError("holds no rows", where=str(path), fix="a .json dataset is a list of objects")


def read_csv(path: Path) -> Rows:
    """Comma (.csv) or tab (.tsv) separated, quoted with double quotes, with a header line. Every value is text."""
    kind = kind_of(path)
    lines = (f"{line}\n" for _, line in _text_lines(path))
    reader = csv.reader(lines, delimiter="\t" if kind == ".tsv" else ",", strict=True)
    header: list[str] = []
    start = 1
    try:
        for fields in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if len(fields) < 2 and not "".join(fields).strip():  # a blank line
                continue
            if not header:
                header = [name.strip() for name in fields]
                if len(set(header)) < len(header) or "" in header:
                    raise DataError("the header has empty or repeated column names", where=where)
            elif len(fields) != len(header):
                what = f"wrong number of columns: {len(fields)}, the header has {len(header)}"
                yield _bad(what, where, {"row": fields})
            else:
                yield where, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"broken CSV: {error}", where=f"{path}:{start}", fix="check the quotes, or use JSONL") from None


def read_parquet(path: Path) -> Rows:
    """Batch by batch, so that one batch is in memory."""
    import pyarrow as pa  # here, because it takes longer to import than most datasets take to read
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"damaged Parquet file: {reason}", where=str(path), fix="copy or download it again") from None


def read_text(path: Path) -> Rows:
    """A row {"text": ...} for every block of lines between blank lines."""
    block: list[str] = []
    start = 0
    for number, line in _text_lines(path):
        if line.strip():
            start = start if block else number
            block.append(line)
        elif block:
            yield f"{path}:{start}", {"text": "\n".join(block)}
            block = []
    if block:
        yield f"{path}:{start}", {"text": "\n".join(block)}


READERS: Final = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".txt": read_text,
}
