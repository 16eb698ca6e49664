"""Whatever a row or a file holds: it becomes a record or an error of ours with its reason, and no row is lost."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_records import FAST, ODD_ROW, records
from luthier.core.errors import DataError
from luthier.data.formats import FORMATS, READABLE, detect, ignored_keys, leftovers, parse, reason_of
from luthier.data.read import read_records
from luthier.data.records import KINDS, Record, record_from_json


@settings(FAST, max_examples=300)
@given(ODD_ROW, st.sampled_from(("auto", *READABLE)))
def test_any_row_is_a_record_or_an_error_with_a_reason(row: dict[str, Any], format: str) -> None:
    try:
        told = detect(row)[0] if format == "auto" else format
        record, repairs = parse(row, told, "f:1")
    except DataError as error:
        assert reason_of(error)
        assert ":" not in reason_of(error)
        return
    assert record.kind in KINDS
    json.dumps(record.as_json(), ensure_ascii=False).encode("utf-8")
    assert all(repair.reason for repair in repairs)
    assert set(leftovers(row, told)) - {"turns"} <= set(row)
    assert {key for key in ignored_keys(row, told) if not key.startswith("turn.")} <= set(row)
    if record.kind != "text":
        assert record.messages[0].role in ("system", "user")
        assert (record.messages + record.chosen)[-1].role == "assistant"


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_what_its_json_says(kind: str) -> None:
    @FAST
    @given(records(kind))
    def check(record: Record) -> None:
        assert record.kind == kind
        assert (
            record_from_json(json.loads(json.dumps(record.as_json())), group=record.group, meta=record.meta) == record
        )

    check()


LINE = (
    st.binary(max_size=40).filter(lambda line: b"\n" not in line)
    | ODD_ROW.map(lambda row: json.dumps(row).encode())
    | st.just(json.dumps({"prompt": "a", "completion": "b"}).encode())
)


@FAST
@given(st.lists(LINE, min_size=1, max_size=8), st.sampled_from(("auto", *FORMATS)))
def test_reading_for_training_accounts_for_every_line(lines: list[bytes], format: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(b"\n".join(lines) + b"\n")
        try:
            result = read_records(path, format=format, on_bad_row="skip")
        except DataError as error:
            assert folder in error.where
            return
        assert result.rows_in == len(result.records) + sum(result.dropped.values())
        assert result.rows_in <= len(lines)
        assert not any(record.tools or record.chosen or record.label is not None for record in result.records)
        assert Counter(record.kind for record in result.records).keys() <= {"conversation", "text"}
