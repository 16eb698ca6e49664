"""Balance: shares by temperature or by wish, their limits, and what they come to for each example."""

from collections import Counter
from pathlib import Path

import pytest

from luthier.core.errors import DataError
from luthier.core.files import canonical_json
from luthier.curate.balance import BALANCED, OVER, Counted, balance, balance_counted, balance_table, divide
from luthier.curate.example import Entry
from luthier.curate.folder import Stored, create, example_id
from luthier.curate.shares import REPLAY, mix
from luthier.data.records import Message, Record

HOUSE = {"code": 900_000, "documentation": 100_000}  # the worked example


def after(mixture: object) -> dict[str, float]:
    return {name: round(share.after, 3) for name, share in mixture.shares.items()}


def epochs(mixture: object) -> dict[str, float]:
    return {name: round(share.epochs, 2) for name, share in mixture.shares.items()}


@pytest.mark.parametrize(
    ("temperature", "shares", "times"),
    [
        (1.0, {"code": 0.9, "documentation": 0.1}, {"code": 1.0, "documentation": 1.0}),
        (2.0, {"code": 0.75, "documentation": 0.25}, {"code": 0.83, "documentation": 2.5}),
        (3.3, {"code": 0.661, "documentation": 0.339}, {"code": 0.73, "documentation": 3.39}),
    ],
)
def test_ninety_percent_code_ten_percent_documentation(temperature: float, shares: dict, times: dict) -> None:
    made = mix(HOUSE, temperature=temperature)
    assert after(made) == shares and epochs(made) == times
    assert made.total == pytest.approx(1_000_000)
    assert made.notes == ("the cap of 40 % is left out: 2 categories cannot all keep to it",)


def test_a_cap_holds_and_the_others_share_what_it_frees() -> None:
    made = mix({"a": 9000, "b": 600, "c": 400}, temperature=1, cap=0.8)
    assert after(made) == {"a": 0.8, "b": 0.12, "c": 0.08}  # b : c stays 3 : 2
    assert made.notes == ()
    assert max(after(mix({"a": 81, "b": 9, "c": 9, "d": 1}, temperature=1.2)).values()) == 0.4


def test_no_example_is_trained_on_too_often() -> None:
    made = mix({"a": 8000, "b": 1900, "c": 100}, temperature=20, cap=0.5)
    assert epochs(made)["c"] == 4.0 and after(made)["c"] == 0.04
    assert sum(after(made).values()) == pytest.approx(1)
    assert "'c' is 4.0 %" in made.notes[-1]


def test_where_all_are_limited_the_epoch_gets_shorter() -> None:
    made = mix({"a": 100, "b": 100}, cap=0.6, total=10_000, max_epochs=3)
    assert made.total == pytest.approx(600) and epochs(made) == {"a": 3.0, "b": 3.0}
    assert "600 tokens instead of 10,000" in made.notes[0]
    capped = mix({"a": 1000, "b": 10, "c": 10}, temperature=1, cap=0.4, max_epochs=4)
    assert capped.total == pytest.approx(80 / 0.6, rel=1e-6)  # a may be 0.4 of it, b and c no more than 40 each
    assert after(capped) == {"a": 0.4, "b": 0.3, "c": 0.3}


def test_shares_by_wish() -> None:
    made = mix({"a": 500, "b": 300, "c": 200}, shares={"a": 3, "b": 1, "c": 0})
    assert after(made) == {"a": 0.75, "b": 0.25, "c": 0.0}  # the cap does not hold for a wish
    assert epochs(made) == {"a": 1.5, "b": 0.83, "c": 0.0}
    only = mix({"a": 10, "b": 1000}, shares={"a": 1, "b": 0})
    assert only.total == pytest.approx(40) and after(only) == {"a": 1.0, "b": 0.0}
    assert only.notes == ("the epoch has 40 tokens instead of 1,010: no example is trained on more than 4 times",)


