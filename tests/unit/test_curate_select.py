"""Selection: the best, no two alike, quotas kept, and a reason for everything that is left out."""

import math
import random
from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.core.files import canonical_json
from luthier.curate.choose import scores, select_examples
from luthier.curate.difficulty import ranks_within_lengths
from luthier.curate.example import Entry
from luthier.curate.folder import Dataset, Stored, create, example_id
from luthier.curate.select import Candidate, Selection, select
from luthier.data.records import Message, Record


def at(*degrees: float) -> np.ndarray:
    """Vectors in the plane at these angles, of different lengths."""
    angles = np.radians(degrees)
    return (np.stack([np.cos(angles), np.sin(angles)], 1) * np.arange(1, len(degrees) + 1)[:, None]).astype(np.float32)


def some(*scores: float, category: str = "") -> list[Candidate]:
    return [Candidate("abcdefghij"[index], category, score) for index, score in enumerate(scores)]


def pile(n: int = 1500, d: int = 16, seed: int = 0) -> tuple[list[Candidate], np.ndarray]:
    """Vectors in bunches, so that many are alike."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(60, d))
    vectors = (centres[draw.integers(0, 60, n)] + 0.25 * draw.normal(size=(n, d))).astype(np.float32)
    chance = random.Random(seed)
    made = [
        Candidate(f"{chance.getrandbits(80):020x}", chance.choice(["code", "docs", "talk"]), round(chance.random(), 2))
        for _ in range(n)
    ]
    return made, vectors


def naive_greedy(candidates: list[Candidate], vectors: np.ndarray, target: int, limit: float) -> list[str]:
    """The rule, one at a time."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    taken: list[int] = []
    for i in sorted(range(len(candidates)), key=lambda i: (-candidates[i].score, candidates[i].id)):
        if len(taken) < target and all(round(float(unit[i] @ unit[j]), 5) < limit for j in taken):
            taken.append(i)
    return [candidates[i].id for i in taken]


def test_best_first_and_none_too_similar() -> None:
    made = select(some(1, 5, 4, 3), at(0, 90, 95, 180), target=2)
    assert made.taken == ["b", "d"]
    a, c = made.entries
    assert (a.record, a.action, a.reason, a.score) == ("a", "drop", "not selected", 1.0)
    assert a.detail.startswith("others came first")
    assert (c.record, c.counterpart) == ("c", "b") and c.detail.startswith("too similar")
    assert "cosine 0.996" in c.detail


@pytest.mark.parametrize(("target", "limit"), [(40, 0.9), (400, 0.9), (1400, 0.8), (1400, 0.99)])
def test_greedy_is_the_plain_rule(target: int, limit: float) -> None:
    candidates, vectors = pile()
    made = select(candidates, vectors, target=target, max_cosine=limit)
    assert made.taken == naive_greedy(candidates, vectors, target, limit)
    assert len(made.taken) + len(made.entries) == len(candidates)
    assert {entry.record for entry in made.entries}.isdisjoint(made.taken)
    assert {entry.counterpart for entry in made.entries} <= set(made.taken)
    assert (len(made.taken) < target) == any("have a cosine" in note for note in made.notes)


@pytest.mark.parametrize("method", ["greedy", "k-center"])
def test_any_order_gives_the_same(method: str) -> None:
    candidates, vectors = pile(600)
    quotas = {"code": 2.0, "docs": 1.0, "talk": 1.0}
    first = select(candidates, vectors, target=100, method=method, quotas=quotas)
    order = np.random.default_rng(1).permutation(600)
    other = select([candidates[i] for i in order], vectors[order], target=100, method=method, quotas=quotas)
    assert other == first


def categories(made: Selection, candidates: list[Candidate]) -> dict[str, int]:
    of = {item.id: item.category for item in candidates}
    return {name: sum(of[key] == name for key in made.taken) for name in ("code", "docs", "talk")}


@pytest.mark.parametrize("method", ["greedy", "k-center"])
def test_quotas_are_kept(method: str) -> None:
    candidates, vectors = pile(600)
    made = select(candidates, vectors, target=40, method=method, quotas={"code": 2, "docs": 1, "talk": 0})
    assert categories(made, candidates) == {"code": 27, "docs": 13, "talk": 0}
    assert made.notes == []


def test_what_a_category_cannot_fill_goes_to_the_others() -> None:
    few = [Candidate("x1", "rare", 1.0), Candidate("x2", "rare", 0.9)]
    many = [Candidate(f"y{i}", "common", 0.5) for i in range(8)]
    made = select(few + many, at(*range(0, 300, 30)), target=8, quotas={"rare": 1, "common": 1})
    assert sorted(made.taken) == ["x1", "x2", *(f"y{i}" for i in range(6))]
    alike = at(0, 1, *range(30, 270, 30))  # the second rare one is nearly the first
    made = select(few + many, alike, target=4, quotas={"rare": 1, "common": 1})
    assert made.taken == ["x1", "y0", "y1", "y2"]
    assert made.notes == ["'rare': 1 instead of 2, there are no more that differ enough"]


def test_k_center_covers_what_there_is() -> None:
    made = select(some(1, 2, 3, 4), at(0, 10, 90, 180), target=3, method="k-center")
    assert made.taken == ["d", "a", "c"]  # the best; the opposite; what is between
    (b,) = made.entries
    assert b.counterpart == "a" and b.detail.startswith("others came first")
    candidates, vectors = pile(400)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    place = {item.id: i for i, item in enumerate(candidates)}

    def farthest(keys: list[str]) -> float:
        return float((1 - (unit @ unit[[place[key] for key in keys]].T).max(axis=1)).max())

    centres = select(candidates, vectors, target=60, method="k-center").taken
    assert farthest(centres) < farthest(select(candidates, vectors, target=60).taken)
    chance = [candidates[i].id for i in random.Random(0).sample(range(400), 60)]
    assert farthest(centres) < 0.7 * farthest(chance)


