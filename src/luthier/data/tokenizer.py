"""A model folder's tokenizer, used so that text stays text.

In a stock tokenizer the characters `<|im_end|>` become the end-of-turn token wherever they stand, also inside a
user's message. Here special tokens and text never mix: `split_specials` finds the special tokens of a rendered
template, and the text between them is encoded by a copy of the tokenizer that cannot produce a special token.
The copy is made in memory from tokenizer.json: every special token is renamed to a private spelling, in the added
tokens and in the model's vocabulary, and the merges that would build it are left out. Token ids do not change.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from luthier.core.errors import DataError, ModelError
from luthier.core.files import hash_bytes, hash_json
from luthier.data.tokenizer_file import (
    NAMED,
    PRIVATE,
    Place,
    added_tokens,
    as_list,
    build_tokenizers,
    byte_reader,
    chat_template,
    control_tokens,
    first_of_template,
    isolate_specials,
    level_bytes,
    named_specials,
    parse,
    private_name,
    read_object,
    read_raw,
    vocabulary,
)


class Piece(NamedTuple):
    """A stretch of text without special tokens, and where it stands."""

    text: str
    place: Place


class Tokenizer:
    """The tokenizer of a model folder.

    Attributes:
        eos_id: id of the end-of-sequence token.
        stop_ids: ids at which generation stops: those of generation_config.json (else config.json), and `eos_id`.
        bos_id: id of the beginning-of-sequence token, None where the tokenizer has none.
        adds_bos: whether plain text starts with `bos_id`.
        bos_token, eos_token, pad_token, unk_token: their spellings, "" where the tokenizer has none.
        special_ids: spelling → id of every special token.
        chat_template: jinja source from chat_template.jinja, else from tokenizer_config.json; None without one.
        fingerprint: hash of everything above but the template, and of tokenizer.json.
        vocab_size: highest token id + 1.
        folder: where it was read from.

    Raises:
        ModelError: tokenizer.json or the end-of-sequence token is missing, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        raw = read_raw(folder)
        data = parse(raw, folder / "tokenizer.json")
        config = read_object(folder / "tokenizer_config.json")
        named = {**named_specials(read_object(folder / "special_tokens_map.json")), **named_specials(config)}
        added, vocab = added_tokens(data, folder), vocabulary(data, folder)

        known = {**vocab, **{text: entry["id"] for text, entry in added.items()}}
        ids = {text: known[text] for text in sorted(control_tokens(added, config, named)) if text in known}
        generation = read_object(folder / "generation_config.json") or read_object(folder / "config.json")
        stops = [number for number in as_list(generation.get("eos_token_id")) if isinstance(number, int)]
        if "eos_token" not in named and stops:
            named["eos_token"] = next((text for text, number in ids.items() if number == stops[0]), "")
        self.bos_token, self.eos_token, self.pad_token, self.unk_token = (named.get(name, "") for name in NAMED)
        if self.eos_token not in ids:
            raise ModelError(
                f"the end-of-sequence token {self.eos_token!r} is not in tokenizer.json"
                if self.eos_token
                else "no end-of-sequence token: a model trained with this tokenizer could not learn to stop",
                where=str(folder),
                fix='name it as "eos_token" in tokenizer_config.json',
            )
        self.special_ids: dict[str, int] = ids
        self.vocab_size = 1 + max(known.values())
        self.eos_id = ids[self.eos_token]
        self.bos_id = ids.get(self.bos_token)
        self.stop_ids = frozenset([*stops, self.eos_id])
        asked = config.get("add_bos_token")
        self.adds_bos = self.bos_id is not None and (
            asked if isinstance(asked, bool) else self.bos_token in first_of_template(data.get("post_processor"))
        )
        self.chat_template = chat_template(folder, config)
        settings = [sorted(ids.items()), sorted(self.stop_ids), self.adds_bos, sorted(named.items())]
        self.fingerprint = hash_bytes(raw, hash_json(settings).encode())

        # The copy that reads text
        self._special_texts = {number: text for text, number in ids.items()}
        self._finder = re.compile("|".join(re.escape(text) for text in sorted(ids, key=len, reverse=True)))
        self._lstrip = {ids[text] for text in ids if added.get(text, {}).get("lstrip")}
        self._rstrip = {ids[text] for text in ids if added.get(text, {}).get("rstrip")}
        self._words = {entry["id"]: text for text, entry in added.items() if text not in ids}
        self._read_bytes = byte_reader(data.get("decoder"))
        self._token_bytes: dict[int, bytes] = {}
        isolate_specials(data, ids, added, vocab)
        self._by_place = build_tokenizers(data, folder)
        self._whole = self._by_place[Place.START]
        # A text may become the unknown token, if the model has one, and no other special token.
        name, number = data["model"].get("unk_token"), data["model"].get("unk_id")  # the second in Unigram models
        self._unknown_id = self._whole.token_to_id(name) if name else number
        self._never_text = frozenset(self._special_texts) - {self._unknown_id}
        # A token past the vocabulary gets the next free id when it is loaded: that must be the id in the file.
        names = {private_name(number): number for number in ids.values()}
        names |= {text: number for number, text in self._words.items()}
        if any(self._whole.token_to_id(name) != number for name, number in names.items()):
            raise ModelError("ids of added tokens in tokenizer.json contradict its vocabulary", where=str(folder))

    # Text → ids

    def split_specials(self, text: str) -> Iterator[tuple[int, int, int]]:
        """(start, end, id) of every special token spelled in `text`, left to right, longest first.

        A token that swallows whitespace beside it (lstrip, rstrip in tokenizer.json) spans that whitespace too.
        """
        for match in self._finder.finditer(text):
            (start, end), number = match.span(), self.special_ids[match.group()]
            if number in self._lstrip:
                start = len(text[:start].rstrip())
            if number in self._rstrip:
                end += len(text) - end - len(text[end:].lstrip())
            yield start, end, number

    def replace_specials(self, text: str, replacement: Callable[[re.Match[str]], str]) -> str:
        """`re.sub` over the special tokens spelled in `text`; `replacement` gets the match."""
        return self._finder.sub(replacement, text)

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Ids of each piece. Nothing in a piece becomes a special token; equal pieces are encoded once.

        Raises:
            DataError: a piece is no valid Unicode, or spells one of the private names used here.
        """
        known: dict[Piece, list[int]] = {}
        for place, tokenizer in self._by_place.items():
            batch = list(dict.fromkeys(piece for piece in pieces if piece.place is place and piece.text))
            try:
                encoded = tokenizer.encode_batch_fast([piece.text for piece in batch], add_special_tokens=False)
            except (UnicodeEncodeError, TypeError):
                raise DataError(
                    "the text holds half a surrogate pair (\\ud800 to \\udfff), which is no character"
                ) from None
            known.update(zip(batch, (encoding.ids for encoding in encoded), strict=True))
        if any(not self._never_text.isdisjoint(ids) for ids in known.values()):
            raise DataError("the text spells a name that Luthier uses for special tokens inside (U+FDD0)")
        return [known.get(piece, []) for piece in pieces]  # an empty piece has no ids

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone, without a beginning-of-sequence token; special tokens in it stay text."""
        return self.encode_pieces([Piece(text, Place.START)])[0]

    def split_rendered(self, text: str, place: Place = Place.START) -> list[Piece | int]:
        """The output of a template as pieces of text and ids of special tokens, in order.

        Args:
            text: a stretch of the output.
            place: what stands before it.
        """
        parts: list[Piece | int] = []
        done = 0
        for start, end, number in self.split_specials(text):
            if done < start:
                parts.append(Piece(text[done:start], place))
            parts.append(number)
            done, place = end, Place.SPECIAL
        if done < len(text):
            parts.append(Piece(text[done:], place))
        return parts

    def encode_parts(self, parts: Sequence[Piece | int]) -> list[list[int]]:
        """Ids of each part: of a piece as `encode_pieces`, of a special token itself."""
        encoded = iter(self.encode_pieces([part for part in parts if isinstance(part, Piece)]))
        return [next(encoded) if isinstance(part, Piece) else [part] for part in parts]

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of the output of a trusted template: special tokens spelled in `text` become special tokens."""
        return [number for ids in self.encode_parts(self.split_rendered(text)) for number in ids]

    # Ids → text

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no whole character become U+FFFD."""
        kept = [int(number) for number in ids if not (skip_special and int(number) in self._special_texts)]
        text = self._whole.decode(kept, skip_special_tokens=False)
        return PRIVATE.sub(lambda match: self._special_texts[int(match[1])], text)

    def token_bytes(self, number: int) -> bytes:
        """The UTF-8 bytes that one token stands for, leading space included; b"" for an id it does not know.

        A character can be spread over several tokens: join their bytes before decoding.
        """
        known = self._token_bytes.get(number)
        if known is None:
            known = self._token_bytes[number] = self._find_bytes(number)
        return known

    def normalize(self, text: str) -> str:
        """`text` as the tokenizer reads it, after Unicode normalisation and the like, with spaces as spaces."""
        normalizer = self._by_place[Place.TEXT].normalizer
        text = text if normalizer is None else normalizer.normalize_str(text)
        return text if self._read_bytes is level_bytes else text.replace("▁", " ")

    def knows_bytes(self, ids: Iterable[int]) -> bool:
        """Whether `token_bytes` is exact for all of `ids`."""
        return self._read_bytes is not None and self._unknown_id not in ids

    def special_text(self, number: int) -> str:
        """The spelling of the special token `number`."""
        return self._special_texts[number]

    def is_special(self, number: int) -> bool:
        """Whether `number` is the id of a special token."""
        return number in self._special_texts

    @property
    def leading_space(self) -> bool:
        """Whether a piece of text can get a space in front of it that is not in the text."""
        return len(set(map(id, self._by_place.values()))) > 1

    def _find_bytes(self, number: int) -> bytes:
        if number in self._special_texts:
            return self._special_texts[number].encode()
        if self._read_bytes is level_bytes and number in self._words:
            return self._words[number].encode()  # added tokens are not spelled in ByteLevel's alphabet
        token = self._whole.id_to_token(number) if 0 <= number < self.vocab_size else None
        if token is None:
            return b""
        return self._read_bytes(token) if self._read_bytes else self._whole.decode([number]).encode()
