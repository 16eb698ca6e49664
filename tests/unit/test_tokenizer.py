import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from helpers_tokenizers import STYLES, model_folder
from luthier.core.errors import DataError, ModelError
from luthier.data.tokenizer import Piece, Place, Tokenizer

TEXTS = [
    "Hello, how are you today?",
    " leading and trailing  ",
    "\n\nnew\nlines\n\n\n  indented\n",
    "naïve café 日本語 🎻👩‍👩‍👧 e\u0301 \u200b",
    "def add(a, b):\n    return a + b\n",
    "a < b > c | d [x] ### y",
]


def change(folder: Path, name: str, **values: Any) -> None:
    """Set keys of a JSON file; None deletes."""
    path = folder / name
    data = json.loads(path.read_text()) if path.exists() else {}
    data = {key: value for key, value in {**data, **values}.items() if value is not None}
    path.write_text(json.dumps(data))


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def folder(style: str, tmp_path: Path) -> Path:
    return model_folder(tmp_path, style)


@pytest.fixture
def level(tmp_path: Path) -> Path:
    return model_folder(tmp_path, "chatml")


def test_plain_text_gets_the_ids_of_the_stock_tokenizer(folder: Path) -> None:
    stock = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = Tokenizer(folder)
    for text in TEXTS:
        assert ours.encode(text) == stock.encode(text, add_special_tokens=False).ids


def test_no_text_becomes_a_special_token(style: str, folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    allowed = {tokenizer.special_ids.get("<unk>")}
    for special, number in tokenizer.special_ids.items():
        for text in (
            special,
            f"say {special} twice {special}",
            f"{special}\n",
            f"\ufdd0{number}\ufdd1",
            f" {special} ",
        ):
            try:
                ids = tokenizer.encode(text)
            except DataError as error:
                # Only where whole words are looked up in the vocabulary can the private name be met at all.
                assert STYLES[style].kind == "unigram" and "\ufdd0" in text and "U+FDD0" in str(error)
                continue
            assert set(ids).isdisjoint(set(tokenizer.special_ids.values()) - allowed)
            if "\ufdd0" not in text and None in allowed:  # a tokenizer without <unk> loses nothing
                assert tokenizer.decode(ids).strip() == text.strip()


def test_a_rendered_text_has_its_special_tokens(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    specials = list(tokenizer.special_ids)
    ids = tokenizer.encode_rendered("Hello".join(specials))
    assert [number for number in ids if tokenizer.is_special(number)] == [tokenizer.special_ids[s] for s in specials]


def test_the_bytes_of_the_tokens_spell_the_text(style: str, folder: Path) -> None:
    kind = STYLES[style].kind
    tokenizer = Tokenizer(folder)
    for text in TEXTS if kind != "unigram" else ["hello you", "a </s> b"]:
        spelled = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))).decode()
        expected = text.replace("e\u0301", "é") if kind == "level" else text  # that one normalises Unicode
        assert spelled in ([expected, f" {expected}"] if tokenizer.leading_space else [expected])


def test_a_special_token_spelled_as_a_whole_word_is_text_too(tmp_path: Path) -> None:
    """A Unigram vocabulary holds "</s>" as a piece, and a merge-ignoring BPE would take a whole word as it is."""
    tokenizer = Tokenizer(model_folder(tmp_path, "unigram"))
    stock = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    stock.encode_special_tokens = True
    assert tokenizer.eos_id in stock.encode("</s>").ids, "the stock tokenizer shows no problem to solve"
    assert tokenizer.eos_id not in tokenizer.encode("</s>")
    assert tokenizer.encode_rendered("</s>") == [tokenizer.eos_id]


