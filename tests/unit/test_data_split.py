"""The split keeps groups whole, repeats itself, and does not move when data is added."""

import pytest

from luthier.data.records import Message, Record
from luthier.data.split import split


def record(number: int, group: str = "") -> Record:
    return Record(messages=(Message("user", f"ask {number}"), Message("assistant", "yes")), group=group)


def test_the_share_is_about_right_and_nothing_is_lost() -> None:
    records = [record(number) for number in range(4000)]
    train, val = split(records, val_set_size=0.1, seed=3)
    assert 330 < len(val) < 470  # 400 expected, standard deviation 19
    assert sorted([*train, *val], key=lambda item: item.id) == sorted(records, key=lambda item: item.id)
    assert [item for item in records if item in val] == val  # the order is kept


def test_groups_stay_whole() -> None:
    records = [record(number, f"group {number % 50}") for number in range(500)]
    train, val = split(records, val_set_size=0.2, seed=0)
    assert not {item.group for item in train} & {item.group for item in val}
    assert len(train) % 10 == len(val) % 10 == 0
    assert val


def test_copies_stay_together_whatever_their_place() -> None:
    copies = [Record(text=f"text {number // 2}", where=str(number)) for number in range(400)]
    train, val = split(copies, val_set_size=0.5, seed=0)
    assert not {item.text for item in train} & {item.text for item in val}


def test_adding_data_moves_no_record() -> None:
    few = [record(number) for number in range(300)]
    many = [record(number) for number in range(299, -1, -1)] + [record(number) for number in range(300, 900)]
    val_few = {item.id for item in split(few, val_set_size=0.2, seed=1)[1]}
    val_many = {item.id for item in split(many, val_set_size=0.2, seed=1)[1]}
    assert val_few == val_many & {item.id for item in few}


def test_a_larger_share_only_adds() -> None:
    records = [record(number) for number in range(300)]
    small, large = (split(records, val_set_size=share, seed=1)[1] for share in (0.1, 0.3))
    assert {item.id for item in small} < {item.id for item in large}


def test_another_seed_is_another_split() -> None:
    records = [record(number) for number in range(300)]
    assert split(records, val_set_size=0.2, seed=1)[1] != split(records, val_set_size=0.2, seed=2)[1]


def test_known_split() -> None:
    """Frozen: whoever changes the hash moves everybody's validation set."""
    groups = [str(number) for number in range(12)]
    val = split([record(0, group) for group in groups], val_set_size=0.25, seed=42)[1]
    assert [item.group for item in val] == ["5", "7", "8", "9"]


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_no_side_is_empty_with_two_groups(share: float) -> None:
    for seed in range(20):
        train, val = split([record(1, "a"), record(2, "b")], val_set_size=share, seed=seed)
        assert len(train) == len(val) == 1


def test_nothing_to_hold_out() -> None:
    records = [record(number, "one") for number in range(5)]
    assert split(records, val_set_size=0.9, seed=0) == (records, [])
    assert split([record(1), record(2)], val_set_size=0.0, seed=0)[1] == []
    assert split([], val_set_size=0.5, seed=0) == ([], [])


def test_a_group_named_like_an_id_is_not_that_record() -> None:
    alone = record(1)
    named = record(2, alone.id)
    sides = set()
    for seed in range(30):
        train, _ = split([alone, named, *(record(number) for number in range(3, 9))], val_set_size=0.5, seed=seed)
        sides.add((alone in train) == (named in train))
    assert sides == {True, False}
