"""Which records are held out for validation: decided by hash, group by group."""

from collections.abc import Sequence

from luthier.core.files import hash_bytes
from luthier.data.records import Record


def split(records: Sequence[Record], *, val_set_size: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Split into (train, validation), each in the given order.

    A group goes to validation when its hash, read as a fraction, is below `val_set_size`. The hash is of the seed and
    the group's name (a record without a group is its own, named by its content, so exact copies stay together).
    Adding or removing other data therefore never moves a group. The share is of groups, and exact only in
    expectation. One exception keeps both sides usable: with two groups or more, neither side is left empty; the
    group with the smallest (largest) hash is then moved to validation (train).

    Args:
        records: in any order.
        val_set_size: share of groups held out, 0 ≤ share < 1; 0 holds out nothing.
        seed: another seed is another split.
    """
    assert 0 <= val_set_size < 1, val_set_size
    if val_set_size == 0:
        return list(records), []
    keys = [_key(record) for record in records]
    fractions = {key: _fraction(seed, key) for key in set(keys)}
    held_out = {key for key, fraction in fractions.items() if fraction < val_set_size}
    if len(fractions) > 1 and not held_out:
        held_out = {min(fractions, key=lambda key: (fractions[key], key))}
    elif len(fractions) > 1 and len(held_out) == len(fractions):
        held_out.remove(max(fractions, key=lambda key: (fractions[key], key)))
    elif len(fractions) == 1:
        held_out = set()
    train = [record for record, key in zip(records, keys, strict=True) if key not in held_out]
    return train, [record for record, key in zip(records, keys, strict=True) if key in held_out]


def _key(record: Record) -> tuple[str, str]:
    """A group's name, or a record's id: kept apart, so that no group is ever taken for an id."""
    return ("group", record.group) if record.group else ("record", record.id)


def _fraction(seed: int, key: tuple[str, str]) -> float:
    """A number in [0, 1), the same on every machine."""
    digest = hash_bytes(str(seed).encode(), *(part.encode("utf-8", "surrogatepass") for part in key))
    return int(digest[:13], 16) / 16**13
