"""A dataset folder: what was read, what was decided, and what follows from both.

    dataset.json              the state: which files belong to it, with hashes; written last, so it decides
    records/0001.parquet      what was read, row by row, unusable rows included; never changed
    ledger/0002-repair.parquet    one pass of a step; never changed (`ledger.py`)
    data/train-<hash>.parquet     the dataset itself: records with the ledger applied (`materialise.py`)
    README.md, report.html    for people

A process that is killed leaves files that dataset.json does not name; the next writer removes them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from luthier.core.errors import DataError
from luthier.core.files import hash_file, read_json, write_json
from luthier.curate.example import LEAVES, Entry, Example
from luthier.curate.fold import fold, outcome
from luthier.curate.ledger import UNDO, facts, read_batch, read_pass, to_entries, to_table, write_pass
from luthier.curate.said import settings, unsaid
from luthier.curate.stored import COLUMNS, QUARANTINED, Stored, record_of, tables_of, write_records
from luthier.curate.stored import example_id as example_id
from luthier.curate.workers import open_pool, ordered
from luthier.data.dataset_folder import FORMAT, STATE, is_dataset_folder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

READ = "read"  # the step that reads files: a pass for each time
BATCH = 2048  # records of a row group, which is what a worker gets at a time
T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of a step over the dataset: ledger file `number`."""

    number: int
    step: str
    version: int
    parameters: Mapping[str, Any]

    @property
    def file(self) -> str:
        """Its path inside the folder."""
        return f"ledger/{self.number:04}-{self.step}.parquet"


@dataclass(frozen=True, slots=True)
class Folded:
    """An example after all passes, or a quarantined row (`example` is None then); `out` is what takes it out."""

    stored: Stored
    example: Example | None
    out: Entry | None
    void: int


@dataclass(frozen=True, slots=True)
class Since:
    """What was said after a certain pass: ids (n,) bytes, of examples marked for review, and of those taken out."""

    flagged: np.ndarray
    out: np.ndarray


