"""Files in, stored rows out: every row is kept, those that no format fits with the reason why.

Rows come in the order of their source's name and then of the file, whatever order the files were given in.
"""

import base64
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core.errors import DataError
from luthier.core.files import canonical_json, hash_file
from luthier.curate.example import Entry
from luthier.curate.folder import QUARANTINED, Stored, example_id
from luthier.data.dataset_folder import is_dataset_folder
from luthier.data.formats import READABLE, detect, leftovers, parse, reason_of
from luthier.data.formats_values import Repair
from luthier.data.read import data_files
from luthier.data.readers import READERS, BadRow, kind_of
from luthier.data.records import Record

CATEGORY = "category"  # the column that is taken when none is named


class Intake(NamedTuple):
    """What files hold. `sources` and `entries` fill up while `rows` is read, and are complete when it ends.

    Attributes:
        rows: in their final order; can be gone through once.
        sources: name, sha256 and number of rows of each file.
        entries: a "drop" for each row that cannot be used, and a "flag" for each that was repaired.
        notes: what a person should know: files that were not read.
    """

    rows: Iterator[Stored]
    sources: list[dict[str, Any]]
    entries: list[Entry]
    notes: list[str]


def read_sources(paths: Sequence[Path], *, format: str = "auto", category: str | None = None) -> Intake:
    """Read files, and the data files of folders.

    With `format="auto"` the format of each row is told from its keys. Columns that a format does not use are kept in
    the row's meta. Only the row at hand is in memory (of a .json file: all of them), and about 100 bytes for each row
    before it.

    Args:
        paths: files and folders. A source is named by its file's name, in a folder that is given by the folder's name
            and the path inside it, so that it is the same wherever the data lies; where two would be named alike, as
            many folders above are added as tell them apart.
        format: one of `READABLE`, or "auto".
        category: the column a row's category is in; by default "category" where that is text, of the row or its meta.

    Raises:
        DataError: nothing there, two of the same file, an unknown format, or, while reading, a damaged file.
    """
    if format != "auto" and format not in READABLE:
        raise DataError(f"unknown format {format!r}", fix=f"known are auto, {', '.join(READABLE)}")
    notes: list[str] = []
    files = _files(paths, notes)
    intake = Intake(iter(()), [], [], notes)
    return intake._replace(rows=_read(files, format, category, intake))


def _files(paths: Sequence[Path], notes: list[str]) -> list[tuple[str, Path]]:
    """(source name, file), sorted by name."""
    found: list[tuple[Path, Path]] = []  # the folder that names begin after, and the file
    for path in paths:
        if is_dataset_folder(path):
            raise DataError("is a dataset folder, no data file", where=str(path), fix="give the files it was made from")
        files, ignored = data_files(path)
        found += [(path.absolute().parent, file.absolute()) for file in files]
        notes += ignored
    names: dict[tuple[int, int], str] = {}
    for _, file in found:
        status = file.stat()
        key = (status.st_dev, status.st_ino)
        if key in names:
            raise DataError(f"the same file as {names[key]}", where=str(file), fix="give each file once")
        names[key] = str(file)
    return sorted(_named(found))


def _named(found: list[tuple[Path, Path]]) -> list[tuple[str, Path]]:
    """Name each file by its path below its folder; where names are the same, below a folder further up."""
    while True:
        made = [(file.relative_to(base).as_posix(), base, file) for base, file in found]
        counts = Counter(name for name, _, _ in made)
        if max(counts.values(), default=0) <= 1:
            return [(name, file) for name, _, file in made]
        found = [(base.parent if counts[name] > 1 else base, file) for name, base, file in made]


def _read(files: list[tuple[str, Path]], format: str, category: str | None, intake: Intake) -> Iterator[Stored]:
    in_column = category is None
    for source, file in files:
        copies = _Copies(source)
        number = 0
        for where, row in READERS[kind_of(file) or ""](file):
            number += 1
            where = source + where.removeprefix(str(file))
            if isinstance(row, BadRow):
                yield _quarantine(row.content, row.what, row, where, copies, intake.entries)
                continue
            try:
                told = detect(row)[0] if format == "auto" else format
                record, repairs = parse(row, told, where)
            except DataError as error:
                whole = str(DataError(error.what, fix=error.fix))
                yield _quarantine({"row": row}, whole, error, where, copies, intake.entries)
                continue
            more, meta = leftovers(row, told), dict(record.meta)
            named = _category(row, more, meta, category)
            in_column = in_column or named is not None
            for key, value in more.items():
                meta[key if key not in meta else f"{key} (column)"] = value
            stored = _stored(record, source, where, named or "", meta, copies)
            intake.entries.extend(_repaired(stored.id, repair) for repair in repairs)
            yield stored
        if not number:
            raise DataError("the file holds no rows", where=str(file), fix="remove it or fill it")
        intake.sources.append({"name": source, "sha256": hash_file(file), "rows": number})
    if not in_column:
        raise DataError(f"no row has the column {category!r}", fix="name the column that holds the category")


class _Copies:
    """Ids of a source's rows: the second row with the same content is another example than the first."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.once: set[int] = set()  # first 64 bits of the ids of contents that were met
        self.often: dict[int, int] = {}  # and the copies of those that were met again

    def id(self, content: str) -> str:
        first = example_id(content, self.source, 0)
        key = int(first[:16], 16)
        if key not in self.once:
            self.once.add(key)
            return first
        self.often[key] = copy = self.often.get(key, 0) + 1
        return example_id(content, self.source, copy)


def _stored(record: Record, source: str, where: str, category: str, meta: Mapping[str, Any], copies: _Copies) -> Stored:
    content = canonical_json(record.as_json())
    kept = _json(meta) if meta else "{}"
    return Stored(copies.id(content), source, where, record.kind, content, record.group, category, kept)


def _quarantine(
    content: Mapping[str, Any], detail: str, error: DataError, where: str, copies: _Copies, entries: list[Entry]
) -> Stored:
    text = _json(content)
    stored = Stored(copies.id(text), copies.source, where, QUARANTINED, text)
    detail = sys.intern(detail.encode("utf-8", "replace").decode())  # often the same for every row of a file
    entries.append(Entry(stored.id, "drop", reason_of(error), detail=detail))
    return stored


def _repaired(record: str, repair: Repair) -> Entry:
    return Entry(record, "flag", repair.reason, before=repair.before, detail=repair.detail)


def _category(row: Mapping[str, Any], more: dict[str, Any], meta: Mapping[str, Any], column: str | None) -> str | None:
    """The category; None when the row has no such column. A column it is taken from whole leaves `more`.

    Args:
        more: columns that the format does not use.
        meta: the row's own.
        column: its name, None for the default one, which has to be text.
    """
    key = column or CATEGORY
    holder = next((place for place in ((row, meta) if column else (more, meta)) if place.get(key) is not None), None)
    if holder is None:
        return None
    value = holder[key]
    if not isinstance(value, str):
        return _json(value) if column else None
    if not _is_utf8(value):
        return None
    if holder is not meta:
        more.pop(key, None)
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _json(value: Any) -> str:
    """JSON with sorted keys. Halves of surrogate pairs, which UTF-8 cannot hold, are written as escapes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    if _is_utf8(text):
        return text
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> str:
    """Values of Parquet files that JSON has no form for: bytes as base64, dates and decimals as they are written."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)
