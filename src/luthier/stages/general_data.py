"""The user's general texts: read like other data, and kept apart from what is trained on and measured."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from luthier.core.errors import DataError
from luthier.core.files import hash_json
from luthier.curate.leaks import VALIDATION, find_leaks, held_out
from luthier.curate.leaks_items import read_items
from luthier.data.records import Record
from luthier.data.split import Key, fraction, key_of
from luthier.recipe import Recipe
from luthier.stages.accounts import Accounts
from luthier.stages.sources import _read

MAX_PROBE, MAX_REPLAY = 128, 4096  # records; a small general set is enough to replay
SHARE = 3  # one of so many is held out
TRAINING, PROBE = "the training data", "what is held out of the general data"


def read_general(
    recipe: Recipe, train: Sequence[Record], validation: Sequence[Record], accounts: Accounts
) -> list[Record]:
    """The records of `general_datasets` that neither training nor validation data, nor an evaluation set, repeats.

    Args:
        train, validation: the run's own records.
        accounts: of the general data; what was left out is counted there.

    Raises:
        DataError: a file cannot be read, or nothing is left.
    """
    if not recipe.general_datasets:
        return []
    read = _read(recipe.general_datasets, recipe, accounts)
    everything = [*read.loose, *read.train, *read.validation]
    found = list({record.id: record for record in everything}.values())
    accounts.dropped += Counter({"general records that are there already": len(everything) - len(found)})
    sets = {path: read_items(Path(path)) for path in recipe.eval_sets}
    for name, records in ((VALIDATION, validation), (TRAINING, train)):
        if records:
            sets[name] = [held_out(record, record.where) for record in records]
    leaks, _ = find_leaks(found, sets)
    repeats = {leak.row: leak.set for leak in leaks if leak.strong}
    accounts.dropped += Counter(f"general records that repeat {name}" for name in repeats.values())
    kept = [record for place, record in enumerate(found) if place not in repeats]
    if not kept:
        raise DataError(
            "every general record repeats what is trained on or measured by",
            where=recipe.general_datasets[0].path,
            fix="give other general_datasets, or none: the base then writes its own",
        )
    return kept


def divide(
    records: Sequence[Record], *, most_replay: int = MAX_REPLAY
) -> tuple[list[Record], list[Record], Counter[str]]:
    """(records held out for the probe, records to replay, why others are neither).

    The hash of each group decides, so the same data is divided in the same way in every run. A third is held out, at
    most `MAX_PROBE` and at least one group; of a single group everything is held out. What nearly repeats a held-out
    record is not replayed: the probe would then measure what is being learned by heart.
    """
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key_of(record), []).append(record)
    order = sorted(groups, key=lambda key: (fraction(0, key), key))
    wanted = min(MAX_PROBE, len(records) // SHARE)
    probe: list[Record] = []
    rest: list[Record] = []
    for key in order:
        side = probe if not probe or len(probe) + len(groups[key]) <= wanted else rest
        side += groups[key]
    leaks, _ = find_leaks(rest, {PROBE: [held_out(record, record.where) for record in probe]})
    repeats = {leak.row for leak in leaks if leak.strong}
    replay = [record for place, record in enumerate(rest) if place not in repeats]
    left_out = Counter({f"records that repeat {PROBE}": len(repeats)})
    left_out["records more than a replay needs"] = max(0, len(replay) - most_replay)
    return probe, replay[:most_replay], +left_out


def records_hash(records: Sequence[Record]) -> str:
    """Of the contents, in any order."""
    return hash_json(sorted(record.id for record in records))
