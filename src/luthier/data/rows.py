"""Records to training rows: rendered in batches, held to `sequence_len`, and kept for the next run.

Nothing disappears unseen: every record that is skipped and every row that is cut or dropped is counted by its reason.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from luthier.core.errors import DataError
from luthier.core.files import hash_json
from luthier.core.paths import cache_dir
from luthier.data.records import Record
from luthier.data.render import RENDER_VERSION, Renderer, Row
from luthier.data.row_cache import load_rows, save_rows

CUT = "cut to sequence_len"
TOO_LONG = "dropped: longer than sequence_len"
CUT_AWAY = "dropped: all trained tokens were cut away"
NOTHING = "dropped: nothing to predict"
SKIPPED = "skipped: "

_BATCH = 256  # records rendered in one go
_MAX_KEPT = 0.95  # the share of rows that a suggested sequence_len would leave whole

Progress = Callable[[int, int], None]  # records done, records in all


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows and how they came about.

    Attributes:
        rows: in the order of the records.
        counts: reason → number of records or rows that were skipped, cut, dropped or added to.
        notes: sentences for a person, about the cache.
        cached: the rows were read back, not rendered.
        seconds: what it took.
    """

    rows: list[Row]
    counts: Counter[str]
    notes: list[str]
    cached: bool
    seconds: float


def build_rows(
    records: Sequence[Record],
    renderer: Renderer,
    *,
    sequence_len: int,
    too_long: Literal["cut", "drop"] = "cut",
    counts: Counter[str],
    on_bad_row: Literal["stop", "skip"] = "stop",
    progress: Progress | None = None,
) -> list[Row]:
    """Render records and hold the rows to a length.

    Args:
        records: conversations and plain texts, in any mixture.
        renderer: tokenizer and template.
        sequence_len: longest row, in tokens.
        too_long: "cut" keeps the first `sequence_len` tokens of a longer row, "drop" leaves the row out.
        counts: what happened is added here.
        on_bad_row: "stop" raises the error of the first record that cannot be rendered, "skip" counts it.
        progress: called after every batch with the number of records done and of all.

    Raises:
        DataError: a record cannot be rendered, or no row with a trained token is left.
        ModelError: there are conversations and no template.
    """
    rows: list[Row] = []
    lengths: list[int] = []
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        for result in renderer.render_many(batch, counts):
            if not isinstance(result, DataError):
                lengths += [len(row.ids) for row in result]
                rows += [kept for row in result if (kept := _fit(row, sequence_len, too_long, counts)) is not None]
            elif on_bad_row == "stop":
                raise result
            else:
                counts[SKIPPED + result.what] += 1
        if progress is not None:
            progress(start + len(batch), len(records))
    if not rows:
        raise _nothing_left(lengths, sequence_len, len(records), counts)
    return rows


def load_or_build_rows(
    records: Sequence[Record],
    renderer: Renderer,
    *,
    sequence_len: int,
    too_long: Literal["cut", "drop"] = "cut",
    on_bad_row: Literal["stop", "skip"] = "stop",
    progress: Progress | None = None,
    cache: Path | None = None,
) -> RowSet:
    """`build_rows`, or the rows of an earlier call with the same contents, tokenizer, template and settings.

    A damaged cache entry is made anew and noted; so is a cache that cannot be written.

    Args:
        cache: folder of the cache; None is `core.paths.cache_dir()/rows`. The rest is as in `build_rows`.

    Raises:
        DataError, ModelError: as `build_rows`.
    """
    began = time.monotonic()
    key = rows_key(records, renderer, sequence_len=sequence_len, too_long=too_long, on_bad_row=on_bad_row)
    entry = (cache_dir() / "rows" if cache is None else cache) / key
    notes: list[str] = []
    found = load_rows(entry, records, notes)
    if found is not None:
        rows, counts = found
        if progress is not None:
            progress(len(records), len(records))
        return RowSet(rows, counts, notes, True, time.monotonic() - began)
    counts = Counter()
    rows = build_rows(
        records,
        renderer,
        sequence_len=sequence_len,
        too_long=too_long,
        counts=counts,
        on_bad_row=on_bad_row,
        progress=progress,
    )
    save_rows(entry, rows, records, counts, notes)
    return RowSet(rows, counts, notes, False, time.monotonic() - began)


def rows_key(
    records: Sequence[Record], renderer: Renderer, *, sequence_len: int, too_long: str, on_bad_row: str
) -> str:
    """Hash of all that decides the rows. Where a record was found and its group do not: they are not in the cache."""
    contents = [[record.text, *([message.role, message.content] for message in record.messages)] for record in records]
    return hash_json(
        [
            RENDER_VERSION,
            hash_json(contents),
            renderer.tokenizer.fingerprint,
            renderer.template.fingerprint if renderer.template else "",
            sequence_len,
            too_long,
            on_bad_row,
        ]
    )


def _fit(row: Row, sequence_len: int, too_long: str, counts: Counter[str]) -> Row | None:
    """The row within the length, None if it is dropped."""
    if not row.mask.any():
        counts[NOTHING] += 1
        return None
    if len(row.ids) <= sequence_len:
        return row
    if too_long == "drop":
        counts[TOO_LONG] += 1
        return None
    if not row.mask[:sequence_len].any():
        counts[CUT_AWAY] += 1
        return None
    counts[CUT] += 1
    return replace(row, ids=row.ids[:sequence_len].copy(), mask=row.mask[:sequence_len].copy())


def _nothing_left(lengths: list[int], sequence_len: int, records: int, counts: Counter[str]) -> DataError:
    if not lengths:
        reasons = "; ".join(f"{number} {reason}" for reason, number in counts.items())
        return DataError(f"none of the {records} records can be used" + (f" ({reasons})" if reasons else ""))
    enough = int(np.quantile(lengths, _MAX_KEPT, method="higher"))
    return DataError(
        f"nothing to train on: with sequence_len {sequence_len} no row keeps a trained token "
        f"(rows have {max(lengths):,} tokens at most, {int(np.median(lengths)):,} in the middle)",
        fix=f"sequence_len: {enough} would keep 95 % of the rows whole",
    )
