"""The dataset itself: records with the ledger applied, one Parquet file a side, and the count of every row.

A file is named by its content, so the same decisions give the same file, and a state that is taken back gives the files
it had before, byte for byte.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.core.files import hash_file
from luthier.curate.example import SIDES, Example
from luthier.curate.folder import Dataset, View
from luthier.curate.report_rows import Row, rows_of
from luthier.data.records import Message

if TYPE_CHECKING:
    import pyarrow as pa

UNEXPLAINED = "not in the ledger"  # no row may ever be counted under this
T = TypeVar("T")


def _held(view: View, index: int) -> tuple[set[str], bool]:
    """The kinds of records in a batch, and whether one has tools; batch by batch, as a whole file may be large."""
    import pyarrow.compute as pc

    table = view.table(index, ("kind", "content"))
    tools = pc.any(pc.match_substring_regex(table["content"], '"(tools|tool_calls|name)":')).as_py()
    return set(table["kind"].unique().to_pylist()), bool(tools)


def _columns(dataset: Dataset, workers: int) -> tuple[str, ...]:
    """The columns this dataset needs: those that no record fills are left out."""
    kinds: set[str] = set()
    tools = False
    view = dataset.view
    batches = range(len(view.batches))
    for some, with_tools in dataset.run(partial(_held, view), batches, workers=workers if len(batches) > 1 else 1):
        kinds |= some
        tools |= with_tools
    steps = {made.step for made, _ in view.holding()}
    columns = ["id", "source", "messages"]
    columns += ["chosen", "rejected"] if "preference" in kinds else []
    columns += ["label"] if "labelled" in kinds else []
    columns += ["tools"] if tools else []
    columns += ["text"] if "text" in kinds else []
    columns += ["group", "category", "flags"]
    columns += ["repeats"] if "balance" in steps else []
    return (*columns, "meta")


def _schema(columns: tuple[str, ...]) -> "pa.Schema":
    import pyarrow as pa

    turn = [("role", pa.string()), ("content", pa.string())]
    if "tools" in columns:
        turn += [("tool_calls", pa.string()), ("name", pa.string())]
    turns = pa.list_(pa.struct(turn))
    types = {"messages": turns, "chosen": turns, "rejected": turns, "label": pa.bool_(), "repeats": pa.float64()}
    types["flags"] = pa.list_(pa.string())
    return pa.schema([(name, types.get(name, pa.string())) for name in columns])


def _values(examples: Sequence[Example], column: str, kind: "pa.DataType") -> Any:
    match column:
        case "messages" | "chosen" | "rejected":
            return _turns([getattr(example.record, column) for example in examples], kind)
        case "label" | "tools" | "text" | "group":
            return [getattr(example.record, column) for example in examples]
        case "flags":
            return [sorted(example.flags) for example in examples]
        case "meta":
            return [_json(example.record.meta) if example.record.meta else "{}" for example in examples]
        case _:
            return [getattr(example, column) for example in examples]


def _json(meta: Mapping[str, Any]) -> str:
    """Halves of surrogate pairs, which a column may hold and UTF-8 cannot, are written as escapes."""
    text = json.dumps(meta, sort_keys=True, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(meta, sort_keys=True)
    return text


def _turns(conversations: Sequence[tuple[Message, ...]], kind: "pa.DataType") -> "pa.Array":
    """Lists of turns; column by column, which takes a fifth of the time of one dictionary a turn."""
    import pyarrow as pa

    turns = [turn for conversation in conversations for turn in conversation]
    fields = list(kind.value_type)
    values = [
        [getattr(turn, field.name) for turn in turns]
        if field.name in ("role", "content")
        else [getattr(turn, field.name) or None for turn in turns]
        for field in fields
    ]
    inner = pa.StructArray.from_arrays([pa.array(column, pa.string()) for column in values], fields=fields)
    ends = pa.array([0, *accumulate(map(len, conversations))], pa.int32())
    return pa.ListArray.from_arrays(ends, inner, type=kind)


Batch = tuple[dict[str, "pa.Table"], Counter[str], int]


def _batch(columns: tuple[str, ...], rows: Sequence[Row]) -> Batch:
    """(a table for each side, rows by what became of them, edits that no longer apply)."""
    import pyarrow as pa

    sides: dict[str, list[Example]] = {side: [] for side in SIDES}
    counts: Counter[str] = Counter()
    for row in rows:
        if row.out is not None:
            counts[row.out.reason if row.decided else UNEXPLAINED] += 1
        else:
            sides[row.example.side or "train"].append(row.example)
    schema = _schema(columns)
    tables = {
        side: pa.table({field.name: _values(examples, field.name, field.type) for field in schema}, schema=schema)
        for side, examples in sides.items()
    }
    return tables, counts, sum(row.void for row in rows)


def _with(columns: tuple[str, ...], also: Callable[[Sequence[Row]], T], rows: Sequence[Row]) -> tuple[Batch, T]:
    return _batch(columns, rows), also(rows)


def _nothing(rows: Sequence[Row]) -> None:
    pass


def materialise(
    dataset: Dataset,
    *,
    workers: int = 1,
    also: Callable[[Sequence[Row]], T] = _nothing,
    found: Callable[[T], None] = _nothing,
) -> Mapping[str, Any]:
    """Write the files under data/ for the passes as they are, and return their part of the state.

    Checks that every row that was read is accounted for: used, or out with a reason.

    Args:
        also: picklable; called with the rows of each batch, so that whoever needs all of them too takes no walk of
            their own.
        found: called with what `also` returned, in the order of the batches.
    """
    import pyarrow.parquet as pq

    columns, folder = _columns(dataset, workers), dataset.path / "data"
    folder.mkdir(exist_ok=True)
    paths = {side: folder / f".{side}.parquet" for side in SIDES}
    writers = {side: pq.ParquetWriter(path, _schema(columns), compression="zstd") for side, path in paths.items()}
    used: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    void = 0
    walk = dataset.map_batches(rows_of, partial(_with, columns, also), workers, None)
    for (tables, counts, broken), more in walk:
        found(more)
        for side, table in tables.items():
            writers[side].write_table(table)
            used[side] += len(table)
        reasons += counts
        void += broken
    files = []
    for side, path in paths.items():
        writers[side].close()
        digest = hash_file(path)
        target = folder / f"{side}-{digest[:12]}.parquet"
        path.replace(target)
        if used[side]:
            name = target.relative_to(dataset.path).as_posix()
            files.append({"side": side, "file": name, "rows": used[side], "sha256": digest})
        else:
            target.unlink()
    rows_in = sum(item["rows"] for item in dataset.state["records"])
    assert rows_in == used.total() + reasons.total() and not reasons[UNEXPLAINED], (rows_in, used, reasons)
    return {
        "data": files,
        "counts": {"rows_in": rows_in, "used": dict(used), "out": dict(sorted(reasons.items())), "void_edits": void},
    }


def data_path(dataset: Dataset, side: str) -> Path | None:
    """The file of a side, or None when it has no rows."""
    return next((dataset.path / item["file"] for item in dataset.state["data"] if item["side"] == side), None)
