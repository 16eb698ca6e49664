"""Categories: from rules with errors that name the line, and from clusters with readable names."""

import random
from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.core.files import canonical_json
from luthier.curate.categories import (
    Item,
    by_clusters,
    by_rules,
    categories_by_rules,
    items_of,
    name_groups,
    read_rules,
)
from luthier.curate.example import Entry, Example
from luthier.curate.fold import fold
from luthier.curate.folder import Stored, create, example_id
from luthier.curate.kmeans import k_means
from luthier.data.records import Message, Record

RULES = r"""
- {category: code, field: answer, regex: '\bdef \w+\('}
- {category: docs, field: prompt, regex: '(?i)\bexplain\b'}
- {category: imported, field: source, regex: '^old'}
- {category: hard, field: meta.level, regex: '^[45]$'}
"""


def talk(prompt: str, answer: str, *, source: str = "a", category: str = "", **meta: object) -> Example:
    turns = (Message("user", prompt), Message("assistant", answer))
    return Example("1", Record(turns, meta=meta), source, category)


def written(folder: Path, text: str) -> Path:
    file = folder / "rules.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_first_rule_that_fits_decides(tmp_path: Path) -> None:
    rules = read_rules(written(tmp_path, RULES))

    def of(example: Example) -> str:
        return "".join(entry.after for entry in by_rules(rules, [example]))

    assert of(talk("Explain it", "def f(): pass")) == "code"
    assert of(talk("explain it", "It adds.")) == "docs"
    assert of(talk("Go on", "It adds.", source="old.jsonl")) == "imported"
    assert of(talk("Go on", "It adds.", level=4)) == "hard"
    assert of(talk("Go on", "It adds.")) == ""  # none fits: as it was
    assert of(talk("Explain", "It adds.", category="docs")) == ""  # nothing changes


def test_a_category_is_an_entry_and_the_fold_applies_it() -> None:
    entry = Entry("1", "category", "by rule", before="", after="docs")
    example, out, void = fold(talk("a", "b"), [entry])
    assert (example.category, out, void) == ("docs", None, 0)
    assert fold(example, [Entry("1", "score", "difficulty", score=0.5)])[0] == example


def test_over_a_folder(tmp_path: Path) -> None:
    content = canonical_json(talk("Explain it", "It adds.").record.as_json())
    row = Stored(example_id(content, "a", 0), "a", "a:1", "conversation", content)
    (tmp_path / "set").mkdir()
    dataset = create(tmp_path / "set", [row], [], "0")
    entries = categories_by_rules(dataset, read_rules(written(tmp_path, RULES)))
    dataset.add("categories", 1, {}, entries)
    (batch,) = dataset.map(list)
    assert [example.category for example in batch] == ["docs"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a list of rules"),
        ("category: code", "not a list of rules"),
        ("- {category: a, field: prompt, regex: x}\n- {category: a, regex: x}", "yaml:2: a rule has"),
        ("- {category: a, field: prompt, regex: x, more: y}", "yaml:1: a rule has"),
        ("- {category: 5, field: prompt, regex: x}", "are texts"),
        ("- {category: a, field: text, regex: x}", "yaml:1: no field 'text'"),
        ("- {category: a, field: meta., regex: x}", "no field 'meta.'"),
        ("\n- {category: a, field: prompt, regex: '(x'}", r"yaml:2: not a pattern: missing \)"),
        ("- [", "not YAML"),
    ],
)
def test_broken_rules_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rules(written(tmp_path, text))


def test_no_rules_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_rules(tmp_path / "none.yaml")


TOPICS = {
    "cooking": "oven flour butter recipe bake stir onion simmer",
    "astronomy": "planet orbit telescope star moon galaxy comet lunar",
    "law": "court contract judge clause appeal tenant lawsuit verdict",
}


