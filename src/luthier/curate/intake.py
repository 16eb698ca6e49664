"""Files in, stored rows out: every row is kept, those that no format fits with the reason why.

Rows come in the order of their source's name and then of the file, whatever order the files were given in.
"""

import base64
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from luthier.core.errors import DataError
from luthier.core.files import hash_file
from luthier.curate.example import Entry
from luthier.curate.stored import COLUMNS, QUARANTINED, Stored, content_of, example_id, table_of
from luthier.data.dataset_folder import is_dataset_folder
from luthier.data.formats import READABLE, detect, leftovers, parse, reason_of
from luthier.data.formats_values import Repair
from luthier.data.read import data_files
from luthier.data.readers import READERS, BadRow, byte_lines, json_rows, kind_of

if TYPE_CHECKING:
    import pyarrow as pa

PORTION = 2048  # rows, or lines, that a worker gets at a time
CATEGORY = "category"  # the column that is taken when none is named


T = TypeVar("T")
Item = TypeVar("Item")
Run = Callable[[Callable[[Item], T], Iterable[Item]], Iterator[T]]  # as `map`, and so is the order of what it gives


class Intake(NamedTuple):
    """What files hold. `sources` and `entries` fill up while the rows are read, and are complete when they end.

    Attributes:
        tables: the rows in their final order, with the columns of `Stored`; can be gone through once.
        sources: name, sha256 and number of rows of each file.
        entries: a "drop" for each row that cannot be used, and a "flag" for each that was repaired.
        notes: what a person should know: files that were not read.
    """

    tables: Iterator["pa.Table"]
    sources: list[dict[str, Any]]
    entries: list[Entry]
    notes: list[str]

    @property
    def rows(self) -> Iterator[Stored]:
        """The rows of `tables` one by one, in the place of it."""
        for table in self.tables:
            columns = [table[name].to_pylist() for name in COLUMNS]
            yield from (Stored(*values) for values in zip(*columns, strict=True))


