"""Examples as rows of another format, and files of them.

Nothing is flattened: every row that is made is read once more, and one that does not give the record it was made from
is left out and counted, as is one that the format has no place for.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.curate.convert_rows import TARGETS, CannotHold, row_of
from luthier.curate.convert_write import SUFFIXES, write_rows
from luthier.curate.example import Example
from luthier.curate.folder import QUARANTINED, Dataset, Stored
from luthier.curate.intake import read_sources
from luthier.data.formats import parse
from luthier.data.records import record_from_json

NOT_THE_SAME = "does not read back the same"


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of the rows; `rows_in == rows_out + unread.total() + left_out.total()`.

    Attributes:
        rows_in: rows found.
        rows_out: rows written.
        unread: reason → rows that no format fits.
        left_out: reason → rows that the target cannot hold.
        repaired: reason → rows changed and written.
        notes: sentences for a person.
    """

    rows_in: int
    rows_out: int
    unread: Mapping[str, int]
    left_out: Mapping[str, int]
    repaired: Mapping[str, int]
    notes: Sequence[str]


def target_of(name: str) -> str:
    """The target of this name; "-" may stand for "_".

    Raises:
        DataError: there is none; the nearest is suggested.
    """
    target = name.replace("-", "_")
    if target not in TARGETS:
        near = difflib.get_close_matches(target, TARGETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(TARGETS)}"
        raise DataError(f"unknown format {name!r}", fix=hint)
    return target


def convert(examples: Iterable[Example], to: str, left_out: Counter[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of the target format. Group, category and meta go along where an example has them.

    Args:
        examples: in the order the rows are wanted in.
        to: one of `TARGETS`.
        left_out: receives reason → examples that the target cannot hold.

    Raises:
        DataError: no such target.
    """
    target, counts = target_of(to), Counter[str]() if left_out is None else left_out
    return _rows(examples, target, counts)


def _rows(examples: Iterable[Example], to: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    format = TARGETS[to][1]
    for example in examples:
        record = example.record
        try:
            row = row_of(record, to)
            again, repairs = parse(row, format, record.where)
        except CannotHold as error:
            left_out[str(error)] += 1
            continue
        except DataError:
            left_out[NOT_THE_SAME] += 1
            continue
        if repairs or again.as_json() != record.as_json():
            left_out[NOT_THE_SAME] += 1
            continue
        more = {"group": record.group, "category": example.category, "meta": dict(record.meta)}
        yield row | {key: value for key, value in more.items() if value}


def convert_files(
    paths: Sequence[Path], out: Path, to: str, *, format: str = "auto", category: str | None = None
) -> Converted:
    """Read files and folders, and write all that the target can hold to one file.

    Args:
        paths, format, category: as for `read_sources`.
        out: .jsonl, .json or .parquet; written at once or not at all.
        to: one of `TARGETS`.

    Raises:
        DataError: as `read_sources`; an unknown target or suffix; or nothing is left to write.
    """
    intake = read_sources(paths, format=format, category=category)
    read: Counter[str] = Counter()
    made, left_out = _write(_examples(intake.rows, read), out, to)
    unread = Counter(entry.reason for entry in intake.entries if entry.action == "drop")
    repaired = Counter(reason for _, reason in {(entry.record, entry.reason) for entry in intake.entries})
    return Converted(read["rows"], made, unread, left_out, repaired - unread, intake.notes)


def convert_dataset(path: Path, out: Path, to: str, *, side: str | None = None) -> Converted:
    """Write what a dataset folder holds now, or one side of it, as `convert_files` does.

    Raises:
        DataError: no dataset folder; an unknown target or suffix; or nothing is left to write.
    """
    batches = Dataset(path).map(list)
    chosen = (example for batch in batches for example in batch if side in (None, example.side or "train"))
    read: Counter[str] = Counter()
    made, left_out = _write(_counted(chosen, read), out, to)
    return Converted(read["rows"], made, {}, left_out, {}, [])


def _examples(rows: Iterable[Stored], read: Counter[str]) -> Iterator[Example]:
    """Examples of stored rows, quarantined ones left out; all of them are counted in `read`."""
    for row in rows:
        read["rows"] += 1
        if row.kind != QUARANTINED:
            fields = {"where": row.where, "group": row.group, "meta": json.loads(row.meta)}
            record = record_from_json(json.loads(row.content), **fields)
            yield Example(row.id, record, row.source, row.category)


def _counted(examples: Iterable[Example], read: Counter[str]) -> Iterator[Example]:
    for example in examples:
        read["rows"] += 1
        yield example


def _write(examples: Iterable[Example], out: Path, to: str) -> tuple[int, Counter[str]]:
    if out.suffix.lower() not in SUFFIXES:
        raise DataError(f"unknown kind of file {out.suffix!r}", where=str(out), fix=f"known are {', '.join(SUFFIXES)}")
    left_out: Counter[str] = Counter()
    rows = convert(examples, to, left_out)
    first = next(rows, None)
    if first is None:
        reasons = ", ".join(f"{reason} ({number})" for reason, number in left_out.most_common()) or "no row was read"
        raise DataError(f"{to} can hold none of the rows: {reasons}", fix=f"choose another of {', '.join(TARGETS)}")
    return write_rows(out, chain([first], rows)), left_out
