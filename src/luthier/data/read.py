"""Dataset files: JSON, JSONL, CSV, Parquet and plain text, read row by row with the place of each row.

Damage to one row (a broken line, a wrong number of columns) follows `on_bad_row`. Damage to a file (a cut gzip
stream, broken quoting, JSON that does not end where it should) always stops: nobody knows how many rows it cost.
"""

import csv
import difflib
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from luthier.core.errors import DataError
from luthier.data.formats import FORMATS, detect, ignored_keys, reason_of, to_record
from luthier.data.records import Record

OnBadRow = Literal["stop", "skip"]
Row = tuple[str, dict[str, Any]]

SUFFIXES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_SKIP_HINT: Final = "mend it, or set on_bad_row: skip to leave such rows out, counted"


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What was read from one dataset path; `rows_in == len(records) + sum(dropped.values())`.

    Attributes:
        records: in the order of the files (sorted by name) and rows.
        rows_in: rows found, broken ones included; blank lines are no rows.
        format: one of `FORMATS`; several joined with " + " when a folder's files differ.
        why: how the format was told, for people.
        dropped: reason → rows left out.
        repaired: reason → rows changed and kept.
        notes: what a person should know: files and keys that were not used.
    """

    records: list[Record]
    rows_in: int
    format: str
    why: str
    dropped: Counter[str]
    repaired: Counter[str]
    notes: list[str]

    @property
    def counts(self) -> Counter[str]:
        """Dropped and repaired rows together, by reason."""
        return self.dropped + self.repaired


def read_records(path: Path, format: str = "auto", on_bad_row: OnBadRow = "stop") -> ReadResult:
    """Read a dataset file, or every data file of a folder.

    With `format="auto"` each file's format is told from its first row; a later row that does not fit it is a bad row.

    Raises:
        DataError: no such file, no rows, no known format, a damaged file, or a bad row under `on_bad_row="stop"`.
    """
    if format != "auto" and format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are auto, {', '.join(FORMATS)}"
        raise DataError(f"unknown dataset type {format!r}", where=str(path), fix=hint)
    files, notes = data_files(path)
    records: list[Record] = []
    formats: dict[str, str] = {}  # format → why
    dropped: Counter[str] = Counter()
    repaired: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    good_rows, broken = 0, Counter[str]()
    for file in files:
        file_format = None if format == "auto" else format
        for where, row in read_rows(file, on_bad_row=on_bad_row, counts=broken):
            good_rows += 1
            if file_format is None:
                file_format, why = _detect(row, where)
                formats.setdefault(file_format, why)
            ignored.update(ignored_keys(row, file_format))
            try:
                records.append(to_record(row, file_format, where, repairs=repaired))
            except DataError as error:
                if on_bad_row == "stop":
                    raise
                dropped[reason_of(error)] += 1
    dropped += broken
    rows_in = good_rows + sum(broken.values())
    assert rows_in == len(records) + sum(dropped.values()), (rows_in, len(records), dropped)
    if not records:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.most_common())
        raise DataError(f"none of its {rows_in} rows can be used: {reasons}", where=str(path))
    if ignored:
        keys = ", ".join(f"{key} ({count} rows)" for key, count in ignored.most_common())
        notes.append(f"not used: {keys}")
    if format != "auto":
        formats = {format: f"{format}: as the recipe says"}
    return ReadResult(records, rows_in, " + ".join(formats), "; ".join(formats.values()), dropped, repaired, notes)


def _detect(row: dict[str, Any], where: str) -> tuple[str, str]:
    try:
        return detect(row)
    except DataError as error:
        raise DataError(error.what, where=where, fix=error.fix) from None


def data_files(path: Path) -> tuple[list[Path], list[str]]:
    """The data files at `path` (itself, or all below a folder, sorted) and a note for each file that is none.

    Files and folders whose names start with "." are not looked at.

    Raises:
        DataError: nothing there (the nearest name is suggested), or nothing with a known suffix.
    """
    if path.is_file():
        if _kind(path) is None:
            fix = f"known are {', '.join(SUFFIXES)}, and .gz after a text format; convert or rename it"
            raise DataError(f"unknown kind of file {path.suffix or '(no suffix)'!r}", where=str(path), fix=fix)
        return [path], []
    if not path.is_dir():
        raise _missing(path)
    files, notes = [], []
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if any(part.startswith(".") for part in inside.parts) or not file.is_file():
            continue
        if _kind(file) is None:
            notes.append(f"not read, no data file: {inside}")
        else:
            files.append(file)
    if not files:
        raise DataError("the folder holds no data file", where=str(path), fix=f"known are {', '.join(SUFFIXES)}")
    return files, notes


def _missing(path: Path) -> DataError:
    folder = path.parent
    if not folder.is_dir():
        return DataError("no such file", where=str(path), fix=f"the folder {folder} does not exist either")
    names = [entry.name for entry in folder.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return DataError(
        "no such file", where=str(path), fix=f"did you mean {folder / near[0]}?" if near else "check the path"
    )


def _kind(path: Path) -> str | None:
    """The suffix that says how to read the file, ".gz" taken off; None when it is no data file."""
    name = path.name.lower()
    kind = next((suffix for suffix in SUFFIXES if name.removesuffix(".gz").endswith(suffix)), None)
    return None if kind == ".parquet" and name.endswith(".gz") else kind


def read_rows(path: Path, *, on_bad_row: OnBadRow, counts: Counter[str]) -> Iterator[Row]:
    """Yield (where, row) for every row of a file or folder, holding one row (Parquet: one batch) in memory.

    A .json file is the exception: it is held whole. It may be a list of rows, an object with a "data" list or one
    list, one row, or one object a line. `where` is "file:LINE", or "file:row N" where lines mean nothing.

    Args:
        on_bad_row: "stop" raises on a broken row, "skip" counts it in `counts` by reason.

    Raises:
        DataError: see the module.
    """
    for file in data_files(path)[0]:
        rows = 0
        before = sum(counts.values())
        for where, row in _READERS[_kind(file) or ""](file):
            if isinstance(row, DataError):
                if on_bad_row == "stop":
                    raise row
                counts[reason_of(row)] += 1
                continue
            rows += 1
            yield where, row
        if rows + sum(counts.values()) == before:
            raise DataError("the file holds no rows", where=str(file), fix="remove it or fill it")


def _bad(reason: str, where: str) -> tuple[str, DataError]:
    return where, DataError(reason, where=where, fix=_SKIP_HINT)


# A reader yields (where, row), or (where, DataError) for a row that is broken by itself.
_Read = Iterator[tuple[str, dict[str, Any] | DataError]]


def _byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
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
    for number, line in _byte_lines(path):
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


def _parse(text: str) -> tuple[Any, str]:
    """(value, "") or (None, why it is not JSON)."""
    try:
        return json.loads(text), ""
    except json.JSONDecodeError as error:
        return None, f"broken line: {error.msg} at column {error.colno}"
    except ValueError as error:  # a number with thousands of digits
        return None, f"broken line: {error}"
    except RecursionError:
        return None, "broken line: nested too deeply"


def _read_jsonl(path: Path) -> _Read:
    for number, line in _byte_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        if error := _not_text(line):
            yield _bad(error, where)
            continue
        row, error = _parse(line.decode("utf-8"))
        if error:
            yield _bad(error, where)
        elif not isinstance(row, dict):
            yield _bad("not an object: a line is one {...}", where)
        else:
            yield where, row


def _read_json(path: Path) -> _Read:
    lines = [line for _, line in _text_lines(path)]
    if not any(line.strip() for line in lines):
        return
    try:
        value = json.loads("\n".join(lines))
    except RecursionError:
        raise DataError("nested too deeply to be a dataset", where=str(path)) from None
    except json.JSONDecodeError as error:
        first = _parse(next(line for line in lines if line.strip()))[0]
        if error.msg == "Extra data" and isinstance(first, dict):  # JSON lines under the name .json
            yield from _read_jsonl(path)
            return
        extra = error.msg == "Extra data"
        what = "something follows the end of the JSON value" if extra else f"broken JSON: {error.msg}"
        fix = "remove it; a file with one object a line is named .jsonl" if extra else "mend the file"
        raise DataError(what, where=f"{path}:{error.lineno} column {error.colno}", fix=fix) from None
    except ValueError as error:
        raise DataError(f"broken JSON: {error}", where=str(path)) from None
    for number, row in enumerate(_rows_of(value, path), 1):
        where = f"{path}:row {number}"
        yield (where, row) if isinstance(row, dict) else _bad("not an object: a row is {...}", where)


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


def _read_csv(path: Path) -> _Read:
    kind = _kind(path)
    lines = (f"{line}\n" for _, line in _text_lines(path))
    reader = csv.reader(lines, delimiter="\t" if kind == ".tsv" else ",", strict=True)
    header: list[str] = []
    start = 1
    try:
        for fields in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not fields:
                continue
            if not header:
                header = [name.strip() for name in fields]
                if len(set(header)) < len(header) or "" in header:
                    raise DataError("the header has empty or repeated column names", where=where)
            elif len(fields) != len(header):
                yield _bad(f"wrong number of columns: {len(fields)}, the header has {len(header)}", where)
            else:
                yield where, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"broken CSV: {error}", where=f"{path}:{start}", fix="check the quotes, or use JSONL") from None


def _read_parquet(path: Path) -> _Read:
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


def _read_text(path: Path) -> _Read:
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


_READERS: Final = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
