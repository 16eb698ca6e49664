"""Small tokenizers, trained in this process, of the kinds that real model families use, saved as model folders."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import decoders as dec

from helpers_templates import TEMPLATES

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Hello, how are you today? I am fine, thank you!",
    "A luthier builds and repairs string instruments such as violins, cellos and guitars.",
    "Write a short answer. What is the capital of France? The capital of France is Paris.",
    "### Instruction:\nName a colour.\n\n### Response:\nBlue is a colour.\n\n",
    "user assistant system model instruction response answer question Hi there, Hello again.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))  # 3\n",
    "Grüße aus Köln, naïve café, 日本語のテキスト, emoji 🎻 and more words words words.",
] * 4

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Style:
    """A model family: which tokenizer, which special tokens, which template."""

    kind: str  # a key of KINDS
    template: str | None  # a key of TEMPLATES
    bos: str = ""
    eos: str = "</s>"
    specials: tuple[str, ...] = ("<unk>", "<s>", "</s>")
    words: tuple[str, ...] = ()  # added tokens that are not special
    stops: tuple[str, ...] = ()  # generation_config's eos_token_id
    pad: str = ""
    adds_bos: bool = False


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
_MISTRAL3 = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
_THINK = ("<think>", "</think>")

STYLES = {
    "chatml": Style("level", "chatml", "<|im_start|>", "<|im_end|>", _CHATML, pad="<|im_end|>"),
    "qwen2.5": Style("llama3", "qwen2.5", "", "<|im_end|>", _CHATML, stops=("<|im_end|>", "<|endoftext|>")),
    "llama3": Style(
        "llama3",
        "llama3",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        _LLAMA3,
        stops=("<|end_of_text|>", "<|eot_id|>"),
        pad="<|end_of_text|>",
        adds_bos=True,
    ),
    "mistral-v0.1": Style("legacy", "mistral-v0.1", "<s>", adds_bos=True, pad="</s>"),
    "mistral-v3": Style("metaspace", "mistral-v3", "<s>", specials=_MISTRAL3, adds_bos=True),
    "gemma": Style(
        "gemma", "gemma", "<bos>", "<eos>", _GEMMA, stops=("<eos>", "<end_of_turn>"), pad="<pad>", adds_bos=True
    ),
    "zephyr": Style("legacy", "zephyr", "<s>", adds_bos=True, pad="</s>"),
    "alpaca": Style("metaspace", "alpaca", "<s>", adds_bos=True),
    "alpaca-level": Style("level", "alpaca", "", "<|endoftext|>", ("<|endoftext|>",)),
    "qwen3": Style("llama3", "qwen3", "", "<|im_end|>", _CHATML, _THINK, stops=("<|im_end|>", "<|endoftext|>")),
    "no-prompt": Style("level", "no-prompt", "", "<|im_end|>", _CHATML),
    "trimmed": Style("level", "trimmed", "", "<|im_end|>", _CHATML),
    "dated": Style("level", "dated", "", "<|im_end|>", _CHATML),
    "phi3": Style("phi3", "phi3", "<s>", "<|endoftext|>", stops=("<|endoftext|>", "<|end|>"), pad="<|endoftext|>"),
    "deepseek": Style("level", "deepseek", "", "<|endoftext|>", ("<|endoftext|>", "<|User|>", "<|Assistant|>"), _THINK),
    "generation-tags": Style("level", "generation-tags", "", "<|im_end|>", _CHATML),
    "unigram": Style("unigram", "zephyr", "<s>", pad="</s>"),
    "none": Style("level", None, "", "<|endoftext|>", ("<|endoftext|>",)),
}


def model_folder(folder: Path, style: str) -> Path:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json of `style` into `folder`."""
    what = STYLES[style]
    folder.mkdir(parents=True, exist_ok=True)
    text = _trained(what)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    ids = Tokenizer.from_str(text)
    config: dict[str, Any] = {"eos_token": what.eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    if what.bos:
        config["bos_token"] = what.bos
    if what.pad:
        config["pad_token"] = what.pad
    if "<unk>" in what.specials:
        config["unk_token"] = "<unk>"
    if what.template is not None:
        config["chat_template"] = TEMPLATES[what.template]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    stops = [ids.token_to_id(token) for token in what.stops or (what.eos,)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}), encoding="utf-8")
    return folder


@functools.cache
def _trained(style: Style) -> str:
    tokenizer = {
        "level": _level,
        "llama3": _llama3,
        "metaspace": _metaspace,
        "legacy": _legacy,
        "phi3": _phi3,
        "gemma": _gemma,
        "unigram": _unigram,
    }[style.kind](list(style.specials))
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in style.words])
    if style.adds_bos:
        bos = processors.TemplateProcessing(
            single=f"{style.bos} $A", special_tokens=[(style.bos, tokenizer.token_to_id(style.bos))]
        )
        tokenizer.post_processor = bos
    text: str = tokenizer.to_str()
    return text


def _level(specials: list[str]) -> Tokenizer:
    """GPT-2 and SmolLM2: ByteLevel with its own regex; special tokens are the first ids of the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = dec.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _llama3(specials: list[str]) -> Tokenizer:
    """Llama 3 and Qwen: a split regex before ByteLevel, ignore_merges, special tokens behind the vocabulary."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = dec.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer


def _pieces(specials: list[str]) -> models.BPE:
    """A SentencePiece-like BPE: special tokens, 256 bytes to fall back on, then pieces with ▁ for spaces."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokens = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    merges = [tuple(merge) for merge in model["merges"]]
    vocab = {token: number for number, token in enumerate(tokens)}
    return models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)


def _specials(tokenizer: Tokenizer, specials: list[str], **flags: bool) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False, **flags) for token in specials])
    return tokenizer


def _metaspace(specials: list[str]) -> Tokenizer:
    """Newer Llama and Mistral: Metaspace, a leading space at the start of the text only."""
    tokenizer = Tokenizer(_pieces(specials))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = dec.Sequence([dec.Replace("▁", " "), dec.ByteFallback(), dec.Fuse(), dec.Strip(" ", 1, 0)])
    return _specials(tokenizer, specials)


def _legacy(specials: list[str]) -> Tokenizer:
    """Llama 2 and Zephyr: a normalizer that puts a space before every stretch of text."""
    tokenizer = Tokenizer(_pieces(specials))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = dec.Sequence([dec.Replace("▁", " "), dec.ByteFallback(), dec.Fuse(), dec.Strip(" ", 1, 0)])
    return _specials(tokenizer, specials)


def _phi3(specials: list[str]) -> Tokenizer:
    """Phi-3: as Llama 2, with special tokens that swallow the whitespace behind them."""
    tokenizer = _legacy(specials)
    extra = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    return _specials(tokenizer, extra, rstrip=True)


def _gemma(specials: list[str]) -> Tokenizer:
    """Gemma: spaces become ▁, nothing is put before a text."""
    tokenizer = Tokenizer(_pieces(specials))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = dec.Sequence([dec.Replace("▁", " "), dec.ByteFallback(), dec.Fuse()])
    return _specials(tokenizer, specials)


def _unigram(specials: list[str]) -> Tokenizer:
    """T5-like: a Unigram model whose vocabulary holds the special tokens' spellings as pieces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = dec.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=specials,
        unk_token="<unk>",
        show_progress=False,
        initial_alphabet=list("<>/|_abcdefghijklmnopqrstuvwxyz"),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer
