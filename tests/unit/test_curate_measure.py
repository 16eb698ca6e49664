"""Measures of a dataset: right on texts counted by hand, and the same however the work is shared out."""

import random
from pathlib import Path

import pytest

from luthier.core.files import canonical_json
from luthier.curate.example import Example
from luthier.curate.folder import Stored, create, example_id
from luthier.curate.lexical import BLOCK, SAMPLE_WORDS, WINDOW, Sample, variety
from luthier.curate.measure import Lengths, add_up, marginals, measure, measure_batch
from luthier.curate.tokens import AnswerTokens, count_words, estimate_tokens, trained_texts
from luthier.data.records import Message, Record

WORDS = ("river", "stone", "lamp", "garden", "copper", "window", "ledger", "autumn", "kettle", "harbour", "violin")


def talk(key: str, answer: str, *, source: str = "a.jsonl", category: str = "") -> Example:
    return Example(key, Record((Message("user", "Tell me more."), Message("assistant", answer))), source, category)


def pile(number: int, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    return [
        talk(
            f"{draw.getrandbits(80):020x}",
            " ".join(draw.choices(WORDS, k=draw.randint(1, 120))) + draw.choice(["", " We leverage synergy."]),
            source=draw.choice(["a.jsonl", "b.jsonl"]),
            category=draw.choice(["", "code", "docs"]),
        )
        for _ in range(number)
    ]


def test_lengths_are_exact() -> None:
    made = Lengths()
    for value in range(1, 101):
        made.counts[value] += 1
    assert made.summary() == {
        "number": 100, "total": 5050, "mean": 50.5, "least": 1, "greatest": 100,
        "p5": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95,
    }  # fmt: skip
    assert made.histogram([0, 10, 50]) == [9, 40, 51]
    assert Lengths().summary() == {"number": 0, "total": 0}


def test_a_batch_is_counted_by_source_and_category() -> None:
    rows = [
        talk("1", "one two three", category="code"),
        talk("2", "one two", category="code", source="b.jsonl"),
        talk("3", "one", category="docs"),
    ]
    made = marginals(measure_batch(None, rows))
    assert made.everything.rows == 3 and made.everything.words.summary()["total"] == 6
    assert {name: part.rows for name, part in made.sources.items()} == {"a.jsonl": 2, "b.jsonl": 1}
    assert {name: part.words.summary()["total"] for name, part in made.categories.items()} == {"code": 5, "docs": 1}
    assert made.everything.prompt_words.summary()["p50"] == 3
    assert "tokens" not in made.everything.summary()


def test_the_result_does_not_depend_on_the_batches() -> None:
    rows = pile(3000)
    whole = marginals(measure_batch(estimate_tokens, rows)).summary()
    random.Random(1).shuffle(rows)
    parts = [measure_batch(estimate_tokens, rows[at : at + 170]) for at in range(0, len(rows), 170)]
    cells = {cell: add_up([part[cell] for part in parts if cell in part]) for cell in {c for p in parts for c in p}}
    assert marginals(cells).summary() == whole
    assert whole["dataset"]["variety"]["words"] >= SAMPLE_WORDS  # the sample was cut
    assert 0 < len(add_up([*cells.values()]).sample.answers) < len(rows)


def test_adding_up_leaves_the_parts_as_they_are() -> None:
    part = next(iter(measure_batch(None, [talk("1", "We leverage synergy.")]).values()))
    before = part.summary()
    add_up([part, part])
    assert part.summary() == before


def test_variety_of_known_texts() -> None:
    sample = Sample()
    sample.add("2", "a b c d a b c d", 8)
    sample.add("1", "A b", 2)
    made = variety(sample)
    assert made["words"] == 10
    assert made["distinct"] == [4 / 10, 4 / 8, 4 / 6]  # bigrams do not cross answers
    assert made["repeated"] == 1 / 5
    assert made["type_token"] is None and made["compression"] is None  # too little text


def test_windows_and_blocks_make_measures_independent_of_the_amount() -> None:
    def one(rows: int) -> dict:
        sample = Sample()
        for example in pile(rows, seed=3):
            sample.add(example.id, example.answer, len(example.answer.split()))
        sample.cut()
        return variety(sample)

    small, large = one(300), one(700)
    assert small["words"] * 2 < large["words"]
    assert small["type_token"] == pytest.approx(large["type_token"], rel=0.03)
    assert small["compression"] == pytest.approx(large["compression"], rel=0.03)
    assert small["type_token"] < 2 * len(WORDS) / WINDOW
    same = Sample([("1", "the same again " * BLOCK, 3 * BLOCK)])
    assert variety(same)["compression"] > 100 > large["compression"]


def test_one_long_answer_does_not_fill_a_sample() -> None:
    sample = Sample()
    sample.add("0", "word " * 1_000_000, 1_000_000)
    assert sample.answers[0][2] == 4000


def test_what_bears_loss() -> None:
    both = Record(
        (Message("system", "Be brief."), Message("user", "Hi")),
        chosen=(Message("assistant", "Hello there"),),
        rejected=(Message("assistant", "No"),),
    )
    call = Message("assistant", "", tool_calls='[{"name":"f","arguments":{}}]')
    talked = Record((Message("user", "a b c"), call, Message("tool", "ten words"), Message("assistant", "done")))
    assert list(trained_texts(Example("1", both))) == ["Hello there", "No"]
    assert list(trained_texts(Example("2", talked))) == [call.tool_calls, "done"]
    assert list(trained_texts(Example("3", Record(text="plain")))) == ["plain"]
    assert estimate_tokens([Example("1", both), Example("3", Record(text="plain " * 10))]) == [1 + 3 + 1 + 1, 1 + 13]


def test_words_are_counted_as_they_are_split() -> None:
    rng = random.Random(0)
    chars = [*map(chr, range(128)), *" " * 60]
    for more in ([], ["\x85", "\xa0", "\u2003", "é", "字"]):
        for length in range(200):
            text = "".join(rng.choices(chars + more, k=length))
            assert count_words(text) == len(text.split()), repr(text)


def test_real_tokens(chat_model: Path) -> None:
    from luthier.data.tokenizer import Tokenizer

    text = "A luthier builds the violin."
    (count,) = AnswerTokens(chat_model)([talk("1", text)])
    assert count == len(Tokenizer(chat_model).encode(text)) + 1


def test_over_a_folder(tmp_path: Path) -> None:
    def rows() -> list[Stored]:
        made = []
        for example in pile(50):
            content = canonical_json(example.record.as_json())
            name, category = example.source, example.category
            made.append(
                Stored(example_id(content, name, 0), name, f"{name}:1", "conversation", content, category=category)
            )
        return made

    dataset = create(tmp_path, rows(), [], "0")
    seen: list[tuple[int, int]] = []
    made = measure(dataset, tokens=estimate_tokens, progress=lambda *at: seen.append(at))
    assert made.everything.rows == 50 == sum(part.rows for part in made.sources.values())
    assert made.everything.summary()["tokens"]["total"] > made.everything.summary()["words"]["total"]
    assert seen == [(1, 1)]
