"""Decisions that a person made in the report, as entries of the ledger.

The file that the page saves:

    {"format": 1, "kind": "luthier review", "dataset": "…", "records": 1, "passes": 9, "decisions": [
        {"id": "…", "action": "drop"}, {"id": "…", "action": "keep"},
        {"id": "…", "action": "edit", "field": "messages.1.content", "before": "…", "after": "…"}]}

"dataset" is the fingerprint of the first so many records files and passes, which is what the reviewer saw. Both only
ever grow, so it can be checked later, and a file that was made for another dataset is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.core.files import hash_file, hash_json
from luthier.curate.example import Entry, fields_of
from luthier.curate.fold import REVIEWED
from luthier.curate.folder import Dataset
from luthier.curate.report_rows import Row, fetch_rows

FORMAT: Final = 1
KIND: Final = "luthier review"
_HEAD: Final = {"format": int, "kind": str, "dataset": str, "records": int, "passes": int, "decisions": list}
_KEYS: Final = {
    "keep": {"id", "action"},
    "drop": {"id", "action"},
    "edit": {"id", "action", "field", "before", "after"},
}


def fingerprint(dataset: Dataset, *, records: int | None = None, passes: int | None = None) -> str:
    """16 hex digits of the dataset's first so many records files and passes; of all by default."""
    files = dataset.state["records"][:records]
    ledger = [[made.step, made.version, hash_file(dataset.path / made.file)] for made in dataset.passes[:passes]]
    return hash_json([[item["sha256"] for item in files], ledger])[:16]


def read_decisions(path: Path, dataset: Dataset) -> list[Entry]:
    """The entries of a review, with reason `REVIEWED`: edits first, then keeps and drops, each in the order of the ids.

    Raises:
        DataError: the file is damaged, or of another kind or dataset; an id is unknown; two decisions contradict each
            other; an edit does not fit the text as it is now, changes nothing, or is of a row that stays out.
    """
    found = _read(path)
    _check_dataset(found, path, dataset)
    decisions = [_checked(item, f"{path}: decision {number}") for number, item in enumerate(found["decisions"], 1)]
    if not decisions:
        raise DataError("no decisions", where=str(path), fix="mark rows in report.html, then save")
    _check_once(decisions, path)
    rows = fetch_rows(dataset, {item["id"] for item in decisions})
    if unknown := sorted({item["id"] for item in decisions} - rows.keys()):
        raise DataError(
            f"{len(unknown)} of the ids are not in this dataset, first {unknown[0]}",
            where=str(path),
            fix="save the decisions again from the report.html in this folder",
        )
    kept = {item["id"] for item in decisions if item["action"] == "keep"}
    for item in decisions:
        _check_fits(item, rows[item["id"]], kept, path)
    ordered = sorted(decisions, key=lambda item: (item["action"] != "edit", item["id"], item.get("field", "")))
    return [
        Entry(item["id"], item["action"], REVIEWED, **{key: item[key] for key in item.keys() - {"id", "action"}})
        for item in ordered
    ]


def _read(path: Path) -> dict[str, Any]:
    again = "save the decisions again from report.html"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a file of decisions: {error}", where=str(path), fix=again) from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise DataError("not a file of decisions", where=str(path), fix=again)
    if isinstance(found.get("format"), int) and found["format"] > FORMAT:
        raise DataError("written by a newer Luthier", where=str(path), fix="update luthier")
    wrong = sorted(found.keys() ^ _HEAD.keys())
    wrong += [key for key, kind in _HEAD.items() if key in found and type(found[key]) is not kind]
    if wrong or found["format"] != FORMAT or found["records"] < 0 or found["passes"] < 0:
        raise DataError(f"damaged: {', '.join(wrong) or 'its head'} is not as it should be", where=str(path), fix=again)
    return found


def _check_dataset(found: Mapping[str, Any], path: Path, dataset: Dataset) -> None:
    records, passes = found["records"], found["passes"]
    known = records <= len(dataset.state["records"]) and passes <= len(dataset.passes)
    if not known or found["dataset"] != fingerprint(dataset, records=records, passes=passes):
        raise DataError(
            "these decisions were made on another dataset, or on this one before it was made anew",
            where=str(path),
            fix=f"open {dataset.path / 'report.html'} and decide there",
        )


def _checked(item: Any, where: str) -> dict[str, str]:
    if not isinstance(item, dict) or item.get("action") not in list(_KEYS):
        known = ", ".join(_KEYS)
        raise DataError(f"not a decision: {_short(item)}", where=where, fix=f'"action" is one of {known}')
    expected = _KEYS[item["action"]]
    if item.keys() != expected or not all(isinstance(value, str) for value in item.values()):
        raise DataError(
            f"not a decision: {_short(item)}", where=where, fix=f"it has {', '.join(sorted(expected))}, as texts"
        )
    return item


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _check_once(decisions: list[dict[str, str]], path: Path) -> None:
    """Of each example at most one keep or drop, no edit of what is dropped, and one edit of a field."""
    seen: dict[tuple[str, str], str] = {}
    for item in decisions:
        key = (item["id"], item.get("field", ""))
        if (before := seen.get(key)) is not None:
            what = f"two decisions about {item['id']}"
            detail = f"field {item['field']}" if item["action"] == "edit" else f"{before} and {item['action']}"
            raise DataError(f"{what}: {detail}", where=str(path), fix="leave one of them")
        seen[key] = item["action"]
    for item in decisions:
        if item["action"] == "edit" and seen.get((item["id"], "")) == "drop":
            raise DataError(f"{item['id']} is both dropped and edited", where=str(path), fix="leave one of them")


def _check_fits(item: Mapping[str, str], row: Row, kept: set[str], path: Path) -> None:
    name = item["id"]
    if row.example is None:
        raise DataError(
            f"{name} could not be read and cannot be decided about",
            where=str(path),
            fix=f"correct it in its file ({row.stored.where}) and read that again",
        )
    if item["action"] != "edit":
        return
    if row.out is not None and name not in kept:
        raise DataError(
            f"{name} is edited but not in the dataset ({row.out.reason})", where=str(path), fix="keep it as well"
        )
    texts = {field: text for field, text, _ in fields_of(row.example.record)}
    if item["field"] not in texts:
        raise DataError(
            f"{name} has no text {_short(item['field'])}", where=str(path), fix=f"it has {', '.join(texts)}"
        )
    now = texts[item["field"]]
    if now != item["before"]:
        raise DataError(
            f"{item['field']} of {name} is no longer the text that was edited",
            where=str(path),
            fix="open report.html again, it shows the text as it is now",
        )
    if now == item["after"]:
        raise DataError(f"the edit of {item['field']} of {name} changes nothing", where=str(path), fix="leave it out")
