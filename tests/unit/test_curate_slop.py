"""Stock phrases: found where they are, counted with an interval, flagged only beyond chance."""

import random
from itertools import product

import pytest

from luthier.core.errors import DataError
from luthier.curate.example import Example
from luthier.curate.logodds import CERTAIN, count_terms, log_odds, markers
from luthier.curate.slop import (
    FEWEST_HITS,
    FEWEST_WORDS,
    LIMIT,
    REASON,
    SLOP,
    Jargon,
    Phrase,
    _at_most,
    _forms,
    _lexicon,
    _poisson,
    _tree,
    hits_in,
    lower_rate,
    phrases_in,
    prose,
    slop,
)
from luthier.curate.slop_lexicon import PATTERNS, WORDS
from luthier.data.records import Message, Record

PLAIN = (
    "The mill stood by the river and ground corn for nine farms. In spring the water rose to the second step and the "
    "miller moved his sacks upstairs. He kept a book of what each farm brought and what it took away again. "
)


def talk(answer: str, key: str = "1") -> Example:
    return Example(key, Record((Message("user", "Go on."), Message("assistant", answer))))


def found(text: str) -> list[str]:
    return [text[hit.start : hit.end] for hit in hits_in(text)]


def test_phrases_are_found_in_all_their_forms() -> None:
    assert found("We LEVERAGED data-driven insights, leveraging synergies.") == [
        "LEVERAGED", "data-driven insights", "leveraging", "synergies",
    ]  # fmt: skip
    assert found("It’s important to note that it fosters a culture of trust.") == [
        "It’s important to note", "fosters a culture of",
    ]  # fmt: skip


def test_the_longest_phrase_wins_and_nothing_counts_twice() -> None:
    assert found("a digital transformation") == ["digital transformation"]
    assert [hit.phrase.weight for hit in hits_in("They delve into the")] == [2.0]
    assert len(phrases_in("leverage leverage")[1]) == 2


def test_a_phrase_does_not_cross_the_end_of_a_sentence() -> None:
    assert found("We spoke of culture. Of course") == ["Of course"]
    assert found("the best\npractice") == []
    assert found("take your work to the next level") == ["take your work to the next level"]
    assert found("take your! To the lift") == [] == found("take your! To the next step")
    assert found("Take your? to the next level") == ["next level"]  # an end stands for no word


def test_words_in_plain_use_and_code_are_left_alone() -> None:
    assert found(PLAIN) == []
    assert found("```sh\nleverage --synergy\n```\nA synergy.") == ["synergy"]
    assert found("clever ages, leveraged_buyout") == []  # parts of words, and names in code


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Not only does it rain but also it snows.", "not only X but also Y"),
        ("He sold not just apples but pears.", "not just X but Y"),
        ("It's not a bug, it's a feature.", "it's not X, it's Y"),
        ("This is not about money. It is about trust.", "it's not X, it's Y"),
        ("Leadership isn't about titles, it's about trust.", "X isn't Y, it's Z"),
        ("A desk is more than just a table.", "more than just a X"),
        ("It is less about speed and more about care.", "less about X and more about Y"),
        ("Whether you're a baker or a smith, read on.", "whether you're X or Y"),
        ("No fees, no forms, just food.", "no X, no Y, just Z"),
        ("The result? Fewer errors.", "the result? Y"),
        ("From bread to wine, everything is here.", "from X to Y, everything"),
    ],
)
def test_turns_of_phrase(text: str, name: str) -> None:
    assert [hit.phrase.text for hit in hits_in(text) if hit.phrase.kind == "contrast"] == [name]


@pytest.mark.parametrize(
    "text",
    [
        "It is not raining, and the road is dry.",
        "Not all birds fly.",
        "The bus goes from Rome to Bari, then back.",
        "No.",
    ],
)
def test_plain_negations_are_none(text: str) -> None:
    assert found(text) == []


def test_every_pattern_has_an_example() -> None:
    cases = next(mark for mark in test_turns_of_phrase.pytestmark if mark.name == "parametrize").args[1]
    assert {name for name, *_ in PATTERNS} == {name for _, name in cases}


def test_no_text_has_more_hits_than_the_quick_count_says() -> None:
    cases = next(mark for mark in test_turns_of_phrase.pytestmark if mark.name == "parametrize").args[1]
    texts = [" ".join(words).replace("*", "some") for words, _ in _lexicon()] + [text for text, _ in cases]
    for left, right in (("", ""), ("“", "”"), ("'", "'"), ("…-", "–"), ("(", "'s")):
        for text in texts:
            low = prose(f"{left}{text}{right} {text}\n{text}.")
            assert _at_most(low) >= len(phrases_in(low)[1]) >= 1, text


def test_fewer_hits_than_the_fewest_are_never_flagged() -> None:
    phrases = [phrase for _, phrase in _lexicon()] + [Phrase(name, "", weight) for name, weight, *_ in PATTERNS]
    assert FEWEST_HITS == 2
    assert max(lower_rate([phrase], FEWEST_WORDS) for phrase in phrases) <= LIMIT


def test_places_are_right_where_small_letters_are_longer() -> None:
    text = "İİİ they leverage it"
    assert found(text) == ["leverage"]


