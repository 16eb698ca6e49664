"""No training on what a run, or an evaluation after it, is measured by."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from luthier.core.errors import DataError
from luthier.curate.leaks import VALIDATION, Leak, find_leaks, held_out
from luthier.curate.leaks_items import read_items
from luthier.data.records import Record
from luthier.recipe import Recipe
from luthier.stages.accounts import Accounts

SHOWN = 3  # leaks that an error shows
HELD_BY = "what stage {name} holds out"


def check_leaks(
    train: Sequence[Record],
    validation: Sequence[Record],
    recipe: Recipe,
    accounts: Accounts,
    *,
    others: Mapping[str, Sequence[Record]] | None = None,
) -> None:
    """Compare the training records with those held out and with the recipe's evaluation sets.

    Args:
        others: what other stages hold out, by the stage's name.

    Raises:
        DataError: some training record repeats one of them, and the recipe does not allow it; or an evaluation set
            cannot be read.
    """
    train = list({id(record): record for record in train}.values())  # repeats are looked at once
    sets = {path: read_items(Path(path)) for path in recipe.eval_sets}
    if validation:
        sets[VALIDATION] = [held_out(record, record.where) for record in validation]
    own, theirs = {record.id for record in validation}, []
    for name, records in (others or {}).items():
        if items := [held_out(record, record.where) for record in records if record.id not in own]:
            theirs.append(HELD_BY.format(name=name))
            sets[theirs[-1]] = items
    leaks, table = find_leaks(train, sets)
    for count in table:
        if count["set"] != VALIDATION and count["set"] not in theirs:
            accounts.notes.append(
                f"{count['set']}: {count['items_leaked']} of {count['items']:,} items occur in the training data"
            )
    if weak := len({leak.row for leak in leaks} - {leak.row for leak in leaks if leak.strong}):
        accounts.notes.append(
            f"{weak:,} training record{'' if weak == 1 else 's'} may repeat what it is measured by (half of a prompt "
            "or answer and more): `luthier data clean` marks them for review"
        )
    leaks = [leak for leak in leaks if leak.strong]
    if not leaks:
        return
    rows = len({leak.row for leak in leaks})
    where = " and ".join(f"{count['rows']:,} of {count['set']}" for count in table if count["rows"])
    one = rows == 1
    what = f"{rows:,} training record{'' if one else 's'} repeat{'s' if one else ''} what it is measured by ({where})"
    if recipe.allow_leaks:
        accounts.notes.append(f"{what}: allowed by allow_leaks, so the measured losses are too good")
        return
    worst = sorted(leaks, key=lambda leak: (-leak.score, leak.row, leak.set))[:SHOWN]
    fix = "`luthier data clean` makes a dataset without leaks; allow_leaks: true trains on these all the same"
    if any(count["rows"] for count in table if count["set"] in theirs):
        fix += "; stages that share a file hold out the same rows if they have the same val_set_size"
    raise DataError("\n".join([what, *(f"    {_told(leak, train)}" for leak in worst)]), fix=fix)


def _told(leak: Leak, train: Sequence[Record]) -> str:
    record = train[leak.row]
    return f"{record.where or f'record {record.id}'} and {leak.item}: {leak.detail}"
