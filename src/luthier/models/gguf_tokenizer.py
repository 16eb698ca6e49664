"""tokenizer.json, tokenizer_config.json and the chat template, from the metadata of a .gguf file.

Two kinds exist among the architectures we read: "gpt2" (byte-level BPE with merges) and "llama" (SentencePiece BPE,
where a piece's score orders the merges). The pre-tokenizers follow `llama-vocab.cpp` of llama.cpp and the original
tokenizer.json files that it quotes.
"""

import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from luthier.core.errors import ModelError
from luthier.core.files import write_json, write_text
from luthier.models.gguf_config import need, optional, unsupported
from luthier.models.gguf_file import GgufFile

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
_SPACE = "▁"  # SentencePiece writes a space as U+2581

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _REST
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _REST
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# tokenizer.ggml.pre -> (regex that splits first or "" for GPT-2's, each digit alone, whole words skip merges, NFC)
PRE_TOKENIZERS = {
    "gpt-2": ("", False, False, False),
    "smollm": ("", True, False, False),
    "llama-bpe": (_LLAMA3, False, True, False),
    "qwen2": (_QWEN2, False, False, True),
    "deepseek-r1-qwen": (_QWEN2, False, False, True),
    "tekken": (_TEKKEN, False, True, False),
}


def write_tokenizer(file: GgufFile, folder: Path) -> dict[str, Any]:
    """Write the tokenizer files into `folder` and return the token ids for the two model configs.

    Returns:
        {"bos_token_id": int | None, "eos_token_id": int | list[int], "pad_token_id": int | None}; eos is a list where
        the file also names an end-of-turn token.

    Raises:
        ModelError: tokenizer data is missing, contradictory, or of a kind that we do not build.
    """
    tokens = _tokens(file)
    kind = need(file, "tokenizer.ggml.model", str)
    if kind not in ("gpt2", "llama"):
        raise unsupported(file, f"the tokenizer {kind!r}; supported are gpt2, llama")
    types = optional(file, "tokenizer.ggml.token_type", list, [_NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise _bad(file, f"{len(types)} token types for {len(tokens)} tokens")
    # The converter fills ids that the tokenizer does not use with [PAD123]; they are no tokens.
    vocab = {
        token: id_
        for id_, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if not (type_ == _UNUSED and re.fullmatch(r"\[PAD\d+\]", token))
    }
    named = {name: _token_id(file, f"tokenizer.ggml.{key}_token_id", tokens) for name, key in _NAMED.items()}
    tokenizer = _byte_level(file, vocab) if kind == "gpt2" else _sentencepiece(file, vocab, tokens, types, named)
    for id_, type_ in enumerate(types):
        if type_ in (_CONTROL, _USER_DEFINED):
            tokenizer.add_tokens([AddedToken(tokens[id_], special=type_ == _CONTROL, normalized=False)])
    default_bos = kind == "llama" or file.metadata.get("tokenizer.ggml.pre") in ("llama-bpe", "tekken")
    add_bos = optional(file, "tokenizer.ggml.add_bos_token", bool, default_bos) and named["bos"] is not None
    if add_bos:
        bos = tokens[named["bos"]]
        template = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, named["bos"])]
        )
        tokenizer.post_processor = template
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    _write_config(file, folder, tokens, named, add_bos)
    eos = list(dict.fromkeys(named[name] for name in ("eos", "eot", "eom") if named[name] is not None))
    if not eos:
        raise _bad(file, "no end token: tokenizer.ggml.eos_token_id is missing")
    return {"bos_token_id": named["bos"], "eos_token_id": eos if len(eos) > 1 else eos[0], "pad_token_id": named["pad"]}


_NAMED = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "eot": "eot", "eom": "eom"}