def test_the_lexicon_is_in_order() -> None:
    lines = [
        (" ".join(line.split()), weight)
        for strengths in WORDS.values()
        for weight, block in strengths.items()
        for line in block.split("|")
    ]
    assert all(text == text.lower() and text for text, _ in lines)
    assert len({text for text, _ in lines}) == len(lines)  # none twice
    assert {weight for _, weight in lines} == {0.5, 1.0, 2.0}
    for text, _ in lines:
        for spelled in product(*(_forms(word) for word in text.split(" "))):
            words = [word for word in spelled if word]
            node = _tree()
            for word in words:
                node = node[word]
            assert words[0] != "*" and "" in node, text
    assert len(lines) + len(PATTERNS) > 400


def test_inflections() -> None:
    assert _forms("leverage~") == ("leverage", "leverages", "leveraged", "leveraging")
    assert _forms("embody~") == ("embody", "embodies", "embodied", "embodying")
    assert _forms("embark~") == ("embark", "embarks", "embarked", "embarking")
    assert _forms("harness~")[1] == "harnesses"
    assert _forms("a/bee+") == ("a", "bee", "bees")
    assert _forms("?the") == ("the", "")


@pytest.mark.parametrize(
    ("count", "low", "high"), [(1, 0.025, 5.572), (3, 0.619, 8.767), (10, 4.795, 18.39), (0, 0, 3.689)]
)
def test_intervals_of_counts_are_near_the_exact_ones(count: int, low: float, high: float) -> None:
    made = _poisson(count, count, 1.959964)
    assert made[0] == pytest.approx(low, abs=0.05) and made[1] == pytest.approx(high, abs=0.4 if count == 0 else 0.05)


def test_the_interval_of_a_set_covers_the_truth_where_hits_come_in_bunches() -> None:
    """One text in twenty holds ten phrases: the texts, not the words, are what was drawn."""
    draw, covered, truth = random.Random(0), 0, 10 / 20 / 200 * 1000
    phrase = Phrase("x", "filler", 1.0)
    for _ in range(200):
        made = Jargon()
        for _ in range(300):
            made.add(200, [phrase] * 10 if draw.random() < 1 / 20 else [])
        covered += made.interval[0] <= truth <= made.interval[1]
    assert covered >= 180  # 95 % in the long run; counting alone would give about 55 %


def test_sums_add_up() -> None:
    texts = [PLAIN, "We leverage it.", "Delve into the tapestry of synergy."]
    whole, parts = Jargon(), [Jargon() for _ in texts]
    for text, part in zip(texts, parts, strict=True):
        whole.add(*phrases_in(text))
        part.add(*phrases_in(text))
    total = Jargon()
    for part in parts:
        total += part
    assert total == whole and total.rows == 3
    assert whole.summary()["classes"]["flourish"] > 0 == whole.summary()["classes"]["assistant"]
    assert Jargon().summary()["per_1000_words"] == 0


def test_flags_only_long_answers_beyond_chance() -> None:
    padding = PLAIN * 2
    assert len(padding.split()) >= FEWEST_WORDS
    heavy = padding + "By leveraging synergy we foster a culture of trust, delve into the data and embark on a journey."
    assert slop([talk(padding + "They leverage it.", "2")]) == []  # above LIMIT, and chance
    assert slop([talk("By leveraging synergy we delve into the rich tapestry of stakeholders.")]) == []  # short
    long_words = "The organizational representatives unquestionably acknowledged extraordinary circumstances. " * 3
    assert slop([talk(long_words + heavy[-97:])]) == []  # many characters, few words
    (entry,) = slop([talk(PLAIN, "1"), talk(heavy, "2")])
    assert (entry.record, entry.action, entry.reason) == ("2", "flag", REASON)
    assert entry.score > LIMIT and "by leveraging" in entry.detail
    assert SLOP.run is slop and SLOP.name == "slop"


def test_the_flag_follows_the_lower_bound() -> None:
    phrase = Phrase("x", "filler", 1.0)
    assert lower_rate([phrase] * 2, 80) < LIMIT < lower_rate([phrase] * 3, 80)
    assert lower_rate([phrase] * 3, 300) < LIMIT


def test_log_odds_find_what_was_put_in() -> None:
    draw = random.Random(0)
    words = [f"w{index}" for index in range(200)]
    weights = [1 / (index + 1) for index in range(200)]
    here = [" ".join(draw.choices(words, weights, k=60)) + (" seamless journey" * (i % 2)) for i in range(200)]
    there = [" ".join(draw.choices(words, weights, k=60)) for _ in range(200)]
    made = markers(here, there)
    assert [marker.term for marker in made][:2] == ["journey", "seamless"]
    assert all(marker.z >= CERTAIN for marker in made) and len(made) <= 4
    assert made[0].rows == 100 and made[0].reference_per_10k == 0
    assert "seamless journey" not in [marker.term for marker in made]  # its words say it already
    assert markers(there, there) == []


def test_log_odds_against_the_formula_by_hand() -> None:
    here, there = count_terms(["a a b"] * 5, 1), count_terms(["a b b"] * 5, 1)
    (marker,) = log_odds(here, there, prior=30)
    # y = 10 of 15, x = 5 of 15, alpha = 30 · 15/30 = 15; δ = ln(25/20) − ln(20/25); σ² = 1/25 + 1/20
    assert marker.term == "a"
    assert marker.z == pytest.approx(0.44629 / 0.3, rel=1e-4)


def test_pairs_stay_in_a_sentence_and_one_text_is_no_proof() -> None:
    assert count_terms(["one two. three"], 2).counts == {"one two": 1}
    assert log_odds(count_terms(["odd " * 50], 1), count_terms(["even " * 50], 1)) == []
    with pytest.raises(DataError, match="no words"):
        markers(["a b"], [])
