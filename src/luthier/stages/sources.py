"""The records of a recipe's datasets, and which of them are held out.

A plain file is split by `val_set_size`. A dataset folder brings its own sides, and they win; one without a validation
side is split like a plain file. Where both stand in a recipe, validation is what each of them holds out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from luthier.core.errors import DataError
from luthier.data.dataset_folder import is_dataset_folder, read_sides, repeated
from luthier.data.read import read_records, reason_of, untrainable
from luthier.data.records import Record
from luthier.data.split import split
from luthier.recipe import Dataset, Recipe
from luthier.stages.accounts import Accounts

REPEATED = "repeated within an epoch, as the dataset folder says"
NOT_REPEATED = "not in the share that its repeats leave"
UNUSED = "held out by the dataset folder, but val_datasets is what is validated on"


@dataclass
class _Read:
    """`loose` have no side yet; `train` has a record as often as an epoch uses it."""

    loose: list[Record] = field(default_factory=list)
    train: list[Record] = field(default_factory=list)
    validation: list[Record] = field(default_factory=list)


def read_sources(recipe: Recipe, accounts: Accounts) -> tuple[list[Record], list[Record]]:
    """(records to train on, records to validate on).

    Raises:
        DataError: a file cannot be read, or nothing could be held out although it should.
    """
    read = _read(recipe.datasets, recipe, accounts)
    if recipe.val_datasets:
        given = _read(recipe.val_datasets, recipe, accounts)
        if read.validation:
            accounts.dropped[UNUSED] += len(read.validation)
        return read.loose + read.train, given.validation or given.loose + given.train
    train, validation = split(read.loose, val_set_size=recipe.val_set_size, seed=recipe.seed)
    if recipe.val_set_size > 0 and not read.validation and not validation:
        raise DataError(
            "the validation set is empty: all records belong to one group, and a group is never split",
            where=recipe.datasets[0].path,
            fix="give validation data with val_datasets, or set val_set_size: 0 to train without",
        )
    if read.validation and "val_set_size" in recipe.model_fields_set:
        what = "only to the other files" if read.loose else "to nothing"
        accounts.notes.append(f"a dataset folder has its own validation side: val_set_size applies {what}")
    return train + read.train, validation + read.validation


def _read(datasets: Sequence[Dataset], recipe: Recipe, accounts: Accounts) -> _Read:
    read = _Read()
    for dataset in datasets:
        if is_dataset_folder(Path(dataset.path)):
            _read_folder(dataset, recipe, accounts, read)
            continue
        result = read_records(Path(dataset.path), format=dataset.type, on_bad_row=recipe.on_bad_row)
        read.loose += result.records
        accounts.rows_in += result.rows_in
        accounts.dropped += result.dropped
        accounts.changed += result.repaired
        accounts.notes += result.notes
        accounts.sources.append(
            {"path": dataset.path, "format": result.format, "why": result.why, "rows": result.rows_in}
        )
    return read


def _read_folder(dataset: Dataset, recipe: Recipe, accounts: Accounts, read: _Read) -> None:
    if dataset.type != "auto":
        raise DataError(f"a dataset folder has no type {dataset.type}", where=dataset.path, fix="remove the type")
    sides = read_sides(Path(dataset.path))
    rows = len(sides.train) + len(sides.validation)
    if not rows:
        raise DataError("the dataset folder has no record left", where=dataset.path, fix="see its report.html")
    refused: Counter[str] = Counter()
    train, repeats = [], []
    for record, times in zip(sides.train, sides.repeats, strict=True):
        if _usable(record, recipe, refused):
            train.append(record)
            repeats.append(times)
    validation = [record for record in sides.validation if _usable(record, recipe, refused)]
    used = repeated(train, repeats, seed=recipe.seed)
    without = len(train) - len({id(record) for record in used})
    accounts.rows_in += rows
    accounts.dropped += refused + Counter({NOT_REPEATED: without})
    accounts.changed += Counter({REPEATED: len(used) - (len(train) - without)})
    why = f"dataset folder: {len(sides.train):,} rows of training, {len(sides.validation):,} of validation"
    accounts.sources.append({"path": dataset.path, "format": "dataset folder", "why": why, "rows": rows})
    if sides.validation:
        read.train += used
        read.validation += validation
    else:
        read.loose += used


def _usable(record: Record, recipe: Recipe, refused: Counter[str]) -> bool:
    refusal = untrainable(record)
    if refusal is None:
        return True
    if recipe.on_bad_row == "stop":
        raise refusal
    refused[reason_of(refusal)] += 1
    return False