def _write_config(file: GgufFile, folder: Path, tokens: list[str], named: dict[str, int | None], add_bos: bool) -> None:
    """tokenizer_config.json and chat_template.jinja."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": optional(file, f"{file.metadata['general.architecture']}.context_length", int, 0),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": add_bos,
        "add_eos_token": optional(file, "tokenizer.ggml.add_eos_token", bool, False),
    }
    for name in ("bos", "eos", "unk", "pad"):
        id_ = named[name]
        if id_ is not None:
            config[f"{name}_token"] = tokens[id_]
    write_json(folder / "tokenizer_config.json", config)
    template = optional(file, "tokenizer.chat_template", str, "")
    if template:
        write_text(folder / "chat_template.jinja", template)


def _byte_level(file: GgufFile, vocab: dict[str, int]) -> Tokenizer:
    """Byte-level BPE with the merges of the file."""
    pre = optional(file, "tokenizer.ggml.pre", str, "default")
    if pre == "default":
        what = "the file does not say how its tokenizer splits words (tokenizer.ggml.pre), so tokens would be wrong"
        raise ModelError(
            what, where=str(file.path), fix="fetch a newer conversion of the model, or its Hugging Face folder"
        )
    if pre not in PRE_TOKENIZERS:
        raise unsupported(file, f"the pre-tokenizer {pre!r}; supported are {', '.join(PRE_TOKENIZERS)}")
    regex, digits, whole_words, nfc = PRE_TOKENIZERS[pre]
    merges: list[tuple[str, str]] = []
    for merge in need(file, "tokenizer.ggml.merges", list):
        left, _, right = str(merge).partition(" ")
        if not {left, right, left + right} <= vocab.keys():
            raise _bad(file, f"the merge {merge!r} uses a token that is not in the vocabulary")
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole_words))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if regex:
        steps.append(pre_tokenizers.Split(Regex(regex), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not regex))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(
    file: GgufFile, vocab: dict[str, int], tokens: list[str], types: list[int], named: dict[str, int | None]
) -> Tokenizer:
    """SentencePiece BPE: the best-scored pair that forms a piece is merged first; unknown text falls back to bytes."""
    scores = need(file, "tokenizer.ggml.scores", list)
    if len(scores) != len(tokens):
        raise _bad(file, f"{len(scores)} scores for {len(tokens)} tokens")
    if any(f"<0x{byte:02X}>" not in vocab for byte in range(256)):
        raise unsupported(file, "a SentencePiece vocabulary without the 256 byte tokens")
    pieces = {token: id_ for token, id_ in vocab.items() if types[id_] not in (_CONTROL, _USER_DEFINED, _BYTE)}
    merges: list[tuple[float, int, int, str, str]] = []  # sorted as transformers' converter sorts them
    for piece, id_ in pieces.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                merges.append((-scores[id_], -len(left), id_, left, right))
    merges.sort()
    unknown = tokens[named["unk"] if named["unk"] is not None else 0]
    pairs = [(left, right) for *_, left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocab, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = optional(file, "tokenizer.ggml.add_space_prefix", bool, True)
    steps: list[Any] = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _tokens(file: GgufFile) -> list[str]:
    tokens = need(file, "tokenizer.ggml.tokens", list)
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise _bad(file, "tokenizer.ggml.tokens is not a list of strings")
    if len(set(tokens)) != len(tokens):
        twice = next(token for index, token in enumerate(tokens) if token in tokens[:index])
        raise _bad(file, f"the token {twice!r} is there twice")
    embedding = file.tensors.get("token_embd.weight")
    if embedding and len(tokens) > embedding.shape[0]:
        raise _bad(file, f"{len(tokens)} tokens, but embeddings for {embedding.shape[0]}")
    return tokens


def _token_id(file: GgufFile, key: str, tokens: list[str]) -> int | None:
    id_ = optional(file, key, int, None)
    if id_ is not None and not 0 <= id_ < len(tokens):
        raise _bad(file, f"{key} is {id_}, the vocabulary has {len(tokens)} tokens")
    return id_


def _bad(file: GgufFile, what: str) -> ModelError:
    return ModelError(f"its tokenizer is damaged: {what}", where=str(file.path), fix="fetch or convert the file again")
