"""Leaks are found where they are, by the evidence that is documented, and nowhere else."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.core.files import canonical_json
from luthier.curate.example import Entry
from luthier.curate.folder import Dataset, Stored, create, example_id
from luthier.curate.leaks import _side, _similarity, find_leaks, held_out, leaks
from luthier.curate.leaks_index import SIMILAR, Item, build, common, load_index
from luthier.curate.leaks_items import item_of, read_items
from luthier.curate.leaks_text import NGRAM, ngrams, pieces, tokenise, whole
from luthier.data.records import Message, Record

WORDS = [
    a + b + c for a in ("ba", "ko", "mi", "ru", "te") for b in ("la", "ne", "so", "vi") for c in ("k", "m", "n", "r")
]


def words(number: int, seed: int) -> str:
    """Text of made-up words, of 80 different ones, as good as no two alike."""
    return " ".join(random.Random(seed).choices(WORDS, k=number))


def talk(prompt: str, answer: str = "no", *more: str, **fields: object) -> Record:
    turns = [prompt, answer, *more]
    return Record(tuple(Message(("user", "assistant")[at % 2], text) for at, text in enumerate(turns)), **fields)


def found(train: Sequence[Record], items: Sequence[Item]) -> list[tuple[int, str, str, str]]:
    """(row, item, part, how) of each leak."""
    return [(leak.row, leak.item, leak.part, leak.how) for leak in find_leaks(train, {"exam": items})[0]]


# Texts as numbers


def test_tokens_are_words_whatever_stands_between() -> None:
    texts = ["Hello, World_x!  it’s", "hello\nWORLD x (it's)", "hello world x its", "ﬁne", "fine"]
    names = whole(tokenise(texts)).tolist()
    assert names[0] == names[1] != names[2] and names[3] == names[4]
    assert tokenise([*texts, "", "…", "你好 a"]).counts.tolist() == [5, 5, 4, 1, 1, 0, 0, 3]


def test_tokens_and_pieces_do_not_depend_on_what_is_worked_on_together() -> None:
    texts = [words(30_000, 1), "", "ﬁne É", words(50_000, 2), words(9, 3), "naïve " * 50_000, words(40_000, 4), "a"]
    alone = [tokenise([text]).hashes for text in texts]
    tokens = tokenise(texts)
    assert np.array_equal(tokens.hashes, np.concatenate(alone)) and tokens.counts.tolist() == [*map(len, alone)]
    some = tokens.of(np.array([4, 1, 0]))
    assert np.array_equal(some.hashes, np.concatenate([alone[4], alone[0]])) and some.counts.tolist() == [9, 0, 30_000]
    piece, owner = pieces(texts)
    assert [piece[owner == at].tolist() for at in range(len(texts))] == [pieces([text])[0].tolist() for text in texts]


def test_runs_stay_within_their_text_and_depend_on_nothing_else() -> None:
    texts = [words(7, 1), words(8, 2), words(11, 3), "", words(9, 4)]
    run, text, place = ngrams(tokenise(texts))
    assert list(zip(text.tolist(), place.tolist(), strict=True)) == [
        (1, 0),
        *((2, p) for p in range(4)),
        (4, 0),
        (4, 1),
    ]
    alone = np.concatenate([ngrams(tokenise([one]))[0] for one in texts])
    assert run.tolist() == alone.tolist()
    inner = " ".join(texts[2].split()[2 : 2 + NGRAM])
    assert ngrams(tokenise(["x", inner]))[0][0] == run[3]


def test_pieces_are_of_five_characters() -> None:
    piece, text = pieces(["Ab, c!", "xy", "ab C"])
    assert [number.to_bytes(5, "little") for number in piece.tolist()] == [b"ab c "] * 2 and text.tolist() == [0, 2]


def test_a_large_batch_is_cut_and_put_together_again() -> None:
    texts = [words(50, seed) for seed in range(3000)]
    tokens = tokenise(texts)
    assert tokens.counts.tolist() == [50] * 3000
    assert whole(tokens)[2999] == whole(tokenise(texts[2999:]))[0]
    assert pieces(texts)[1].max() == 2999


# What is a leak


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 15, 16, 17, 40, 400])
def test_a_copied_item_is_always_found(length: int) -> None:
    items = [Item(f"e:{seed}", (words(length, seed),), (words(length, seed + 500),)) for seed in range(50)]
    copies = [talk(item.prompts[0].upper() + "?", f"**{item.answers[0]}**") for item in items]
    leaked, table = find_leaks([talk(words(length, 999), words(9, 998)), *copies], {"exam": items})
    assert [leak.row for leak in leaked if leak.row] == list(range(1, 51))
    assert length < 7 or table == [{"set": "exam", "items": 50, "items_leaked": 50, "rows": 50}]


def test_half_of_a_long_prompt_is_a_leak_and_less_is_none() -> None:
    item = Item("e:1", (words(100, 1),))
    text = item.prompts[0].split()
    half, less = (" ".join(text[:number]) + " " + words(100, 2) for number in (50, 49))
    assert found([talk(less), talk(half)], [item]) == [(1, "e:1", "prompt", "covered")]
    (leak,), _ = find_leaks([talk(half)], {"exam": [item]})
    assert leak.score == pytest.approx(0.5) and leak.field == "messages.0.content" and leak.detail.startswith("50 %")


def test_a_phrase_that_is_half_of_a_prompt_of_one_line_is_no_leak() -> None:
    phrase, item = words(10, 1), Item("e:1", (f"{words(10, 1)} {words(8, 2)}",))
    copied = talk(f"Please do this now: {item.prompts[0]}. Thank you very much!")
    assert found([talk(f"{phrase} {words(8, 3)}"), copied], [item]) == [(1, "e:1", "prompt", "covered")]


def test_an_item_is_found_in_any_field() -> None:
    item = Item("e:1", (words(30, 1),))
    text = f"before {item.prompts[0]} after"
    asked = (Message("user", "hm"),)
    records = [
        Record(text=text),
        talk("a", text),
        talk("a", "b", text, "c"),
        Record((Message("system", text), *asked, Message("assistant", "c"))),
        Record(asked, chosen=(Message("assistant", text),), rejected=(Message("assistant", "d"),)),
        Record(asked, chosen=(Message("assistant", "d"),), rejected=(Message("assistant", text),)),
    ]
    fields = [leak.field for leak in find_leaks(records, {"exam": [item]})[0]]
    assert fields == [
        "text", "messages.1.content", "messages.2.content", "messages.0.content", "chosen.0.content",
        "rejected.0.content",
    ]  # fmt: skip


def test_a_leaked_answer_is_a_leak_and_an_idiom_is_none() -> None:
    answer = words(30, 1)
    part = " ".join(answer.split()[:15])  # half of it, but fewer than 16 tokens
    item = Item("e:1", (words(20, 2),), (answer,))
    assert found([talk("tell me", part), talk("tell me", answer)], [item]) == [(1, "e:1", "answer", "covered")]
    assert found([talk("tell me", words(15, 3))], [Item("e:1", ("what", "who"), (words(15, 3),))]) == []


def test_short_prompts_that_differ_in_a_letter_are_similar() -> None:
    items = [Item("e:1", ("Who was the first person to walk on the moon?",)), Item("e:2", (words(6, 3),))]
    near = ["who was the first person to walk on the moons", "Who was the first women to walk in the sun?"]
    (leak,), _ = find_leaks([talk(text) for text in near], {"exam": items})
    assert (leak.row, leak.item, leak.how) == (0, "e:1", "similar") and 0.8 <= leak.score < 1


def test_short_prompts_with_other_numbers_are_other_prompts() -> None:
    item = Item("e:1", ("Convert the temperature of 451 degrees Fahrenheit to Celsius",))
    same = "Convert the temperature of 451 degree Fahrenheit to Celsius"
    other = "Convert the temperature of 457 degrees Fahrenheit to Celsius"
    assert found([talk(same), talk(other)], [item]) == [(0, "e:1", "prompt", "similar")]


def test_every_similar_pair_is_found_that_comparing_all_would_find() -> None:
    source = random.Random(5)
    letters = "abcdefghijklmnopqrstuvwxyz"  # five of them in a row hardly ever come twice, so no piece is common
    texts = [" ".join("".join(source.choices(letters, k=5)) for _ in range(source.randint(3, 12))) for _ in range(60)]

    def edited(text: str) -> str:
        made = list(text)
        for _ in range(source.randint(0, 4)):
            made[source.randrange(len(made))] = source.choice("abcdef ")
        return "".join(made)

    train = [edited(source.choice(texts)) for _ in range(300)]

    def grams(text: str) -> set[str]:
        text = " ".join(text.split()) + " "
        return {text[at : at + 5] for at in range(len(text) - 4)}

    expected = set()
    for row, text in enumerate(train):
        for at, other in enumerate(texts):
            one, two = grams(text), grams(other)
            if len(one & two) / len(one | two) >= 0.8:
                expected.add((row, at))
    # Prompts of fewer than four tokens count too: these items have no answer.
    best = {
        row: item
        for row, item, _, _ in found([talk(text) for text in train], [Item(str(n), (t,)) for n, t in enumerate(texts)])
    }
    assert len(expected) > 60
    assert {(row, int(item)) for row, item in best.items()} <= expected
    assert best.keys() == {row for row, _ in expected}


def test_of_prompts_from_templates_every_similar_pair_is_found() -> None:
    """Nothing that is left out before texts are compared, for its numbers or its common pieces, would have held."""
    source = random.Random(7)
    forms = ("Write a short text about the {} of {} in {n}", "Explain how {} makes {}", "Which {} is {n} and not {}?")
    names = [*WORDS, *("".join(source.choices("abcdefghijklmnop", k=9)) for _ in range(300))]

    def made() -> str:
        form = source.choice(forms)
        return form.format(*source.choices(names, k=form.count("{}")), n=source.randrange(3))

    def edited(text: str) -> str:
        at, end = source.randrange(len(text)), source.randrange(1, 14)
        changed = text[:at] + source.choice(["", "s", "é", "1", " "]) + text[at + source.randrange(3) :]
        return source.choice([changed, text[:-end], text[end:], text + " " + "zyxwvutsrqzyxw"[:end]])

    items = [Item(str(at), (made(),)) for at in range(400)]
    train = [edited(source.choice(items).prompts[0]) for _ in range(400)]
    texts = {item.prompts[0]: item.where for item in items[::-1]}
    common_pieces = build("exam", items).index.common_pieces
    expected = {}
    for row, prompt in enumerate(train):
        scores = {text: _similarity(text, prompt, common_pieces) for text in texts}
        if max(scores.values()) >= SIMILAR:
            expected[row] = max(scores.values())
    leaked, _ = find_leaks([talk(text) for text in train], {"exam": items})
    assert {leak.row: leak.score for leak in leaked} == expected and len(common_pieces) > 50
    assert 100 < len(expected) < 400


def test_a_phrase_that_many_items_share_is_no_evidence() -> None:
    form = words(30, 1)
    items = [Item(f"e:{seed}", (f"{form} {words(12, seed)}",)) for seed in range(10, 40)]
    other = talk(f"{form} {words(12, 99)}")
    assert found([other, talk(items[3].prompts[0])], items) == [(1, "e:13", "prompt", "same")]
    # Two items are too few to know a form by: here the phrase is most of the item.
    assert found([other], items[:1]) == [(0, "e:10", "prompt", "covered")]


def test_a_short_form_with_another_filling_is_another_prompt() -> None:
    names = WORDS[:40]
    items = [
        Item(name, (f"Describe what the documented function called {name} returns to its caller",)) for name in names
    ]
    train = [
        talk(f"Describe what the documented function called {name} returns to its caller") for name in WORDS[35:60]
    ]
    assert [item for _, item, _, _ in found(train, items)] == names[35:]


def test_a_prompt_that_says_nothing_counts_only_with_its_answer() -> None:
    items = [held_out(talk("Go on!", words(5, 1)), "v:1"), held_out(talk("Tell me more now", words(5, 2)), "v:2")]
    train = [talk("go on", words(5, 3)), talk("go on", words(5, 1)), talk("tell me more, now", words(5, 4))]
    assert found(train, items) == [(1, "v:1", "prompt", "same"), (2, "v:2", "prompt", "same")]
    assert found(train[:1], [Item("e:1", ("go on",))]) == [(0, "e:1", "prompt", "same")]  # no answer is known
    many = [held_out(talk("Tell me more now", words(5, seed)), f"v:{seed}") for seed in range(20)]
    assert found([talk("tell me more now", words(5, 50)), talk("tell me more now", words(5, 7))], many) == [
        (1, "v:7", "prompt", "same")
    ]


def test_an_answer_that_many_items_share_is_no_evidence() -> None:
    refusal = words(25, 1)
    items = [Item(f"e:{seed}", (words(9, seed),), (refusal,)) for seed in range(2, 40)]
    assert found([talk("anything else at all", refusal)], items) == []


def test_first_turns_and_whole_prompts_of_conversations_count() -> None:
    first, second = "name the largest lake of the country", "and how deep is it there"
    item = item_of({"turns": [first, second], "category": "x"}, "bench.jsonl:3")
    assert item.where == "bench.jsonl:3" and item.prompts == (f"{first}\n{second}", first)
    assert [
        row
        for row, *_ in found(
            [
                talk(first),
                talk(first, "a", second, "b"),
                talk(second),
                talk("good morning, how are you today", "a", first),
            ],
            [item],
        )
    ] == [0, 1]


CODE = '''def has_close(numbers: list[float], limit: float) -> bool:
    """Whether any two numbers are nearer to each other than the limit.
    >>> has_close([1.0, 2.0, 3.0], 0.5)
    False
    """
'''
SOLUTION = """    for at, one in enumerate(numbers):
        for other in numbers[at + 1:]:
            if abs(one - other) < limit:
                return True
    return False