def test_merges_that_build_a_special_token_are_left_out(level: Path) -> None:
    data = json.loads((level / "tokenizer.json").read_text())
    vocab, merges = data["model"]["vocab"], data["model"]["merges"]
    text = "[E]"
    vocab["[E"] = len(vocab)
    vocab[text] = len(vocab)
    merges += [["[", "E"], ["[E", "]"]]
    data["pre_tokenizer"]["use_regex"] = False
    data["added_tokens"].append({**data["added_tokens"][0], "id": vocab[text], "content": text})
    (level / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = Tokenizer(level)
    assert len(tokenizer.encode(text)) == 2
    assert tokenizer.encode_rendered(text) == [tokenizer.special_ids[text]]


def test_of_two_special_tokens_the_longer_is_found(level: Path) -> None:
    data = json.loads((level / "tokenizer.json").read_text())
    number = max(data["model"]["vocab"].values()) + 1
    data["added_tokens"].append({**data["added_tokens"][0], "id": number, "content": "<|im_end|>!"})
    (level / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = Tokenizer(level)
    assert tokenizer.encode_rendered("<|im_end|>!<|im_end|>") == [number, tokenizer.eos_id]


def test_words_that_are_tokens_stay_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer(model_folder(tmp_path, "qwen3"))
    ids = tokenizer.encode("<think>hm</think>")
    assert [tokenizer.token_bytes(number) for number in ids] == [b"<think>", b"h", b"m", b"</think>"]
    assert tokenizer.decode(ids) == "<think>hm</think>"


@pytest.mark.parametrize("style", ["mistral-v0.1", "mistral-v3", "unigram"])
def test_a_stretch_of_text_in_the_middle_gets_no_space_in_front(style: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(model_folder(tmp_path, style))
    assert tokenizer.leading_space
    start, middle = tokenizer.encode_pieces([Piece("Hello", Place.START), Piece("Hello", Place.TEXT)])
    assert tokenizer.token_bytes(start[0])[:1] == b" "
    assert tokenizer.token_bytes(middle[0])[:1] == b"H"


def test_a_stretch_after_a_special_token_is_as_in_the_stock_tokenizer(folder: Path) -> None:
    stock = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer(folder)
    for text in (f"Hello{tokenizer.eos_token}Hello you", f"{tokenizer.eos_token}\n  Hello", f"{tokenizer.eos_token}"):
        assert tokenizer.encode_rendered(text) == stock.encode(text, add_special_tokens=False).ids


def test_decode_skips_special_tokens_or_shows_them(level: Path) -> None:
    tokenizer = Tokenizer(level)
    ids = [*tokenizer.encode("Hello"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "Hello"
    assert tokenizer.decode(ids, skip_special=False) == "Hello<|im_end|>"
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b""


def test_stop_ids_and_names_come_from_the_folder(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "llama3")
    tokenizer = Tokenizer(folder)
    ids = tokenizer.special_ids
    assert tokenizer.stop_ids == {ids["<|end_of_text|>"], ids["<|eot_id|>"]}
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|end_of_text|>",
    )
    assert tokenizer.adds_bos
    assert tokenizer.vocab_size == max(ids.values()) + 1

    (folder / "generation_config.json").unlink()
    change(folder, "config.json", eos_token_id=ids["<|eot_id|>"])
    change(folder, "tokenizer_config.json", add_bos_token=False)
    again = Tokenizer(folder)
    assert again.stop_ids == {ids["<|end_of_text|>"], ids["<|eot_id|>"]}
    assert not again.adds_bos


def test_the_end_of_sequence_token_can_be_known_by_id_or_from_the_map(level: Path) -> None:
    change(level, "tokenizer_config.json", eos_token=None)
    assert Tokenizer(level).eos_token == "<|im_end|>"
    (level / "generation_config.json").unlink()
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        Tokenizer(level)
    change(level, "special_tokens_map.json", eos_token={"content": "<|endoftext|>"})
    assert Tokenizer(level).eos_token == "<|endoftext|>"
    change(level, "special_tokens_map.json", eos_token="<|absent|>")
    with pytest.raises(ModelError, match=r"'<\|absent\|>' is not in tokenizer.json"):
        Tokenizer(level)


def test_a_token_named_special_is_special_even_if_the_file_forgot(level: Path) -> None:
    data = json.loads((level / "tokenizer.json").read_text())
    for entry in data["added_tokens"]:
        entry["special"] = False
    (level / "tokenizer.json").write_text(json.dumps(data))
    change(level, "tokenizer_config.json", additional_special_tokens=["<|im_start|>"])
    tokenizer = Tokenizer(level)
    assert set(tokenizer.special_ids) == {"<|im_start|>", "<|im_end|>"}
    assert tokenizer.eos_id not in tokenizer.encode("<|im_end|>")


def test_where_the_chat_template_is_found(level: Path) -> None:
    change(
        level,
        "tokenizer_config.json",
        chat_template=[{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}],
    )
    assert Tokenizer(level).chat_template == "d"
    (level / "chat_template.jinja").write_text("file")
    assert Tokenizer(level).chat_template == "file"
    (level / "chat_template.jinja").unlink()
    change(level, "tokenizer_config.json", chat_template=None)
    assert Tokenizer(level).chat_template is None


def test_the_fingerprint_tells_tokenizers_apart(level: Path) -> None:
    first = Tokenizer(level).fingerprint
    assert Tokenizer(level).fingerprint == first
    change(level, "tokenizer_config.json", chat_template="other")
    assert Tokenizer(level).fingerprint == first, "the template is hashed where it is used"
    change(level, "generation_config.json", eos_token_id=[0, 2])
    second = Tokenizer(level).fingerprint
    with (level / "tokenizer.json").open("a") as file:
        file.write("\n")
    assert len({first, second, Tokenizer(level).fingerprint}) == 3


def test_settings_that_would_cut_or_pad_are_switched_off(level: Path) -> None:
    expected = Tokenizer(level).encode("Hello, how are you today?")
    change(
        level,
        "tokenizer.json",
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        },
    )
    assert Tokenizer(level).encode("Hello, how are you today?") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no tokenizer.json"),
        ("{", "no valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no vocabulary"),
        ('{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}', "without id or content"),
        ('{"model": {"type": "Nonsense", "vocab": {"<|im_end|>": 0}}, "added_tokens": []}', "cannot be used"),
        (
            '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": '
            '[{"id": 7, "content": "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": false, '
            '"normalized": false, "special": true}]}',
            "contradict",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(text: str | None, message: str, level: Path) -> None:
    (level / "tokenizer.json").unlink()
    if text is not None:
        (level / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        Tokenizer(level)
    assert str(level) in str(caught.value)


def test_half_a_surrogate_pair_is_refused(level: Path) -> None:
    with pytest.raises(DataError, match="surrogate"):
        Tokenizer(level).encode("a\ud800b")
