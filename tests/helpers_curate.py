"""Small dataset folders without files to read: records in, a folder out."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from luthier.core.files import canonical_json
from luthier.curate.example import Example
from luthier.curate.folder import Dataset, Stored, create, example_id
from luthier.data.records import Message, Record


def talk(question: str, answer: str, **fields: object) -> Record:
    """One round."""
    return Record((Message("user", question), Message("assistant", answer)), **fields)


def stored(records: Sequence[Record], *, source: str = "rows.jsonl", category: str = "") -> list[Stored]:
    """Records as rows of a folder, with the ids that reading them from `source` gives."""
    copies: Counter[str] = Counter()
    rows = []
    for number, record in enumerate(records, 1):
        content = canonical_json(record.as_json())
        row_id = example_id(content, source, copies[content])
        copies[content] += 1
        where = record.where or f"{source}:{number}"
        meta = canonical_json(dict(record.meta))
        rows.append(Stored(row_id, source, where, record.kind, content, record.group, category, meta))
    return rows


def make_dataset(path: Path, rows: Sequence[Stored | Record]) -> Dataset:
    """A folder at `path` that has read these rows and decided nothing."""
    path.mkdir(parents=True)
    plain = [row for row in rows if isinstance(row, Record)]
    assert not plain or len(plain) == len(rows)
    made = create(path, stored(plain) if plain else rows, [], "0")
    made.add("read", 1, {}, [])
    return made


def examples(records: Sequence[Record]) -> list[Example]:
    """Records as examples of one source."""
    return [
        Example(row.id, record, row.source, row.category) for row, record in zip(stored(records), records, strict=True)
    ]
