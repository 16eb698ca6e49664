"""Tokenizers built from .gguf metadata."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from helpers_store import PIECES, TEMPLATE, TOKENS, sentencepiece_meta, twin, write_gguf
from luthier.core.errors import ModelError
from luthier.models.gguf_file import GgufFile
from luthier.models.gguf_tokenizer import write_tokenizer

TEXTS = ["hello world 123", "Größe — naïve 日本語 🎻", "  two  spaces\n\n\ttab", "It's 12345!", "hello123hello"]


@pytest.fixture(scope="module")
def model() -> Any:
    return twin("llama", tied=True)


def built(folder: Path, model: Any, tokenizer: str, **meta: Any) -> Tokenizer:
    named = {f"tokenizer.{key.replace('__', '.')}": value for key, value in meta.items()}
    path = write_gguf(folder / "m.gguf", model=model, tokenizer=tokenizer, meta=named)
    write_tokenizer(GgufFile(path), folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_smollm(tmp_path: Path, model: Any) -> None:
    tokenizer = built(tmp_path, model, "smollm")
    assert tokenizer.encode("hello 123").tokens == ["hello", "Ġ", "1", "2", "3"]
    assert tokenizer.encode("<|im_start|>he<|im_end|>").ids == [1, TOKENS.index("he"), 2]
    assert tokenizer.get_vocab_size() == len(TOKENS)  # [PAD266] is no token
    assert {id_: token.content for id_, token in tokenizer.get_added_tokens_decoder().items()} == dict(
        enumerate(TOKENS[:3])
    )
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == config["pad_token"] == "<|im_end|>"
    assert config["bos_token"] == "<|im_start|>" and config["add_bos_token"] is False
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (tmp_path / "chat_template.jinja").read_text() == TEMPLATE


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "qwen2", "gpt-2", "tekken", "deepseek-r1-qwen"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(tmp_path: Path, model: Any, pre: str, text: str) -> None:
    tokenizer = built(tmp_path, model, pre)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


@pytest.mark.parametrize(
    ("pre", "wanted"),
    [
        ("gpt-2", ["12345", "Ġ12"]),
        ("smollm", ["1", "2", "3", "4", "5", "Ġ", "1", "2"]),
        ("llama-bpe", ["123", "45", "Ġ", "12"]),
        ("qwen2", ["1", "2", "3", "4", "5", "Ġ", "1", "2"]),
        ("tekken", ["1", "2", "3", "4", "5", "Ġ", "1", "2"]),
    ],
)
def test_digits(tmp_path: Path, model: Any, pre: str, wanted: list[str]) -> None:
    tokenizer = built(tmp_path, model, pre)
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("12345 12")] == wanted


def test_words_that_differ_between_pre_tokenizers(tmp_path: Path, model: Any) -> None:
    pieces = {}
    for pre in ("gpt-2", "llama-bpe", "tekken"):
        (tmp_path / pre).mkdir()
        found = built(tmp_path / pre, model, pre).pre_tokenizer.pre_tokenize_str("DON'T fooBar.\n\n")
        pieces[pre] = [piece for piece, _ in found]
    assert pieces["gpt-2"] == ["DON", "'", "T", "ĠfooBar", ".", "ĊĊ"]
    assert pieces["llama-bpe"] == ["DON", "'T", "ĠfooBar", ".ĊĊ"]
    assert pieces["tekken"] == ["DON", "'T", "Ġfoo", "Bar", ".ĊĊ"]


def test_only_qwen_normalises(tmp_path: Path, model: Any) -> None:
    for pre, same in (("qwen2", True), ("smollm", False)):
        (tmp_path / pre).mkdir()
        tokenizer = built(tmp_path / pre, model, pre)
        assert (tokenizer.encode("e\u0301").ids == tokenizer.encode("\u00e9").ids) is same


def test_begin_token(tmp_path: Path, model: Any) -> None:
    tokenizer = built(tmp_path, model, "smollm", ggml__add_bos_token=True)
    assert tokenizer.encode("he").ids == [1, TOKENS.index("he")]
    assert tokenizer.encode("he", add_special_tokens=False).ids == [TOKENS.index("he")]


def test_user_defined_tokens_are_added_but_not_special(tmp_path: Path, model: Any) -> None:
    types = [3, 3, 3] + [1] * (len(TOKENS) - 3) + [5]
    types[TOKENS.index("hello")] = 4
    tokenizer = built(tmp_path, model, "smollm", ggml__token_type=types)
    added = tokenizer.get_added_tokens_decoder()[TOKENS.index("hello")]
    assert added.content == "hello" and not added.special and not added.normalized


def naive_sentencepiece(text: str) -> list[str]:
    """Best score first, leftmost first: what SentencePiece's BPE does; unknown characters become bytes."""
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(PIECES[a + b], -at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in PIECES]
        if not pairs:
            break
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [p for part in parts for p in ([part] if part in PIECES else [f"<0x{b:02X}>" for b in part.encode()])]


@pytest.mark.parametrize("text", ["abc", "ab", "ab abc", "aabbcc", "a é b", "cab 🎻", "bcbc", "   a"])
def test_sentencepiece(tmp_path: Path, model: Any, text: str) -> None:
    tokenizer = built(tmp_path, model, "llama")
    found = tokenizer.encode(text, add_special_tokens=False)
    assert found.tokens == naive_sentencepiece(text)
    assert tokenizer.decode(found.ids) == text
    assert tokenizer.encode(text).ids == [1, *found.ids]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["add_bos_token"] is True


def test_sentencepiece_without_space_prefix(tmp_path: Path, model: Any) -> None:
    tokenizer = built(tmp_path, model, "llama", ggml__add_space_prefix=False)
    found = tokenizer.encode("ab", add_special_tokens=False)
    assert found.tokens == ["ab"] and tokenizer.decode(found.ids) == "ab"
    assert tokenizer.decode(tokenizer.encode(" ab", add_special_tokens=False).ids) == " ab"


@pytest.mark.parametrize(
    ("kind", "meta", "words"),
    [
        ("smollm", {"ggml__pre": "klingon"}, "'klingon'; supported are gpt-2, smollm"),
        ("smollm", {"ggml__pre": None}, "does not say how its tokenizer splits"),
        ("smollm", {"ggml__pre": "default"}, "does not say how its tokenizer splits"),
        ("smollm", {"ggml__model": "bert"}, "'bert'; supported are gpt2, llama"),
        ("smollm", {"ggml__model": None}, "tokenizer.ggml.model is missing"),
        ("smollm", {"ggml__merges": ["h zz"]}, "merge 'h zz'"),
        ("smollm", {"ggml__merges": ["he"]}, "merge 'he'"),
        ("smollm", {"ggml__eos_token_id": 999}, "eos_token_id is 999"),
        ("smollm", {"ggml__eos_token_id": None}, "no end token"),
        ("smollm", {"ggml__token_type": [1, 1]}, "2 token types"),
        ("smollm", {"ggml__tokens": ["a", "a"], "ggml__token_type": None}, "'a' is there twice"),
        (
            "smollm",
            {"ggml__tokens": [f"t{i}" for i in range(400)], "ggml__token_type": None},
            "400 tokens, but embeddings",
        ),
        ("llama", {"ggml__scores": [0.0]}, "1 scores"),
        (
            "llama",
            {"ggml__tokens": [t.replace("<0x41>", "A") for t in sentencepiece_meta()["tokenizer.ggml.tokens"]]},
            "256",
        ),
    ],
)
def test_refused_by_name(tmp_path: Path, model: Any, kind: str, meta: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        built(tmp_path, model, kind, **meta)
