"""Which records are held out for validation: decided by hash, group by group."""

from collections.abc import Collection, Sequence

from luthier.core.files import hash_bytes
from luthier.data.records import Record

Key = tuple[str, str]  # what a group is decided by: ("group", its name), or ("record", an id)


def split(records: Sequence[Record], *, val_set_size: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Split into (train, validation), each in the given order.

    A group goes to validation when its hash, read as a fraction, is below `val_set_size`. The hash is of the seed and
    the group's name (a record without a group is its own, named by its content, so exact copies stay together).
    Adding or removing other data therefore never moves a group. The share is of groups, and exact only in
    expectation. One exception keeps both sides usable, see `held_out`.

    Args:
        records: in any order.
        val_set_size: share of groups held out, 0 ≤ share < 1; 0 holds out nothing.
        seed: another seed is another split.
    """
    assert 0 <= val_set_size < 1, val_set_size
    if val_set_size == 0:
        return list(records), []
    keys = [key_of(record) for record in records]
    held = held_out(set(keys), val_set_size=val_set_size, seed=seed)
    train = [record for record, key in zip(records, keys, strict=True) if key not in held]
    return train, [record for record, key in zip(records, keys, strict=True) if key in held]


def held_out(keys: Collection[Key], *, val_set_size: float, seed: int) -> set[Key]:
    """The groups that go to validation.

    With two groups or more, neither side is left empty; the group with the smallest (largest) hash is then moved to
    validation (train). A single group is trained on.
    """
    fractions = {key: fraction(seed, key) for key in keys}
    held = {key for key, value in fractions.items() if value < val_set_size}
    if len(fractions) > 1 and not held:
        return {min(fractions, key=lambda key: (fractions[key], key))}
    if len(fractions) > 1 and len(held) == len(fractions):
        held.remove(max(fractions, key=lambda key: (fractions[key], key)))
    return held if len(fractions) > 1 else set()


def key_of(record: Record) -> Key:
    """A group's name, or a record's id: kept apart, so that no group is ever taken for an id."""
    return ("group", record.group) if record.group else ("record", record.id)


def fraction(seed: int, key: Key) -> float:
    """A number in [0, 1), the same on every machine."""
    digest = hash_bytes(str(seed).encode(), *(part.encode("utf-8", "surrogatepass") for part in key))
    return int(digest[:13], 16) / 16**13
