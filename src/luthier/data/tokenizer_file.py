"""What a model folder says about its tokenizer, and tokenizer.json rewritten so that no text makes a special token."""

import json
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import tokenizers

from luthier.core.errors import ModelError

# U+FDD0 and U+FDD1 are Unicode noncharacters, "never interchanged": no vocabulary contains them.
PRIVATE = re.compile("\ufdd0([0-9]+)\ufdd1")
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


class Place(Enum):
    """What stands before a piece of text; SentencePiece-style tokenizers add a leading space after some of these."""

    START = "start"  # nothing: the piece begins the row
    SPECIAL = "special"  # a special token
    TEXT = "text"  # more text, which is encoded on its own because a loss region begins or ends there


# Reading the folder


def read_raw(folder: Path) -> bytes:
    """The bytes of tokenizer.json.

    Raises:
        ModelError: there is none.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError("no tokenizer.json", where=str(folder), fix="copy it from the model's page into the folder")
    return path.read_bytes()


def parse(raw: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `raw`, which was read from `path`.

    Raises:
        ModelError: it is something else.
    """
    try:
        value = json.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise ModelError(f"no valid JSON ({error})", where=str(path), fix="fetch the file again") from None
    if not isinstance(value, dict):
        raise ModelError("not a JSON object", where=str(path), fix="fetch the file again")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, {} where there is no such file."""
    return parse(path.read_bytes(), path) if path.is_file() else {}


def as_list(value: Any) -> list[Any]:
    """A list as it is, None as [], anything else as [value]."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _spelling(value: Any) -> str:
    """Special tokens are written as "<s>" or as {"content": "<s>", ...}."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def named_specials(config: dict[str, Any]) -> dict[str, str]:
    """The spellings of bos_token, eos_token, pad_token and unk_token, those that are set."""
    return {name: text for name in NAMED if (text := _spelling(config.get(name)))}


def control_tokens(added: dict[str, Any], config: dict[str, Any], named: dict[str, str]) -> set[str]:
    """Spellings of all tokens that steer the model. Others, such as <think>, are words that a text may contain."""
    controls = {text for text, entry in added.items() if entry.get("special")}
    decoder = config.get("added_tokens_decoder")
    for entry in (decoder if isinstance(decoder, dict) else {}).values():
        if isinstance(entry, dict) and entry.get("special"):
            controls.add(_spelling(entry))
    extra = config.get("additional_special_tokens", config.get("extra_special_tokens"))
    values = extra.values() if isinstance(extra, dict) else as_list(extra)
    return {text for text in {*controls, *named.values(), *map(_spelling, values)} if text}


def chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The jinja source in chat_template.jinja, else in tokenizer_config.json: one, or the "default" of several."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    value = config.get("chat_template")
    if isinstance(value, list):
        value = next((entry.get("template") for entry in value if entry.get("name") == "default"), None)
    return value if isinstance(value, str) and value else None


# Changing tokenizer.json in memory


def private_name(number: int) -> str:
    """What the special token `number` is called in the rewritten tokenizer."""
    return f"\ufdd0{number}\ufdd1"


def vocabulary(data: dict[str, Any], folder: Path) -> dict[str, int]:
    """Token → id of the model, without added tokens. Unigram models list (token, score) in id order.

    Raises:
        ModelError: there is no vocabulary.
    """
    model = data.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not vocab:
        raise ModelError("tokenizer.json has no vocabulary", where=str(folder), fix="fetch the file again")
    return vocab if isinstance(vocab, dict) else {entry[0]: number for number, entry in enumerate(vocab)}


def added_tokens(data: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Spelling → entry of the tokens that were added to the model's vocabulary.

    Raises:
        ModelError: an entry is incomplete.
    """
    entries = data.get("added_tokens") or []
    if not all(isinstance(entry, dict) and {"id", "content"} <= entry.keys() for entry in entries):
        raise ModelError("tokenizer.json has an added token without id or content", where=str(folder))
    return {entry["content"]: entry for entry in entries}