def places_in(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where these ids are among all, which are sorted; those that are not there are left out."""
    places = np.searchsorted(ids, wanted)
    places[places == len(ids)] = 0
    return places[ids[places] == wanted] if len(ids) else places[:0]


@dataclass(frozen=True)
class View:
    """What a worker needs to make a batch: the folder's files as of now. `batches[i]` is (records file, row group)."""

    path: Path
    passes: tuple[Pass, ...]
    batches: tuple[tuple[str, int], ...]

    def _table(self, made: Pass) -> "pa.Table":
        return read_pass(self.path / made.file)

    def retracted(self) -> dict[int, set[str] | None]:
        """Pass number → the records it is taken back for, or None for all."""
        gone: dict[int, set[str] | None] = {}
        for made in self.passes:
            if made.step == UNDO:
                for entry in to_entries(self._table(made)):
                    number = int(entry.counterpart)
                    if not entry.record:
                        gone[number] = None
                    elif gone.get(number, set()) is not None:
                        gone.setdefault(number, set()).add(entry.record)
        return gone

    def holding(self) -> list[tuple[Pass, set[str]]]:
        """The passes that were not taken back as a whole, each with the records that it was taken back for."""
        gone = self.retracted()
        kept = [(made, gone.get(made.number, set())) for made in self.passes if made.step != UNDO]
        return [(made, without) for made, without in kept if without is not None]

    def entries(
        self, index: int | None, *, records: Collection[str] | None = None, actions: Collection[str] | None = None
    ) -> dict[str, list[tuple[int, Entry]]]:
        """What holds for each example of batch `index`, with the number of its pass, in order; nothing taken back.

        Of all batches where `index` is None.

        Args:
            records, actions: only entries about these examples, or of these actions; the others are not even made.
        """
        found: dict[str, list[tuple[int, Entry]]] = {}
        for made, without in self.holding():
            path = self.path / made.file
            table = read_pass(path) if index is None else read_batch(path, index)
            for entry in to_entries(_only(table, record=records, action=actions)):
                if entry.record not in without:
                    found.setdefault(entry.record, []).append((made.number, entry))
        return found

    def table(self, index: int, columns: Sequence[str] = COLUMNS) -> "pa.Table":
        """These columns of batch `index` as it was read."""
        name, group = self.batches[index]
        return _open(self.path / name).read_row_group(group, columns=list(columns))

    def stored(self, index: int, *, records: Collection[str] | None = None) -> list[Stored]:
        """Batch `index` as it was read, or those of its rows that have these ids."""
        table = _only(self.table(index), id=records)
        columns = [table.column(column).to_pylist() for column in COLUMNS]
        return [Stored(*values) for values in zip(*columns, strict=True)]

    def folded(self, index: int, *, only: str | None = None) -> list[Folded]:
        """Batch `index`, every row of it (or the one with the id `only`), after all passes."""
        wanted = None if only is None else [only]
        entries = self.entries(index, records=wanted)
        made = []
        for row in self.stored(index, records=wanted):
            decided = [entry for _, entry in entries.get(row.id, ())]
            if row.kind == QUARANTINED:
                made.append(Folded(row, None, decided[0] if decided else None, 0))
                continue
            example = Example(row.id, record_of(row), row.source, row.category)
            made.append(Folded(row, *fold(example, decided)))
        return made

    def examples(self, index: int) -> list[Example]:
        """Batch `index`, only what is in the dataset."""
        entries = self.entries(index)
        made = []
        for row in self.stored(index):
            decided = [entry for _, entry in entries.get(row.id, ())]
            if row.kind != QUARANTINED and outcome(decided) is None:  # what is out is not parsed
                made.append(fold(Example(row.id, record_of(row), row.source, row.category), decided)[0])
        return made


def _only(table: "pa.Table", **wanted: Collection[str] | None) -> "pa.Table":
    """The rows in which each of these columns has one of these values; None is any."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for column, values in wanted.items():
        if values is not None:
            table = table.filter(pc.is_in(table[column], value_set=pa.array(sorted(values), pa.string())))
    return table


def _open(path: Path) -> "pq.ParquetFile":
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, metadata=_metadata(path, *facts(path)))


@lru_cache(maxsize=16)  # every batch of a file would read the description of all of them again
def _metadata(path: Path, changed: int, size: int) -> "pq.FileMetaData":
    import pyarrow.parquet as pq

    return pq.read_metadata(path)


def _call(view: View, make: Callable[[View, int], list[Any]], function: Callable[[list[Any]], T], index: int) -> T:
    return function(make(view, index))


class Dataset:
    """A dataset folder that is being worked on. `add` writes passes, `commit` makes them part of the dataset."""

    def __init__(self, path: Path) -> None:
        """Open a folder.

        Raises:
            DataError: it is no dataset folder, is damaged, or was written by a newer Luthier.
        """
        self.path = path
        self._pool: ProcessPoolExecutor | None = None
        self._places: tuple[np.ndarray, np.ndarray] | None = None  # all ids, sorted, and the batch of each
        if not is_dataset_folder(path):
            raise DataError("no dataset folder", where=str(path), fix="make one with `luthier data clean FILES --out`")
        try:
            self.state: dict[str, Any] = read_json(path / STATE)
            self.passes = [Pass(**{name: item[name] for name in Pass.__slots__}) for item in self.state["passes"]]
            newer = self.state["format"] > FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"damaged: {error}", where=str(path / STATE), fix="restore it from a backup") from None
        if newer:
            raise DataError("written by a newer Luthier", where=str(path), fix="update luthier")

    @property
    def view(self) -> View:
        """The dataset as it stands, added passes included."""
        batches = tuple((item["file"], group) for item in self.state["records"] for group in range(item["batches"]))
        return View(self.path, tuple(self.passes), batches)

    def since(self, number: int) -> Since:
        """What the passes behind the first `number` say, none of which may edit, or put on sides."""
        import pyarrow as pa
        import pyarrow.compute as pc

        said: dict[str, set[str]] = {"flag": set(), "out": set()}
        for made in self.passes[number:]:
            table = read_pass(self.path / made.file)
            assert set(table["action"].unique().to_pylist()) <= {"flag", *LEAVES}, made
            for kind, actions in (("flag", ["flag"]), ("out", LEAVES)):
                rows = table.filter(pc.is_in(table["action"], value_set=pa.array(actions)))
                said[kind].update(rows["record"].to_pylist())
        return Since(*(np.array(sorted(ids) or [""], np.bytes_) for ids in said.values()))

    def ids(self) -> Iterator[str]:
        """The ids of all rows that were ever read."""
        import pyarrow.parquet as pq

        for item in self.state["records"]:
            yield from pq.read_table(self.path / item["file"], columns=["id"])["id"].to_pylist()

    def map(
        self, function: Callable[[list[Example]], T], *, workers: int = 1, files: Collection[str] | None = None
    ) -> Iterator[T]:
        """Call a picklable function with every batch's examples; results come in order, whatever the workers.

        Args:
            files: only batches of these records files; None is all of them.
        """
        return self.map_batches(View.examples, function, workers, files)

    def map_folded(self, function: Callable[[list[Folded]], T], *, workers: int = 1) -> Iterator[T]:
        """As `map`, with every row that was ever read and what became of it."""
        return self.map_batches(View.folded, function, workers, None)

    def categories(self) -> dict[str, str]:
        """Example → category, of all that is in the dataset; without reading what the examples say."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        made: dict[str, str] = {}
        for item in self.state["records"]:
            table = pq.read_table(self.path / item["file"], columns=["id", "kind", "category"])
            table = table.filter(pc.not_equal(table["kind"], QUARANTINED))
            made.update(zip(table["id"].to_pylist(), table["category"].to_pylist(), strict=True))
        for key, found in self.view.entries(None, actions=(*LEAVES, "keep", "category")).items():
            entries = [entry for _, entry in found]
            if outcome(entries) is not None:
                made.pop(key, None)
            elif key in made:
                made[key] = next((e.after for e in reversed(entries) if e.action == "category"), made[key])
        return made

    def map_batches(
        self,
        make: Callable[[View, int], list[Any]],
        function: Callable[[list[Any]], T],
        workers: int,
        files: Collection[str] | None,
    ) -> Iterator[T]:
        """Call a picklable function with what `make` makes of the view and each batch's number; as `map` otherwise."""
        view = self.view
        call = partial(_call, view, make, function)
        indices = [index for index, (file, _) in enumerate(view.batches) if files is None or file in files]
        yield from self.run(call, indices, workers=workers if len(indices) > 1 else 1)

    def run(self, function: Callable[[Item], T], items: Iterable[Item], *, workers: int = 1) -> Iterator[T]:
        """A picklable function of each item, in order, in this object's workers; they are kept until `close`."""
        if workers > 1 and self._pool is None:
            self._pool = open_pool(workers)
        return ordered(self._pool if workers > 1 else None, function, items, workers)

    def close(self) -> None:
        """End the worker processes. The folder may be used again; they are then started again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def add(
        self, step: str, version: int, parameters: Mapping[str, Any], entries: "Sequence[Entry] | pa.Table"
    ) -> Pass | None:
        """Write a pass. It counts for this object at once, and for the folder with `commit`.

        What the step has said before, and what holds, is not said again (`said.unsaid`). Where nothing is left to say
        and the step was run with these settings before, there is no pass. A table of entries is taken as it is.
        """
        before = [(made, without) for made, without in self.view.holding() if made.step == step]
        if isinstance(entries, Sequence):
            said = [(read_pass(self.path / made.file), without) for made, without in before]
            entries = to_table(unsaid(said, entries))
        ran = [(made.version, settings(made.parameters)) for made, _ in before]
        if not len(entries) and step != READ and (version, settings(parameters)) in ran:
            return None
        made = Pass(len(self.passes) + 1, step, version, dict(parameters))
        (self.path / made.file).parent.mkdir(exist_ok=True)
        write_pass(self.path / made.file, entries, self._batches_of(entries["record"]))
        self.passes.append(made)
        return made

    def _batches_of(self, records: "pa.ChunkedArray") -> np.ndarray:
        """(n,) int32, the batch of each of these ids; −1 for ""."""
        if self._places is None:
            view, ids, batches = self.view, [], []
            for index in range(len(view.batches)):
                column = view.table(index, ["id"])["id"]
                ids.append(np.array(column.to_pylist(), "S"))
                batches.append(np.full(len(column), index, np.int32))
            every, index = (
                np.concatenate([np.zeros(1, "S1"), *ids]),
                np.concatenate([np.full(1, -1, np.int32), *batches]),
            )
            order = np.argsort(every, kind="stable")
            self._places = every[order], index[order]
        names, index = self._places
        wanted = np.array(records.to_pylist() or [""], "S")[: len(records)]
        found = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        assert np.array_equal(names[found], wanted), "an entry about no record of the dataset"
        return index[found]

    def commit(self, data: Mapping[str, Any]) -> None:
        """Make the passes part of the folder. `data` goes into the state: the files under data/ and the counts."""
        passes = [
            {name: getattr(made, name) for name in Pass.__slots__} | {"sha256": hash_file(self.path / made.file)}
            for made in self.passes
        ]
        self.state = self.state | {"passes": passes} | data
        write_json(self.path / STATE, self.state)

    def add_records(self, rows: Iterable[Stored], sources: Sequence[Mapping[str, Any]]) -> str:
        """Write a further records file. Like a pass it counts for the folder with `commit`. Returns its name."""
        return self.add_tables(tables_of(rows, BATCH), sources)

    def add_tables(self, tables: Iterable["pa.Table"], sources: Sequence[Mapping[str, Any]]) -> str:
        """As `add_records`, of tables with the columns of `Stored`, of any lengths."""
        name = f"records/{len(self.state['records']) + 1:04}.parquet"
        self._places = None
        number, batches = write_records(self.path / name, tables, BATCH)
        item = {"file": name, "sha256": hash_file(self.path / name), "rows": number, "batches": batches}
        self.state = self.state | {
            "records": [*self.state["records"], item], "sources": [*self.state["sources"], *sources],
        }  # fmt: skip
        return name

    def remove_strays(self) -> None:
        """Delete what an interrupted writer left behind: files in our folders that the state does not name."""
        named = {item["file"] for key in ("records", "data") for item in self.state.get(key, ())}
        named |= {made.file for made in self.passes}
        for folder in ("records", "ledger", "data"):
            for file in (self.path / folder).glob("*"):
                if file.relative_to(self.path).as_posix() not in named:
                    file.unlink()


def start(path: Path, version: str) -> Dataset:
    """A new folder without records at `path`, which exists and is empty, made by this version of Luthier."""
    (path / "records").mkdir()
    state = {"format": FORMAT, "luthier": version, "sources": [], "records": [], "passes": [], "data": []}
    write_json(path / STATE, state)
    return Dataset(path)


def create(path: Path, rows: Iterable[Stored], sources: Sequence[Mapping[str, Any]], version: str) -> Dataset:
    """Write the records of a new folder at `path`, which exists and is empty, and open it.

    Args:
        rows: in the order in which they will stay.
        sources: name, sha256 and number of rows of each file that was read.
        version: of Luthier.
    """
    dataset = start(path, version)
    dataset.add_records(rows, sources)
    return dataset
