"""Near duplicates: edited copies are found, rows that only look alike are not, and work stays bounded."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers_curate import make_dataset, stored, talk
from luthier.curate import folder, near_rules, near_text
from luthier.curate import near as near_module
from luthier.curate.clusters import Components, rank, stars
from luthier.curate.example import Example
from luthier.curate.near import near_duplicates, near_duplicates_in
from luthier.curate.near_rules import common_words, jaccard, near
from luthier.curate.near_shelf import Shelf
from luthier.curate.near_sketch import signatures, sketch
from luthier.curate.near_text import Row, Words, hash_shingles, parts_of
from luthier.data.records import Message, Record

RANDOM = random.Random(7)
WORDS = ["".join(RANDOM.choices("abcdefghijklmnoprstuvw", k=RANDOM.randint(2, 9))) for _ in range(3000)]


def words(number: int, random: random.Random) -> str:
    return " ".join(random.choices(WORDS, k=number))


def edited(text: str, share: float, random: random.Random) -> str:
    made = text.split(" ")
    for index in random.sample(range(len(made)), round(share * len(made))):
        made[index] = random.choice(WORDS)
    return " ".join(made)


def row(asked: str, answered: str, setting: str = "") -> Row:
    return Row(("conversation None", setting, asked, answered, ""))


def alike(one: tuple[str, str], other: tuple[str, str]) -> bool:
    forth, back = near(row(*one), row(*other)), near(row(*other), row(*one))
    assert forth == back
    return forth is not None


LONG = words(60, random.Random(1))


@pytest.mark.parametrize(("share", "least"), [(0.02, 0.99), (0.05, 0.97), (0.1, 0.95)])
def test_copies_with_words_replaced_are_found(share: float, least: float, tmp_path: Path) -> None:
    source = random.Random(3)
    rows = [(f"{number:04}", words(source.randint(30, 150), source)) for number in range(400)]
    copies = [(f"copy {one}", edited(text, share, source)) for one, text in rows[:200]]
    entries = near_duplicates_in(rows + copies, folder=tmp_path)
    found = {frozenset((entry.record, entry.counterpart)) for entry in entries}
    right = {frozenset((one, f"copy {one}")) for one, _ in rows[:200]}
    assert found <= right
    assert len(found) >= least * len(right)
    assert list(tmp_path.iterdir()) == []


def test_the_score_is_the_jaccard_of_five_grams() -> None:
    source = random.Random(5)
    one = words(40, source)
    other = edited(one, 0.05, source)
    sets = [{text[start : start + 5] for start in range(len(text) - 4)} for text in (one, other)]
    exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    entry = near_duplicates_in([("a", one), ("b", other)])[0]
    assert entry.score == round(exact, 4)
    assert entry.action == "duplicate" and entry.reason == "near duplicate"


def test_signatures_estimate_the_jaccard() -> None:
    source = random.Random(6)
    texts = [words(100, source) for _ in range(50)]
    others = [edited(text, 0.1, source) for text in texts]
    one, other = signatures(texts), signatures(others)
    exact = [
        jaccard(np.unique(hash_shingles([a])[0]), np.unique(hash_shingles([b])[0]))
        for a, b in zip(texts, others, strict=True)
    ]
    assert abs((one == other).mean(1) - exact).max() < 0.15


def test_keys_take_all_values_of_their_band() -> None:
    source = random.Random(37)
    texts = [words(100, source) for _ in range(100)]
    others = [edited(text, 0.2, source) for text in texts]
    one, other = (
        sketch([""] * 100, np.zeros(100), [("k", "", "", text, "") for text in part]) for part in (texts, others)
    )
    likeness = (one.low == other.low).mean()
    assert abs((one.keys == other.keys).mean() - likeness**4) < 0.05


@pytest.mark.parametrize("texts", [["", "", ""], ["a", "", "abcdef"], ["abc", "abcde", ""], ["é😀字字字字"]])
def test_shingles_of_small_texts(texts: list[str]) -> None:
    hashes, ends = hash_shingles(texts)
    for index, text in enumerate(texts):
        alone = hash_shingles([text])[0]
        part = hashes[ends[index] : ends[index + 1]]
        assert len(part) == len(alone) == max(1, len(text) - 4)
        if len(text) > 4:
            assert (part == alone).all()


def test_common_words_against_the_table() -> None:
    source = random.Random(8)
    for _ in range(50):
        one, other = (source.choices("abcde", k=source.randint(0, 30)) for _ in range(2))
        table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
        assert common_words(one, other) == table[-1][-1]


PROBLEM = (
    "Tom buys {} apples and {} pears at the market, eats {} of them on the way home with his two sisters, and gives "
    "the rest to the old neighbour who lives in the yellow house next to the church. How many pieces does she get?",
    "He has {} + {} = {} pieces of fruit, eats {} of them on the way, and so the neighbour gets {} of them in the end.",
)


def test_the_same_problem_with_other_numbers_is_another() -> None:
    one = PROBLEM[0].format(12, 17, 4), PROBLEM[1].format(12, 17, 29, 4, 25)
    other = PROBLEM[0].format(15, 11, 3), PROBLEM[1].format(15, 11, 26, 3, 23)
    assert not alike(one, other)
    assert alike(one, (one[0].replace("yellow house", "green hut"), one[1]))


def test_one_other_number_is_enough() -> None:
    one = PROBLEM[0].format(12, 17, 4), LONG
    assert not alike(one, (PROBLEM[0].format(12, 18, 4), LONG))
    source = random.Random(31)
    text = f"In 12 of 30 years with 45 and 77 {words(100, source)}"
    assert alike(("", text), ("", edited(text, 0.08, source)))
    assert not alike(("", text), ("", edited(text, 0.08, source).replace("12", "13")))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"Translate “the cat” into Welsh. {LONG}", f"Translate “the dog” into Welsh. {LONG}"),
        (f"Explain `get_item` in the code above. {LONG}", f"Explain `set_item` in the code above. {LONG}"),
        (f"Compute 7 + 5. {LONG}", f"Compute 7 * 5. {LONG}"),
    ],
)
def test_quotes_code_and_operators_that_differ(one: str, other: str) -> None:
    assert not alike((one, LONG), (other, LONG))


def test_the_same_prompt_with_another_answer_is_another() -> None:
    review = f"Is this review positive? {LONG}"
    assert not alike((review, "Positive."), (review, "Negative."))
    assert not alike((review, "It is a positive review."), (review, "It is a negative review."))
    assert alike((review, "It is a positive review."), (review + " Please.", "It is a positive review."))
    long = "All in all and for the most part this is a {} review of it"
    assert not alike((review, long.format("positive")), (review, long.format("negative")))


def test_the_same_answer_to_another_prompt_is_another() -> None:
    refusal = f"I am sorry, but I cannot help with that. {LONG}"
    assert not alike(("How do I pick a lock?", refusal), ("Where can I buy a sword?", refusal))


def test_a_filled_slot_makes_another_row() -> None:
    template = f"{LONG} Review: {{}}. {words(60, random.Random(2))}"
    one, other = template.format("a great film with fine actors"), template.format("dull from start to end, really")
    assert jaccard(row(one, "yes").shingles, row(other, "yes").shingles) > 0.8
    assert not alike((one, "yes"), (other, "yes"))


def test_another_setting_makes_another_row() -> None:
    one, other = row(LONG, LONG, "You are a pirate."), row(LONG, LONG, "You are a nurse at work.")
    assert near(one, other) is None
    system = Message("system", "You are a pirate.")
    plain = talk(LONG, LONG)
    assert (
        near(
            *(
                Row(parts_of(Example("a", record)))
                for record in (plain, replace(plain, messages=(system, *plain.messages)))
            )
        )
        is None
    )


def test_short_rows_must_be_alike_to_nine_tenths() -> None:
    assert not alike(
        ("Name the capital of France in Europe", "It is Paris"), ("Name a capital of France in Europe", "It is Paris")
    )
    one = "Describe the photosynthesis of underwater plants", "Chlorophyll transforms sunlight, mostly in summer"
    assert alike(one, (one[0], one[1] + "s"))


def chain() -> list[str]:
    """A is like B and B like C, but A is not like C. All have the same length."""
    source = random.Random(11)
    made = [["".join(source.choices("abcdefghij", k=6)) for _ in range(100)]]
    for start in (0, 5):
        made.append([word[::-1] if index % 11 == start else word for index, word in enumerate(made[-1])])
    return [" ".join(text) for text in made]


def test_a_chain_is_not_closed() -> None:
    one, two, three = chain()
    assert alike(("", one), ("", two)) and alike(("", two), ("", three)) and not alike(("", one), ("", three))
    entries = near_duplicates_in([("a", one), ("b", two), ("c", three)])
    assert [(entry.record, entry.counterpart) for entry in entries] == [("b", "a")]


def test_stars_try_what_is_left_again() -> None:
    like = {(0, 1), (2, 3), (1, 2)}
    found, left = stars([3, 2, 1, 0], np.arange(4), lambda one, other: 1.0 if (one, other) in like else None)
    assert [(member, kept) for member, kept, _ in found] == [(1, 0), (3, 2)]
    assert left == 0


def test_components_do_not_depend_on_the_order_of_joins() -> None:
    pairs = [(5, 3), (1, 2), (2, 5), (7, 8)]
    for order in (pairs, pairs[::-1]):
        made = Components(10)
        for one, other in order:
            made.join(one, other)
        assert [group.tolist() for group in made.groups()] == [[1, 2, 3, 5], [7, 8]]


def test_the_better_one_stays() -> None:
    record = talk("Q", "short")
    plain, longer = Example("b", record), Example("c", talk("Q", "much longer"))
    flagged, settled = (
        Example("a", talk("Q", "the longest of all"), flags=frozenset({"x"})),
        Example("d", record, side="train"),
    )
    ranks = rank([plain, longer, flagged, settled])
    assert np.argsort(ranks).tolist() == [3, 1, 0, 2]


def rows_with_copies(number: int) -> list[Record]:
    source = random.Random(13)
    rows = [talk(words(12, source), words(40, source)) for _ in range(number)]
    return rows + [
        talk(edited(row.messages[0].content, 0.05, source), edited(row.messages[1].content, 0.05, source))
        for row in rows[: number // 4]
    ]


def test_order_and_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "BATCH", 100)
    rows = stored(rows_with_copies(400))
    there = near_duplicates(make_dataset(tmp_path / "a", rows), workers=2)
    back = near_duplicates(make_dataset(tmp_path / "b", rows[::-1]))
    assert len(there) > 90
    assert there == back
    monkeypatch.setattr(near_module, "AHEAD", 7)  # so few pairs are compared by the workers, too
    assert near_duplicates(make_dataset(tmp_path / "c", rows), workers=2) == back


def test_quick_ways_find_what_the_plain_ones_find() -> None:
    source = random.Random(5)
    for _ in range(2000):
        text = "".join(source.choices("aZ_ -3791.,:/(+=<>^%$\"'`!\n", k=source.randint(0, 30)))
        assert near_text._ASCII_TOKEN.findall(text) == near_text._TOKEN.findall(text)
        assert near_text._numbers(text) == near_text._NUMBER.findall(text)
        mine, theirs = source.choices("abc", k=source.randint(0, 9)), source.choices("abc", k=source.randint(0, 9))
        assert Words(mine).shared(Words(theirs)) == (Counter(mine) & Counter(theirs)).total()
        far = max(len(mine), len(theirs)) - common_words(mine, theirs)
        assert near_rules._few_changed(mine, theirs) == (far <= near_rules.CHANGED * max(len(mine), len(theirs)))


def kinds(text: str, other: str) -> list[Sequence[Record]]:
    asked = Message("user", LONG)
    pair = Record(messages=(asked,), chosen=(Message("assistant", text),), rejected=(Message("assistant", other),))
    return [
        (Record(text=text), Record(text=text + " indeed")),
        (pair, replace(pair, chosen=(Message("assistant", text + " indeed"),))),
        (replace(talk(LONG, text), label=False), replace(talk(LONG, text + " indeed"), label=False)),
    ]


@pytest.mark.parametrize("index", range(3))
def test_every_kind(index: int, tmp_path: Path) -> None:
    source = random.Random(17)
    pair = kinds(words(50, source), words(50, source))[index]
    dataset = make_dataset(tmp_path / "data", pair)
    assert len(near_duplicates(dataset)) == 1


def test_swapped_preferences_labels_and_kinds_are_different() -> None:
    source = random.Random(19)
    pair = kinds(words(50, source), words(50, source))
    preference, labelled = pair[1][0], pair[2][0]
    turned = replace(preference, chosen=preference.rejected, rejected=preference.chosen)
    for one, other in (
        (preference, turned),
        (labelled, replace(labelled, label=True)),
        (labelled, replace(labelled, label=None)),
    ):
        assert near(*(Row(parts_of(Example("a", record))) for record in (one, other))) is None


def test_a_huge_bucket_stays_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    source, number = random.Random(23), 1500
    template = words(60, source)
    rows = [(f"{index:05}", f"{template} {index}") for index in range(number)]
    rows += [("copy", rows[700][1] + " so")]
    calls = 0

    def counted(one: Row, other: Row) -> float | None:
        nonlocal calls
        calls += 1
        return near(one, other)

    monkeypatch.setattr(near_module, "near", counted)
    notes: Counter[str] = Counter()
    entries = near_duplicates_in(rows, notes=notes)
    assert [(entry.record, entry.counterpart) for entry in entries] == [("00700", "copy")]
    assert calls < number * near_module.TRIES
    assert notes["buckets in which rows were compared with their neighbours only"] > 0


def test_many_copies_cost_about_one_comparison_each(monkeypatch: pytest.MonkeyPatch) -> None:
    source, calls = random.Random(29), 0
    text = words(60, source)
    rows = [(f"{index:05}", edited(text, 0.02, source)) for index in range(800)]

    def counted(one: Row, other: Row) -> float | None:
        nonlocal calls
        calls += 1
        return near(one, other)

    monkeypatch.setattr(near_module, "near", counted)
    assert len(near_duplicates_in(rows)) == 799
    assert calls < 2000


def test_a_shelf_gives_rows_back_by_id(tmp_path: Path) -> None:
    batches = [
        sketch([name for name, _ in part], np.zeros(len(part), np.int64), [("k", "", "", text, "") for _, text in part])
        for part in ([("b", "bé\ud800"), ("c", "")], [("a", "A A")])
    ]
    with Shelf([batches[0], None, batches[1]], tmp_path) as shelf:
        assert shelf.ids.tolist() == [b"a", b"b", b"c"]
        assert [shelf.row(index).texts[2] for index in range(3)] == ["A A", "bé\ud800", ""]


def test_nothing_and_one(tmp_path: Path) -> None:
    assert near_duplicates_in([]) == []
    assert near_duplicates_in([("a", "")]) == []
    assert near_duplicates(make_dataset(tmp_path / "data", [talk("Q", "A")])) == []
