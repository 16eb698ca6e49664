"""Instruction records from installed Python packages: what a code base says about itself in its docstrings.

Four kinds of question are asked: what an object does ("explain"), which object does something ("which"), what an
argument means ("argument"), and how a definition line goes on ("signature"). Nothing is drawn at random: which words
ask, and what is taken of the standard library, is decided by hashes of names.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from luthier.core.files import hash_bytes, write_text
from luthier.data.from_python_docs import first_sentence, points_elsewhere
from luthier.data.from_python_names import owner
from luthier.data.from_python_rows import pick, questions
from luthier.data.from_python_source import PyModule, PyObject, find_modules, read_objects, stdlib_modules

# The standard library gives more than anybody wants to train on for an example: one question an object, picked by
# hash, and a limit a module, so that no module outweighs the others.
STDLIB: Final = "stdlib"
STDLIB_MODULE_LIMIT: Final = 45
_STDLIB_SHARES: Final = {"explain": 5, "which": 2, "signature": 2, "argument": 5}  # where an object has all kinds


@dataclass(frozen=True, slots=True)
class FromPythonResult:
    """What was made.

    Attributes:
        records: rows in the "messages" format, each with "group" (its module) and "meta" (kind, module, name, file,
            line, package, version, source_hash).
        counts: reason → what was left out or cut.
    """

    records: list[dict[str, Any]]
    counts: Counter[str]


def records_from_python(modules: Sequence[str]) -> FromPythonResult:
    """Records about modules, named as they are imported, submodules included; "stdlib" is the standard library.

    The modules are read, not run; only compiled ones of Python itself (math) are imported. A row's group is its
    module, so that a split holds out whole modules.

    Raises:
        DataError: a module is not installed, or has no source.
    """
    counts: Counter[str] = Counter()
    found: dict[str, tuple[PyModule, bool]] = {}  # name → module, and whether it came with "stdlib"
    for name in modules:
        for top in stdlib_modules() if name == STDLIB else [name]:
            for module in find_modules(top, counts):
                known = found.get(module.name, (module, True))
                found[module.name] = (module, known[1] and name == STDLIB)
    seen: set[str] = set()
    records: list[dict[str, Any]] = []
    for name in sorted(found):
        module, thin = found[name]
        rows = _module_rows(_usable(read_objects(module, counts), seen, counts), counts, thin=thin)
        if thin and len(rows) > STDLIB_MODULE_LIMIT:
            over = f"over {STDLIB_MODULE_LIMIT} records of one standard library module"
            counts[over] += len(rows) - STDLIB_MODULE_LIMIT
            kept = set(sorted(range(len(rows)), key=lambda index: _rank(rows[index]))[:STDLIB_MODULE_LIMIT])
            rows = [row for index, row in enumerate(rows) if index in kept]
        records += rows
    return FromPythonResult(records, +counts)


def _rank(row: dict[str, Any]) -> str:
    return hash_bytes(row["meta"]["kind"].encode(), row["meta"]["name"].encode())


def _usable(items: Iterable[PyObject], seen: set[str], counts: Counter[str]) -> list[PyObject]:
    """The objects with a docstring worth asking about; `seen` holds the docstrings met in this run."""
    kept = []
    for item in items:
        words = " ".join(item.doc.split())
        if len(words) < 20 or len(words.split()) < 3:
            counts["docstring of a word or two"] += 1
        elif item.doc.startswith(">>>"):
            counts["docstring that is only a doctest"] += 1
        elif points_elsewhere(item.doc):
            counts["docstring that only points elsewhere"] += 1
        elif words in seen:
            counts["docstring seen before"] += 1
        elif "\0" in words or any("\ud800" <= letter <= "\udfff" for letter in words):
            counts["docstring with characters that are not text"] += 1
        else:
            kept.append(item)
            seen.add(words)
    return kept


def _module_rows(items: Sequence[PyObject], counts: Counter[str], *, thin: bool) -> list[dict[str, Any]]:
    if not items:
        return []
    package, version = owner(items[0].module.partition(".")[0])
    sentences = Counter((item.module, first_sentence(item.doc)) for item in items)
    rows = []
    for item in items:
        of_item = [
            {
                "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
                "group": item.module,
                "meta": {
                    "kind": kind,
                    "module": item.module,
                    "name": item.name,
                    "file": item.file,
                    "line": item.line,
                    "package": package,
                    "version": version,
                    "source_hash": item.source_hash,
                },
            }
            for kind, question, answer in questions(item, sentences, counts)
        ]
        if thin and len(of_item) > 1:
            counts["not asked: one question about each object of the standard library"] += len(of_item) - 1
            of_item = [_one_of(of_item)]
        rows += of_item
    return rows


def _one_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row about an object: first its kind by shares, then the row of that kind, both by hash."""
    kinds = sorted({row["meta"]["kind"] for row in rows})
    weighted = [kind for kind in kinds for _ in range(_STDLIB_SHARES[kind])]
    name = rows[0]["meta"]["name"]
    kind = pick(weighted, "kind", name)
    return pick([row for row in rows if row["meta"]["kind"] == kind], "row", name)


def write_jsonl(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write rows as JSON lines, all of them or, if something fails, none."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
