"""Dataset files: JSON, JSONL, CSV, Parquet and plain text, read row by row with the place of each row.

Damage to one row (a broken line, a wrong number of columns) follows `on_bad_row`. Damage to a file (a cut gzip
stream, broken quoting, JSON that does not end where it should) always stops: nobody knows how many rows it cost.
"""

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import DataError
from luthier.data.formats import FORMATS, detect, ignored_keys, is_filled_as, parse, reason_of
from luthier.data.readers import READERS, SUFFIXES, kind_of
from luthier.data.records import Record

OnBadRow = Literal["stop", "skip"]
Row = tuple[str, dict[str, Any]]


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


def untrainable(record: Record) -> DataError | None:
    """Why a record cannot be trained on, None if it can: only conversations without tools, and plain text, are."""
    if record.kind == "preference":
        what, instead = "preference pairs are not supported yet", "give demonstrations: one good answer a prompt"
    elif record.kind == "labelled":
        what, instead = "labelled answers are not supported yet", "give the wanted answers, without their label"
    elif record.tools or any(turn.tool_calls for turn in record.messages):
        what, instead = "tool calls are not supported yet", "remove the row"
    else:
        return None
    fix = f"{instead}, or set on_bad_row: skip to leave such rows out"
    return DataError(f"{what}: training reads conversations and text", where=record.where, fix=fix)


def read_records(path: Path, format: str = "auto", on_bad_row: OnBadRow = "stop") -> ReadResult:
    """Read a dataset file, or every data file of a folder, for training.

    With `format="auto"` each file's format is told from its first row; a later row that does not fit it is a bad row.
    Where a file has the columns of several formats, those that a row fills decide. A row that no objective trains on
    yet (`untrainable`) is a bad row too.

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
            told = file_format
            if format == "auto" and not is_filled_as(row, file_format):
                told, why = _detect(row, where)
                formats.setdefault(told, why)
            ignored.update(ignored_keys(row, told))
            try:
                record, repairs = parse(row, told, where)
                if refusal := untrainable(record):
                    raise refusal
                records.append(record)
                repaired.update({repair.reason for repair in repairs})
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
        keys = ", ".join(f"{key} (in {count})" for key, count in ignored.most_common())
        notes.append(f"keys not used, with the number of rows that have them: {keys}")
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
        if kind_of(path) is None:
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
        if kind_of(file) is None:
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
        for where, row in READERS[kind_of(file) or ""](file):
            if isinstance(row, DataError):
                if on_bad_row == "stop":
                    raise row
                counts[reason_of(row)] += 1
                continue
            rows += 1
            yield where, row
        if rows + sum(counts.values()) == before:
            raise DataError("the file holds no rows", where=str(file), fix="remove it or fill it")