"""


def test_code_in_an_answer_and_in_other_dress() -> None:
    item = item_of({"task_id": "T/0", "prompt": CODE, "canonical_solution": SOLUTION, "test": "assert True"}, "he:1")
    asked = talk(f"Complete this function:\n```python\n{CODE}```", "…")
    solved = talk("How do I compare all pairs?", f"```python\n{SOLUTION}```")
    apart = talk("Write a loop", "for at, one in enumerate(numbers):\n    print(at, one)\nreturn False")
    assert found([asked, solved, apart], [item]) == [(0, "he:1", "prompt", "covered"), (1, "he:1", "answer", "covered")]


def test_the_strongest_item_is_named_and_every_item_counted() -> None:
    items = [Item("e:1", (words(40, 1),)), Item("e:2", (words(40, 2),)), Item("e:3", (words(40, 3),))]
    text = " ".join(items[0].prompts[0].split()[:36]) + " " + items[1].prompts[0]
    leaked, table = find_leaks([talk("x"), talk(text)], {"exam": items, "validation": [], "a": items[:1]})
    assert [(leak.set, leak.item) for leak in leaked] == [("a", "e:1"), ("exam", "e:2")]
    assert [(c["set"], c["items"], c["items_leaked"], c["rows"]) for c in table] == [
        ("validation", 0, 0, 0), ("a", 1, 1, 1), ("exam", 3, 2, 1),
    ]  # fmt: skip


def test_a_text_that_two_items_share_counts_for_both() -> None:
    items = [Item(f"e:{seed}", (f"{words(45, 1)} {words(5, seed)}",)) for seed in (2, 3)]
    _, table = find_leaks([talk(f"{words(45, 1)} {words(5, 4)}")], {"exam": items})
    assert (table[0]["items_leaked"], table[0]["rows"]) == (2, 1)


def test_half_of_a_prompt_is_marked_and_not_dropped(tmp_path: Path) -> None:
    """60 % of a prompt may be the phrase that a task is asked in: a person looks at it, nothing stops."""
    exam = tmp_path / "exam.jsonl"
    exam.write_text(f'{{"question": "{words(50, 1)}"}}\n')
    part = " ".join(words(50, 1).split()[:30])
    dataset, ids = folder_of(tmp_path / "d", [talk(f"{part} {words(20, 2)}", "an answer of its own")])
    (entry,), table = leaks(dataset, {"exam": exam})
    assert (entry.record, entry.action, entry.reason) == (ids[0], "flag", "may be a leak: exam")
    assert entry.score == pytest.approx(0.6)
    assert [(c["set"], c["items_leaked"], c["rows"]) for c in table] == [("validation", 0, 0), ("exam", 0, 0)]


def test_no_order_changes_what_is_found() -> None:
    items = [Item(f"e:{seed}", (words(20, seed % 8),)) for seed in range(16)]
    train = [talk(words(20, seed) + " " + words(20, seed + 1)) for seed in range(10)]
    one = {(train[row], item) for row, item, _, _ in found(train, items)}
    other = {(train[::-1][row], item) for row, item, _, _ in found(train[::-1], items[::-1])}
    assert one == other and len(one) == 8


def test_texts_without_words_are_no_evidence() -> None:
    assert found([talk("…", "!"), Record(text="?!")], [Item("e:1", ("!!!", ""), ("…",))]) == []
    assert find_leaks([], {"exam": [Item("e:1", ("a b c d",))]})[0] == []


def test_scripts_without_spaces() -> None:
    text = "机器学习是人工智能的一个分支它使用算法从数据中学习规律并作出预测"
    assert found([talk("请解释" + text), talk("今天天气怎么样")], [Item("e:1", (text,))]) == [
        (0, "e:1", "prompt", "covered")
    ]


def test_how_often_a_phrase_is_common() -> None:
    assert [common(number) for number in (1, 40, 100, 200, 10_000)] == [2, 2, 5, 10, 10]


def test_an_index_is_the_same_when_read_back(tmp_path: Path) -> None:
    index = build("exam", [Item(f"e:{seed}", (words(seed, seed),), (words(20, seed),)) for seed in range(1, 30)]).index
    index.save(tmp_path / "i")
    back = load_index(tmp_path / "i")
    assert all(np.array_equal(getattr(index, name), getattr(back, name)) for name in index.__dataclass_fields__)


# Evaluation files


@pytest.mark.parametrize(
    ("row", "prompts", "answers"),
    [
        ({"question": "q", "answer": "a"}, ("q",), ("a",)),
        ({"prompt": "p", "key": 7, "kwargs": [{}]}, ("p",), ()),
        ({"text": "write it", "code": "c", "task_id": 1}, ("write it",), ("c",)),
        ({"instruction": "sum up", "input": "this", "output": "o"}, ("sum up\n\nthis",), ("o",)),
        ({"turns": ["a", "b"], "reference": ["x", "y"]}, ("a\nb", "a"), ("x", "y")),
        ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]}, ("u",), ("v",)),
        ({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "v"}]}, ("u",), ("v",)),
        ({"prompt": [{"role": "user", "content": "u"}], "chosen": [{"role": "gpt", "content": "v"}]}, ("u",), ("v",)),
        ({"problem": "p", "solution": "s", "answer": 42}, ("p",), ("42", "s")),
        ({"question": "q", "answer": None, "choices": ["a", "b"]}, ("q",), ()),
    ],
)  # fmt: skip
def test_rows_of_evaluation_files(row: dict[str, object], prompts: tuple[str, ...], answers: tuple[str, ...]) -> None:
    item = item_of(row, "x.jsonl:1")
    assert (item.prompts, item.answers) == (prompts, answers)


def test_unknown_evaluation_rows_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text('{"question": "a b c"}\n{"premise": "x", "label": 1}\n')
    with pytest.raises(DataError, match=r"e\.jsonl:2: no prompt .* keys are premise, label\n.*name the prompt one of"):
        read_items(file)
    file.write_text('{"question": "  "}\n')
    with pytest.raises(DataError, match="no prompt"):
        read_items(file)


# In a dataset folder


def folder_of(path: Path, records: Sequence[Record]) -> tuple[Dataset, list[str]]:
    """A dataset folder of records, and their ids."""
    path.mkdir()
    contents = [canonical_json(record.as_json()) for record in records]
    ids = [example_id(content, "s", at) for at, content in enumerate(contents)]
    rows = [
        Stored(
            ids[at], "s", f"s:{at + 1}", record.kind, contents[at], record.group, "", canonical_json(dict(record.meta))
        )
        for at, record in enumerate(records)
    ]
    return create(path, rows, [], "0"), ids


@pytest.mark.parametrize("workers", [1, 2])
def test_leaks_of_a_dataset(tmp_path: Path, workers: int) -> None:
    records = [talk(words(20, seed), words(20, seed + 10_000)) for seed in range(4100)]
    records += [talk("Please: " + words(20, 3), "other"), talk(words(20, 70_000), words(20, 10_004))]
    dataset, ids = folder_of(tmp_path / "d", records)
    held = {3, 4}
    sides = [Entry(one, "split", "s", after="validation" if at in held else "train") for at, one in enumerate(ids)]
    dataset.add("split", 1, {}, sides)
    exam = tmp_path / "exam.jsonl"
    exam.write_text(
        f'{{"question": "{words(20, 9)}"}}\n{{"question": "{words(20, 90_000)}"}}\n{{"question": "{words(20, 3)}"}}\n'
    )
    entries, table = leaks(dataset, {"exam": exam}, workers=workers)
    assert [(ids.index(e.record), e.action, e.reason, e.counterpart, e.field, e.score) for e in entries] == [
        (9, "drop", "leak: exam", "exam.jsonl:1", "messages.0.content", 1.0),
        (4100, "drop", "leak: validation", ids[3], "messages.0.content", 1.0),
        (4100, "drop", "leak: exam", "exam.jsonl:3", "messages.0.content", 1.0),
        (4101, "drop", "leak: validation", ids[4], "messages.1.content", 1.0),
    ]
    assert [(c["set"], c["items"], c["items_leaked"], c["rows"]) for c in table] == [
        ("validation", 2, 2, 2),
        ("exam", 3, 2, 2),
    ]


def test_the_sides_are_those_of_the_examples(tmp_path: Path) -> None:
    """Sides and texts are read without making all of every example; they must be the same all the same."""
    dataset, ids = folder_of(tmp_path / "d", [talk(words(20, seed)) for seed in range(12)])
    dataset.add("defects", 1, {}, [Entry(ids[1], "drop", "d"), Entry(ids[2], "drop", "d"), Entry(ids[3], "flag", "f")])
    for first, second in ((0, 12), (6, 12), (0, 6)):  # the first side counts
        entries = [Entry(one, "split", "s", after="validation" if at % 3 else "train") for at, one in enumerate(ids)]
        dataset.add("split", 1, {}, [entry for entry in entries[first:second] if entry.record != ids[7]])
    other = [Entry(ids[at], "split", "s", after="train" if at % 3 else "validation") for at in (7, 8, 9)]
    dataset.add("split", 1, {}, other)
    edits = [Entry(ids[at], "edit", "e", "messages.0.content", before=words(20, at), after="new") for at in (5, 6, 7)]
    dataset.add("repair", 1, {}, [*edits, Entry(ids[2], "keep", "reviewed")])
    dataset.add("undo", 1, {}, [Entry(ids[8], "undo", "u", counterpart=str(at)) for at in (2, 3)])
    dataset.add("undo", 1, {}, [Entry("", "undo", "u", counterpart="4")])
    examples = dataset.view.examples(0)
    assert [ids.index(e.id) for e in examples if e.side == "validation"] == [2, 4, 5, 10, 11]
    for validation in (True, False):
        expected = [(e.id, e.record) for e in examples if (e.side == "validation") is validation]
        assert _side(validation, dataset.view, 0) == expected


def test_a_dataset_without_validation_has_no_leaks(tmp_path: Path) -> None:
    dataset, _ = folder_of(tmp_path / "d", [talk(words(20, 1)), talk(words(20, 1), "again")])
    assert leaks(dataset, {}) == ([], [{"set": "validation", "items": 0, "items_leaked": 0, "rows": 0}])