def read_sources(paths: Sequence[Path], *, format: str = "auto", category: str | None = None, run: Run = map) -> Intake:
    """Read files, and the data files of folders.

    With `format="auto"` the format of each row is told from its keys. Columns that a format does not use are kept in
    the row's meta. Only the rows at hand are in memory (of a .json file: all of them), and about 100 bytes for each row
    before them.

    Args:
        paths: files and folders. A source is named by its file's name, in a folder that is given by the folder's name
            and the path inside it, so that it is the same wherever the data lies; where two would be named alike, as
            many folders above are added as tell them apart.
        format: one of `READABLE`, or "auto".
        category: the column a row's category is in; by default "category" where that is text, of the row or its meta.
        run: calls a picklable function with each portion of rows, perhaps in other processes; results in order.

    Raises:
        DataError: nothing there, two of the same file, an unknown format, or, while reading, a damaged file.
    """
    if format != "auto" and format not in READABLE:
        raise DataError(f"unknown format {format!r}", fix=f"known are auto, {', '.join(READABLE)}")
    notes: list[str] = []
    files = _files(paths, notes)
    intake = Intake(iter(()), [], [], notes)
    return intake._replace(tables=_read(files, format, category, intake, run))


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of the data files at these paths."""
    return sum(file.stat().st_size for path in paths for file in data_files(path)[0])


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


class _Portion(NamedTuple):
    """Some rows of a source: lines that are still to be parsed, or rows with their places."""

    source: str
    lines: list[tuple[int, bytes]]
    rows: list[tuple[str, Any]]


class _Taken(NamedTuple):
    """What became of a portion. Ids are those of first copies.

    Attributes:
        entries: with the row's number in the table.
        in_column: a row has the column that gives the category.
    """

    source: str
    table: "pa.Table"
    entries: list[tuple[int, Entry]]
    in_column: bool


def _read(
    files: list[tuple[str, Path]], format: str, category: str | None, intake: Intake, run: Run
) -> Iterator["pa.Table"]:
    in_column = category is None
    copies = {source: _Copies(source) for source, _ in files}
    numbers: Counter[str] = Counter()
    for taken in run(partial(_take, format, category), _portions(files)):
        in_column = in_column or taken.in_column
        numbers[taken.source] += len(taken.table)
        renamed = copies[taken.source].renamed(taken.table)
        for row, entry in taken.entries:
            intake.entries.append(replace(entry, record=renamed[row]) if row in renamed else entry)
        yield _with_ids(taken.table, renamed) if renamed else taken.table
    intake.sources.extend({"name": name, "sha256": hash_file(file), "rows": numbers[name]} for name, file in files)
    if not in_column:
        raise DataError(f"no row has the column {category!r}", fix="name the column that holds the category")


def _portions(files: list[tuple[str, Path]]) -> Iterator[_Portion]:
    """All rows of all files. Lines go to the worker as they are: parsing them is a part of the work."""
    for source, file in files:
        empty = True
        if kind_of(file) == ".jsonl":
            lines = byte_lines(file)
            while some := list(islice(lines, PORTION)):
                empty = empty and not any(line.strip() for _, line in some)
                yield _Portion(source, some, [])
        else:
            rows = READERS[kind_of(file) or ""](file)
            prefix = str(file)
            while some := [(source + where.removeprefix(prefix), row) for where, row in islice(rows, PORTION)]:
                empty = False
                yield _Portion(source, [], some)
        if empty:
            raise DataError("the file holds no rows", where=str(file), fix="remove it or fill it")


def _take(format: str, category: str | None, portion: _Portion) -> _Taken:
    stored: list[Stored] = []
    entries: list[tuple[int, Entry]] = []
    in_column = False
    for where, row in json_rows(portion.source, portion.lines) if portion.lines else portion.rows:
        made, found, has = _stored(portion.source, where, row, format, category)
        entries.extend((len(stored), entry) for entry in found)
        stored.append(made)
        in_column = in_column or has
    return _Taken(portion.source, table_of(stored), entries, in_column)


def _with_ids(table: "pa.Table", renamed: Mapping[int, str]) -> "pa.Table":
    import pyarrow as pa

    ids = table["id"].to_pylist()
    for row, name in renamed.items():
        ids[row] = name
    return table.set_column(0, table.schema.field("id"), pa.array(ids, pa.string()))


class _Copies:
    """Ids of a source's rows: the second row with the same content is another example than the first."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.once: set[int] = set()  # first 64 bits of the ids of contents that were met
        self.often: dict[int, int] = {}  # and the copies of those that were met again

    def renamed(self, table: "pa.Table") -> dict[int, str]:
        """Row of the table → its id, of the rows that are no first copies."""
        keys = [int(name[:16], 16) for name in table["id"].to_pylist()]
        new = set(keys)
        if len(new) == len(keys) and self.once.isdisjoint(new):
            self.once |= new
            return {}
        made, contents = {}, table["content"].to_pylist()
        for row, key in enumerate(keys):
            if key in self.once:
                self.often[key] = copy = self.often.get(key, 0) + 1
                made[row] = example_id(contents[row], self.source, copy)
            self.once.add(key)
        return made


def _stored(
    source: str, where: str, row: Mapping[str, Any] | BadRow, format: str, category: str | None
) -> tuple[Stored, list[Entry], bool]:
    """(the row as it is stored, what is said about it, whether it has the column for the category)."""
    if isinstance(row, BadRow):
        return (*_quarantine(row.content, row.what, row, source, where), False)
    try:
        told = detect(row)[0] if format == "auto" else format
        record, repairs = parse(row, told, where)
    except DataError as error:
        whole = str(DataError(error.what, fix=error.fix))
        return (*_quarantine({"row": row}, whole, error, source, where), False)
    more, meta = leftovers(row, told), dict(record.meta)
    named = _category(row, more, meta, category)
    for key, value in more.items():
        meta[key if key not in meta else f"{key} (column)"] = value
    content = content_of(record)
    kept = _json(meta) if meta else "{}"
    name = example_id(content, source, 0)
    stored = Stored(name, source, where, record.kind, content, record.group, named or "", kept)
    return stored, [_repaired(name, repair) for repair in repairs], named is not None


def _quarantine(
    content: Mapping[str, Any], detail: str, error: DataError, source: str, where: str
) -> tuple[Stored, list[Entry]]:
    text = _json(content)
    stored = Stored(example_id(text, source, 0), source, where, QUARANTINED, text)
    detail = sys.intern(detail.encode("utf-8", "replace").decode())  # often the same for every row of a file
    return stored, [Entry(stored.id, "drop", reason_of(error), detail=detail)]


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
