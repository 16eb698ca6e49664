"""A small dataset folder with decisions of every kind, made row by row."""

import json
from collections.abc import Sequence
from pathlib import Path

from luthier.core.files import canonical_json
from luthier.curate.example import Entry
from luthier.curate.folder import QUARANTINED, Dataset, Stored, create, example_id
from luthier.data.records import Message, Record

EVIL = "</script><script>alert('x')</script>\"><img src=x onerror=alert(1)><!-- \u2028 & {{ 7*7 }}"


def stored(prompt: str, answer: str, *, source: str = "a.jsonl", line: int = 1, category: str = "") -> Stored:
    """A conversation of two turns as a stored row."""
    content = canonical_json(Record(messages=(Message("user", prompt), Message("assistant", answer))).as_json())
    where = f"{source}:{line}"
    return Stored(example_id(content, source, line), source, where, "conversation", content, category=category)


def unreadable(line: str, *, source: str = "a.jsonl", number: int = 1) -> Stored:
    """A row that no format fits."""
    content = canonical_json({"line": line})
    return Stored(example_id(content, source, number), source, f"{source}:{number}", QUARANTINED, content)


def answer_of(row: Stored) -> str:
    """The assistant's turn."""
    return json.loads(row.content)["messages"][1]["content"]


def dataset_of(path: Path, rows: Sequence[Stored], passes: Sequence[tuple[str, dict, Sequence[Entry]]] = ()) -> Dataset:
    """A folder at `path` with these rows and passes (step, parameters, entries)."""
    path.mkdir()
    names = sorted({row.source for row in rows})
    sources = [{"name": name, "sha256": "0" * 64, "rows": sum(row.source == name for row in rows)} for name in names]
    dataset = create(path, rows, sources, "0.0.0")
    for step, parameters, entries in passes:
        dataset.add(step, 1, parameters, entries)
    return dataset


def mixed(path: Path) -> tuple[Dataset, list[Stored]]:
    """20 rows and one unreadable: 3 dropped, 1 a duplicate, 2 changed, 1 flagged, 1 kept against a drop; 16 split."""
    rows = [
        stored(f"Question number {n}?", f"Answer {n} in some words.", line=n, source="ab"[n % 2] + ".jsonl",
               category="code" if n < 5 else "prose")
        for n in range(20)
    ]  # fmt: skip
    bad = unreadable('{"broken', number=99)
    ids = [row.id for row in rows]
    field = "messages.1.content"
    passes: list[tuple[str, dict, Sequence[Entry]]] = [
        ("read", {"format": "auto"}, [Entry(bad.id, "drop", "not JSON", detail="line ends early")]),
        ("repair", {}, [
            Entry(ids[5], "edit", "mojibake", field, before=answer_of(rows[5]), after="Answer 5, mended."),
            Entry(ids[6], "edit", "control characters", field, before=answer_of(rows[6]), after="Answer\u200b 6."),
        ]),
        ("defects", {}, [
            Entry(ids[0], "drop", "empty answer"),
            Entry(ids[1], "drop", "truncated", field, 0, 6, detail="ends early"),
            Entry(ids[2], "drop", "truncated"),
            Entry(ids[7], "flag", "asks for what text cannot do", "messages.0.content", 0, 8),
            Entry(ids[8], "drop", "truncated"),
            Entry(ids[9], "flag", "odd"),
        ]),
        ("dedup", {"kind": "near"}, [Entry(ids[9], "duplicate", "near duplicate", score=0.9, counterpart=ids[10])]),
        ("review", {}, [Entry(ids[8], "keep", "reviewed")]),
        ("split", {"val_size": 0.2}, [
            Entry(name, "split", "group", after="validation" if n % 4 == 0 else "train")
            for n, name in enumerate(ids[3:9] + ids[10:])
        ]),
    ]  # fmt: skip
    return dataset_of(path, [*rows, bad], passes), [*rows, bad]
