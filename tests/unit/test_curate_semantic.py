"""Semantic duplicates: the three kinds of folder, what a table does to vectors, and which rows are never the same."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from helpers_curate import make_dataset, stored, talk
from luthier.core.errors import DataError
from luthier.curate import folder as curate_folder
from luthier.curate import semantic
from luthier.curate.semantic import _cells, semantic_duplicates, semantic_duplicates_in
from luthier.curate.semantic_table import StaticTable, _read, distill, make_table, open_table
from luthier.data.records import Record

WORDS = [
    "[UNK]",
    *("big", "large", "small", "tiny", "car", "auto", "dog", "cat", "house", "red", "blue", "the", "of"),
    *("write", "about", "a", "poem", "tell", "me", "how", "fast"),
]
SAME = [("big", "large"), ("small", "tiny"), ("car", "auto")]


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def vectors() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(len(WORDS), 32)).astype(np.float32)
    for one, other in SAME:
        values[WORDS.index(other)] = values[WORDS.index(one)] + 0.01
    return values


def folder(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors")
    tokenizer().save(str(path / "tokenizer.json"))
    return path


def plain(path: Path) -> Path:
    return folder(path, {"embeddings": vectors()})


def find(path: Path, *records: Record, **options: object) -> list[tuple[int, int, str]]:
    """(which, the one kept, action) of what is found among records."""
    rows = stored(records)
    numbers = {row.id: number for number, row in enumerate(rows)}
    entries = semantic_duplicates(make_dataset(path / "data", records), plain(path / "table"), **options)
    return sorted((numbers[entry.record], numbers[entry.counterpart], entry.action) for entry in entries)


def test_a_text_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    table = open_table(plain(tmp_path / "table"))
    mean = vectors()[[WORDS.index("big"), WORDS.index("dog")]].mean(0)
    made = table.embed(["big unknown dog", "", "unknown"])
    assert made.dtype == np.float32
    assert np.allclose(made[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert not made[1:].any()


def test_weights_and_mapping_of_model2vec(tmp_path: Path) -> None:
    weights, mapping = np.arange(1.0, len(WORDS) + 1), np.arange(len(WORDS))[::-1].copy()
    path = folder(tmp_path / "t", {"embeddings": vectors()[::-1].copy(), "mapping": mapping, "weights": weights})
    assert np.allclose(open_table(path).vectors, vectors() * weights[:, None])


def test_sentence_transformers_layouts(tmp_path: Path) -> None:
    folder(tmp_path / "st" / "0_StaticEmbedding", {"embedding.weight": vectors()})
    assert np.array_equal(open_table(tmp_path / "st").vectors, vectors())


def test_a_model_folder_gives_a_table(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", {"model.embed_tokens.weight": vectors(), "other": np.zeros(3)})
    assert np.array_equal(open_table(path).vectors, make_table(vectors()))


def test_bfloat16_is_read(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, len(data)]}}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)
    assert np.array_equal(_read(file, "x"), values)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="cut off"):
        _read(file, "x")


def test_a_table_takes_away_what_all_texts_share() -> None:
    source = np.random.default_rng(1)
    raw = source.normal(size=(500, 200)).astype(np.float32) + 10 * source.normal(size=200).astype(np.float32)
    texts = source.integers(0, 500, size=(200, 30))

    def mean_cosine(values: np.ndarray) -> float:
        rows = values[texts].mean(1)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return float((rows @ rows.T)[np.triu_indices(200, 1)].mean())

    assert mean_cosine(raw) > 0.95
    assert abs(mean_cosine(make_table(raw, dimensions=64))) < 0.3


def test_a_table_has_neither_an_average_text_nor_the_strongest_component_in_it() -> None:
    source = np.random.default_rng(4)
    raw = source.normal(size=(800, 100)).astype(np.float32)
    strong = source.normal(size=800).astype(np.float32)
    raw[:, 0] = 50 * strong + 7
    made = make_table(raw, dimensions=99)
    frequency = 1 / np.arange(1, 801)
    frequency /= frequency.sum()
    weights = 1e-4 / (1e-4 + frequency)
    vectors = made / weights[:, None]
    assert np.abs((frequency * weights) @ vectors).max() < 1e-3 * (frequency @ weights)
    assert np.abs(np.corrcoef(np.c_[strong, vectors].T)[0, 1:]).max() < 0.3


def test_distilling_writes_a_folder_that_opens(tmp_path: Path) -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return vectors()

    made = distill(encode, tokenizer(), tmp_path / "table")
    assert seen == WORDS
    assert np.array_equal(made.vectors, open_table(tmp_path / "table").vectors)
    assert json.loads((tmp_path / "table" / "config.json").read_text())["normalize"] is True


def test_the_inside_of_a_word_is_distilled_without_its_mark(tmp_path: Path) -> None:
    pieces = ["[UNK]", "lute", "##nist", "##s", "##", "#"]
    parts = models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]")
    made = Tokenizer(parts)
    made.decoder = decoders.WordPiece()
    seen: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return np.random.default_rng(0).standard_normal((len(texts), 4)).astype(np.float32)

    distill(encode, made, tmp_path / "table")
    assert seen == ["[UNK]", "lute", "nist", "s", "##", "#"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"other": np.zeros((3, 2))}, "no embedding"),
        ({"embeddings": np.zeros(3)}, "no matrix"),
        ({"embeddings": np.zeros((3, 2))}, "3 vectors for a vocabulary"),
    ],
)
def test_folders_that_cannot_be_used(tensors: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_table(folder(tmp_path / "t", tensors))
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        open_table(tmp_path)


def test_other_words_for_the_same_are_marked_for_review(tmp_path: Path) -> None:
    rows = [
        talk("write about a big car", "fast"),
        talk("write about a large auto", "fast"),
        talk("tell me how", "fast"),
    ]
    (one, other, action), *more = find(tmp_path, *rows)
    assert {one, other} == {0, 1} and action == "flag" and not more


def test_taking_out_only_when_asked(tmp_path: Path) -> None:
    rows = talk("write about a big car", "fast"), talk("write about a large auto", "fast")
    assert [action for _, _, action in find(tmp_path, *rows, action="duplicate")] == ["duplicate"]


@pytest.mark.parametrize(
    "other",
    [
        talk("write 3 about a large auto", "fast"),
        talk("write 'about' a large auto", "fast"),
        talk("write about() a large auto", "fast"),
        talk("write about a large auto", "small"),
        Record(text="write about a large auto fast"),
    ],
)
def test_rows_that_are_never_the_same(other: Record, tmp_path: Path) -> None:
    assert find(tmp_path, talk("write about a big car", "fast"), other) == []


@pytest.mark.parametrize("exact", [200_000, 20])
def test_order_and_workers_change_nothing(exact: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate_folder, "BATCH", 100)
    monkeypatch.setattr(semantic, "EXACT", exact)
    source = np.random.default_rng(2)
    rows = stored([talk(" ".join(source.choice(WORDS[1:], 3)), source.choice(WORDS[1:7])) for _ in range(420)])
    table = plain(tmp_path / "table")
    there = semantic_duplicates(make_dataset(tmp_path / "a", rows), table, workers=2)
    back = semantic_duplicates(make_dataset(tmp_path / "b", rows[::-1]), table)
    assert there and there == back


def test_neighbourhoods_cover_every_row_and_find_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(3)
    values = source.normal(size=(400, 16)).astype(np.float16)
    cells = list(_cells(values, np.arange(400)))
    assert sorted({row for cell in cells for row in cell.tolist()}) == list(range(400))
    monkeypatch.setattr(semantic, "EXACT", 1)
    notes: Counter[str] = Counter()
    rows = (
        talk("write about a big car", "fast"),
        talk("write about a large auto", "fast"),
        talk("tell me how", "the dog"),
    )
    assert len(find(tmp_path, *rows, notes=notes)) == 1
    assert notes["rows compared within neighbourhoods only"] == 3


def test_neighbouring_rows_of_a_chain_are_split_into_stars() -> None:
    """Three vectors in a plane, 15 degrees apart: the ends are 30 degrees apart and no duplicates."""
    angles = np.radians([0, 15, 30])
    values = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float16)
    joined = semantic._join(values, np.array([b"x"] * 3), 0.95, Counter())
    assert [group.tolist() for group in joined.groups()] == [[0, 1, 2]]
    table = np.zeros((len(WORDS), 2), np.float32)
    names = ["big", "car", "dog"]
    table[[WORDS.index(name) for name in names]] = values
    found = semantic_duplicates_in(zip("abc", names, strict=True), StaticTable(table, tokenizer(), 0))
    assert [(entry.record, entry.counterpart) for entry in found] == [("b", "a")]