def test_more_wanted_than_there_are() -> None:
    made = select(some(1, 2), at(0, 1), target=3)
    assert made.taken == ["b", "a"] and made.entries == []
    assert made.notes == ["3 wanted, and there are 2: all are taken"]


def test_unscored_examples_come_last() -> None:
    made = select([*some(1, 2), Candidate("z", "", -math.inf)], at(0, 90, 180), target=1)
    assert made.taken == ["b"] and made.notes == ["1 of 3 examples have no score and come last"]
    assert [entry.score for entry in made.entries] == [1.0, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 0}, "a target of 0"),
        ({"max_cosine": 0}, "a cosine limit of 0"),
        ({"quotas": {"x": 1}}, "no quota for ''"),
        ({"quotas": {"": 1, "x": 1}}, "a quota for 'x'"),
        ({"quotas": {"": 0}}, "all 0"),
        ({"vectors": np.array([[1, 0], [np.nan, 1], [0, 1]], np.float32)}, "1 embeddings are not finite"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        select(some(1, 2, 3), **{"vectors": at(0, 90, 180), "target": 2, **change})


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = []
    for index in range(6):
        record = Record((Message("user", f"Question {index}"), Message("assistant", "Yes.")))
        content, meta = canonical_json(record.as_json()), canonical_json({"grade": index / 2} if index else {})
        rows.append(Stored(example_id(content, "a", 0), "a", f"a:{index}", "conversation", content, meta=meta))
    return create(tmp_path, rows, [], "0")


def test_scores_come_from_the_ledger_and_can_be_taken_back(dataset: Dataset) -> None:
    (batch,) = dataset.map(list)
    ids = [example.id for example in batch]
    dataset.add("difficulty", 1, {}, [Entry(key, "score", "difficulty", score=0.25) for key in ids[:4]])
    dataset.add("other", 1, {}, [Entry(ids[1], "score", "length", score=9.0)])
    dataset.add("difficulty", 1, {}, [Entry(ids[2], "score", "difficulty", score=0.5)])
    assert scores(dataset, "difficulty") == {ids[0]: 0.25, ids[1]: 0.25, ids[2]: 0.5, ids[3]: 0.25}
    dataset.add("undo", 1, {}, [Entry("", "undo", "undone", counterpart="1")])
    assert scores(dataset, "difficulty") == {ids[2]: 0.5}
    assert [example.id for batch in dataset.map(list) for example in batch] == ids  # a score changes nothing


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """A table of random vectors, one for each of a few words."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "table"
    folder.mkdir()
    words = ["[UNK]", "Question", "Yes", *map(str, range(6))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.random.default_rng(0).normal(size=(len(words), 12)).astype(np.float32)
    save_file({"embeddings": vectors}, folder / "model.safetensors")
    return folder


def test_over_a_folder(dataset: Dataset, embeddings: Path) -> None:
    (batch,) = dataset.map(list)
    ids = [example.id for example in batch]
    dataset.add("split", 1, {}, [Entry(ids[0], "split", "validation side", after="validation")])
    with pytest.raises(DataError, match="no difficulty was measured"):
        select_examples(dataset, embeddings, target=2)
    values = dict(zip(ids, (0.9, 0.2, 0.3, 0.8, 1.5, 0.7), strict=True))
    dataset.add("difficulty", 1, {}, [Entry(key, "score", "difficulty", score=score) for key, score in values.items()])
    made = select_examples(dataset, embeddings, target=2, max_cosine=0.9999)
    assert made.taken == [ids[3], ids[5]]  # what the prompt does not help is not the best
    assert {entry.record for entry in made.entries} == {ids[1], ids[2], ids[4]}  # what is held out is no candidate
    dataset.add("select", 1, {}, made.entries)
    assert {example.id for batch in dataset.map(list) for example in batch} == {ids[0], ids[3], ids[5]}


def test_texts_without_known_words_are_like_no_other() -> None:
    made = select(some(3, 2, 1), np.array([[0, 0], [0, 0], [1, 0]], np.float32), target=2)
    assert made.taken == ["a", "b"]


def test_difficulty_is_ranked_among_answers_of_like_length() -> None:
    draw = random.Random(0)
    lengths = {f"{draw.getrandbits(80):020x}": draw.randint(1, 500) for _ in range(1000)}
    values = {key: 0.2 + length / 1000 + 0.2 * draw.random() for key, length in lengths.items()}
    ranks = ranks_within_lengths(values, lengths)
    keys = sorted(values)

    def alike(scores: dict[str, float]) -> float:
        return float(np.corrcoef([scores[key] for key in keys], [lengths[key] for key in keys])[0, 1])

    assert alike(values) > 0.9 and abs(alike(ranks)) < 0.1
    assert min(ranks.values()) == pytest.approx(0.005) and max(ranks.values()) == pytest.approx(0.995)
    few = ranks_within_lengths({"a": 0.5, "b": 0.1}, {"a": 9, "b": 1})
    assert few == {"a": 0.75, "b": 0.25}
    assert ranks_within_lengths({"a": 1.0, "b": 0.1}, {"a": 9, "b": 1}) == {"b": 0.5}  # not helped by its prompt
    assert ranks_within_lengths({}, {}) == {}