def isolate_specials(
    data: dict[str, Any], ids: dict[str, int], added: dict[str, dict[str, Any]], vocab: dict[str, int]
) -> None:
    """Rename the special tokens `ids` in `data` (in place), and switch off all that could add or remove tokens."""
    data["truncation"] = data["padding"] = data["post_processor"] = None
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    renamed = [
        {
            **plain,
            **added.get(text, {}),
            "id": number,
            "content": private_name(number),
            "normalized": False,
            "special": True,
        }
        for text, number in ids.items()
    ]
    words = [entry for text, entry in added.items() if text not in ids]
    data["added_tokens"] = sorted([*words, *renamed], key=lambda entry: entry["id"])

    model = data["model"]
    inside = {text: private_name(number) for text, number in ids.items() if text in vocab}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {inside.get(token, token): number for token, number in vocab.items()}
    else:
        model["vocab"] = [[inside.get(token, token), score] for token, score in model["vocab"]]
    if "dropout" in model:
        model["dropout"] = None
    if model.get("unk_token") in inside:
        model["unk_token"] = inside[model["unk_token"]]
    if inside and model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if inside.keys().isdisjoint(_merge_tokens(merge))]


def _merge_tokens(merge: str | list[str]) -> tuple[str, str, str]:
    """The two tokens that a merge joins, and the one it makes. Older files write "a b" for ["a", "b"]."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right, left + right


def build_tokenizers(data: dict[str, Any], folder: Path) -> dict[Place, tokenizers.Tokenizer]:
    """One tokenizer for each place; where nothing adds a leading space they are the same object.

    Raises:
        ModelError: the library cannot read it.
    """
    start = json.dumps(data)
    built: dict[str, tokenizers.Tokenizer] = {}
    texts = {Place.START: start}
    for place in (Place.SPECIAL, Place.TEXT):
        changed = {key: _without_prefix(data.get(key), place) for key in ("normalizer", "pre_tokenizer")}
        same = all(changed[key] == data.get(key) for key in changed)
        texts[place] = start if same else json.dumps(data | changed)
    for text in texts.values():
        if text not in built:
            try:
                built[text] = tokenizers.Tokenizer.from_str(text)
            except Exception as error:  # the library raises the bare class
                raise ModelError(f"tokenizer.json cannot be used ({error})", where=str(folder)) from None
            built[text].encode_special_tokens = True  # private names in a text are not special tokens either
    return {place: built[text] for place, text in texts.items()}


def _without_prefix(part: Any, place: Place) -> Any:
    """A normalizer or pre-tokenizer that does not add a leading space where `place` says there must be none.

    After a special token, "Prepend", "ByteLevel" and Metaspace "always" add one and Metaspace "first" does not;
    in the middle of a text, none may.
    """
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        kept = [_without_prefix(item, place) for item in part[key]]
        return part | {key: [item for item in kept if item is not None]}
    if kind == "Metaspace" and (place is Place.TEXT or part.get("prepend_scheme") == "first"):
        return {key: value for key, value in part.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
    if place is Place.TEXT and kind == "Prepend":
        return None
    if place is Place.TEXT and kind == "ByteLevel" and part.get("add_prefix_space"):
        return part | {"add_prefix_space": False}
    return part


def first_of_template(processor: Any) -> set[str]:
    """The special tokens with which a post-processor begins a single text."""
    if not isinstance(processor, dict):
        return set()
    if processor.get("type") == "Sequence":
        return set().union(*(first_of_template(item) for item in processor.get("processors", [])))
    single = processor.get("single") or [{}]
    return {single[0]["SpecialToken"]["id"]} if "SpecialToken" in single[0] else set()


# Bytes of a token


def _level_table() -> dict[str, int]:
    """The byte behind each character of a ByteLevel token (GPT-2's bytes_to_unicode, reversed)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(rest)}


_LEVEL = _level_table()
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def level_bytes(token: str) -> bytes:
    """The bytes of a token spelled in ByteLevel's alphabet."""
    return bytes(_LEVEL[char] for char in token) if all(char in _LEVEL for char in token) else token.encode()


def _piece_bytes(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def byte_reader(decoder: Any) -> Callable[[str], bytes] | None:
    """How a token's spelling becomes bytes: ByteLevel, SentencePiece, or None for others (decoded one by one)."""
    kinds = json.dumps(decoder)
    if '"ByteLevel"' in kinds:
        return level_bytes
    return _piece_bytes if "\\u2581" in kinds else None