def library(n: int = 240, seed: int = 0) -> tuple[list[Item], np.ndarray, list[str]]:
    """Texts on three topics, with embeddings around three directions."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    items, vectors, topics = [], [], []
    for index in range(n):
        topic = list(TOPICS)[index % 3]
        words = draw.choices(TOPICS[topic].split(" "), k=5)
        text = f"please tell me about the {' and the '.join(words)}"
        items.append(Item(f"{draw.getrandbits(80):020x}", "", text))
        vectors.append(np.eye(8)[index % 3] + 0.2 * noise.normal(size=8))
        topics.append(topic)
    return items, np.array(vectors, np.float32), topics


def test_clusters_get_readable_names() -> None:
    items, vectors, topics = library()
    entries = by_clusters(items, vectors, 3)
    assert len(entries) == 240 and {entry.action for entry in entries} == {"category"}
    named = {entry.record: entry.after for entry in entries}
    pairs = {(topic, named[item.id]) for item, topic in zip(items, topics, strict=True)}
    assert len(pairs) == 3  # a cluster is a topic
    for topic, name in pairs:
        assert len(name.split(", ")) == 3 and set(name.split(", ")) <= set(TOPICS[topic].split(" "))


def test_clusters_do_not_depend_on_order() -> None:
    items, vectors, _ = library()
    order = np.random.default_rng(3).permutation(len(items))
    shuffled = by_clusters([items[i] for i in order], vectors[order], 5, seed=2)
    assert shuffled == by_clusters(items, vectors, 5, seed=2)


def test_names_say_what_it_is_about() -> None:
    ours = ["which planet was it and why was it there", "was the planet which they saw"] * 10
    theirs = ["the oven and the flour", "a flour oven for the bread"] * 10
    assert name_groups([ours, theirs])[0] == "planet, saw"
    trees = [["tree tree tree tree maple"] * 10, ["tree stone stone stone"] * 40]
    assert name_groups(trees) == ["maple, tree", "stone"]  # most use of "tree" is elsewhere


def test_names_differ_and_always_exist() -> None:
    assert name_groups([["flour flour oven"], ["flour oven flour"]]) == ["group 1", "group 2"]
    assert name_groups([["planet"] * 10, ["planet"] * 10, ["oven"] * 20]) == ["planet", "planet (2)", "oven"]
    assert len(set(name_groups([["a b"], ["a b"], ["12 34"]]))) == 3


@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_k_means_fills_every_cluster(k: int) -> None:
    draw = np.random.default_rng(0)
    vectors = np.repeat(draw.normal(size=(10, 4)), 4, axis=0).astype(np.float32)  # 10 points, four times each
    member = k_means(vectors, k)
    assert sorted(set(member.tolist())) == list(range(k))


def test_k_means_finds_what_is_apart() -> None:
    draw = np.random.default_rng(0)
    truth = np.repeat(np.arange(6), 50)
    vectors = (np.eye(6)[truth] * 5 + draw.normal(size=(300, 6)) * 0.3).astype(np.float32)
    member = k_means(vectors, 6)
    assert len({(a, b) for a, b in zip(truth.tolist(), member.tolist(), strict=True)}) == 6
    lengths = draw.uniform(0.1, 10, size=(300, 1)).astype(np.float32)
    assert (k_means(vectors * lengths, 6) == member).all()  # only directions count


@pytest.mark.parametrize(
    ("k", "vectors", "message"),
    [
        (0, np.eye(3), "0 clusters of 3"),
        (4, np.eye(3), "4 clusters of 3"),
        (2, np.diag([1.0, np.nan, 1.0]), "not finite"),
    ],
)
def test_what_cannot_be_clustered(k: int, vectors: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        by_clusters([Item(str(i), "", "text") for i in range(3)], vectors.astype(np.float32), k)


def test_items_are_named_after_prompts() -> None:
    (plain, chat) = items_of([Example("2", Record(text="plain")), talk("Ask", "Tell")])
    assert (plain.text, chat.text) == ("plain", "Ask")