def test_replay_is_a_share_of_the_mixture() -> None:
    made = mix({"own": 9000}, replay=0.1, replay_tokens=50_000)
    assert after(made) == {"own": 0.9, REPLAY: 0.1}
    assert made.total == pytest.approx(10_000) and epochs(made) == {"own": 1.0, REPLAY: 0.02}
    small = mix({"own": 9000}, replay=0.1, replay_tokens=100)
    assert epochs(small) == {"own": 1.0, REPLAY: 4.0}  # too little of it is no reason to repeat one's own
    assert any(note.startswith("'(replay)' is 4.3 % instead of 10.0 %") for note in small.notes)
    both = mix(HOUSE, temperature=2, replay=0.2, replay_tokens=10**9)
    assert after(both) == {"code": 0.6, "documentation": 0.2, REPLAY: 0.2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": {}}, "nothing to balance"),
        ({"temperature": 0.5}, "a temperature of 0.5"),
        ({"temperature": float("nan")}, "a temperature of nan"),
        ({"cap": 0}, "a cap of 0"),
        ({"max_epochs": 0.5}, "at most 0.5 epochs"),
        ({"replay": 1.0}, "a replay share of 1"),
        ({"replay": 0.1}, "no examples to replay"),
        ({"shares": {"code": 1}}, "no share for 'documentation'"),
        ({"shares": {"code": 1, "documentation": 1, "docs": 1}}, "a share for 'docs'"),
        ({"shares": {"code": -1, "documentation": 1}}, "negative"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mix(**{"tokens": HOUSE, **change})


@pytest.mark.parametrize(
    ("tokens", "target", "most", "made"),
    [
        ([10] * 4, 40, 4, [1, 1, 1, 1]),
        ([10] * 4, 100, 4, [3, 3, 2, 2]),
        ([10] * 4, 30, 4, [1, 1, 1, 0]),
        ([10] * 4, 0, 4, [0, 0, 0, 0]),
        ([10] * 4, 1000, 4, [4, 4, 4, 4]),
        ([10, 0, 10], 10, 4, [1, 1, 0]),
        ([0, 0], 0, 4, [1, 1]),
        ([100, 10, 10], 20, 4, [0, 1, 1]),  # the first would overshoot
    ],
)
def test_whole_examples(tokens: list[int], target: float, most: int, made: list[int]) -> None:
    assert divide(tokens, target, most=most) == made


def pile() -> list[Counted]:
    return [Counted(f"c{i:04}", "code", 100, 1.0) for i in range(900)] + [
        Counted(f"d{i:04}", "docs", 100, 1.0) for i in range(100)
    ]


def test_every_example_is_decided_and_the_sums_are_right() -> None:
    made = balance_counted(pile())
    actions = Counter((entry.action, entry.reason, entry.record[0]) for entry in made.entries)
    assert actions == {("drop", OVER, "c"): 150, ("repeat", BALANCED, "d"): 100}
    assert Counter(entry.score for entry in made.entries if entry.action == "repeat") == {2.0: 50, 3.0: 50}
    table = {row["category"]: row for row in balance_table(made)}
    assert table["code"]["share"] == 0.9 and table["code"]["share_after"] == 0.75
    assert table["docs"]["epochs"] == 2.5 and table["docs"]["examples_after"] == 100
    assert table["code"]["examples"] == 900 and table["code"]["examples_after"] == 750
    assert table["code"]["wanted"] == pytest.approx(0.75)


def test_order_does_not_matter_and_growth_keeps_choices() -> None:
    rows = pile()
    first = balance_counted(rows)
    assert balance_counted(rows[::-1]).entries == first.entries
    assert balance_counted(rows, seed=1).entries != first.entries
    grown = balance_counted([*rows, *(Counted(f"n{i}", "code", 100, 1.0) for i in range(45))])

    def dropped(made: list[Entry]) -> set[str]:
        return {entry.record for entry in made if entry.action == "drop"}

    assert len(dropped(first.entries) ^ {key for key in dropped(grown.entries) if key[0] == "c"}) <= 25


def test_a_second_balance_says_only_what_changes() -> None:
    made = balance_counted(pile())
    times = {entry.record: entry.score for entry in made.entries if entry.action == "repeat"}
    gone = {entry.record for entry in made.entries if entry.action == "drop"}
    again = [Counted(c.id, c.part, c.tokens, times.get(c.id, 1.0)) for c in pile() if c.id not in gone]
    back = balance_counted(again, temperature=1, cap=1)
    assert {entry.score for entry in back.entries} == {1.0} and len(back.entries) == 100


def test_over_a_folder(tmp_path: Path) -> None:
    def rows(name: str, number: int, category: str) -> list[Stored]:
        made = []
        for index in range(number):
            record = Record((Message("user", f"{name} {index}"), Message("assistant", "word " * 100)))
            content = canonical_json(record.as_json())
            made.append(Stored(example_id(content, name, 0), name, "", "conversation", content, category=category))
        return made

    stored = rows("code.jsonl", 90, "code") + rows("docs.jsonl", 10, "docs") + rows("general.jsonl", 80, "code")
    names = ("code.jsonl", "docs.jsonl", "general.jsonl")
    dataset = create(tmp_path, stored, [{"name": name, "sha256": "", "rows": 1} for name in names], "0")
    held = stored[0].id
    dataset.add("split", 1, {}, [Entry(held, "split", "validation side", after="validation")])
    made = balance(dataset, replay=0.2, replay_sources=["general.jsonl"], temperature=1)
    assert {name: part.examples for name, part in made.parts.items()} == {"code": 89, "docs": 10, REPLAY: 80}
    assert made.parts[REPLAY].examples_after == 25
    assert held not in {entry.record for entry in made.entries}
    dataset.add("balance", 1, {}, made.entries)
    (batch,) = dataset.map(list)
    kept = Counter(example.source for example in batch)
    assert kept == {"code.jsonl": 90, "docs.jsonl": 10, "general.jsonl": 25}
    with pytest.raises(DataError, match="no source called 'general'"):
        balance(dataset, replay=0.2, replay_sources=["general"])
    with pytest.raises(DataError, match="both a share and the sources"):
        balance(dataset, replay=0.2)
