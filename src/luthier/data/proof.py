"""The proof of a loss mask: what is trained is read back from the token ids and compared with the text it came from."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.data.spans import Disguise, Turn
from luthier.data.tokenizer import Piece, Place, Tokenizer


def prove(
    tokenizer: Tokenizer,
    disguise: Disguise,
    turns: Sequence[Turn],
    eos_added: bool,
    prompt: list[int],
    ids: NDArray[np.int32],
    turn_of: NDArray[np.int64],
) -> None:
    """Check the tokens of a row against the texts of its answers.

    Args:
        disguise: how special tokens in the record's texts are hidden in `turns`.
        turns: the answers trained in this row.
        eos_added: an end-of-sequence token was put behind the last one.
        prompt: ids of the text before the first answer, rendered and encoded without the answer.
        ids: (T,) tokens of the row.
        turn_of: (T,) index of the answer each token is trained for, -1 for none.

    Raises:
        DataError: the tokens before the first answer are not those of the prompt alone, or the trained tokens of an
            answer are none, do not spell exactly its text, or do not end with its stop token.
    """
    first = int(np.argmax(turn_of >= 0))
    if ids[:first].tolist() != prompt:
        raise DataError("mask proof failed: the tokens before the answer are not those of the prompt alone")
    for number, turn in enumerate(turns):
        trained = ids[turn_of == number].tolist()
        closed = eos_added and number == len(turns) - 1
        stop = tokenizer.eos_id if closed else turn.stop_id
        if not trained:
            raise DataError("mask proof failed: an answer has no trained token")
        if stop is not None and trained[-1] != stop:
            raise DataError("mask proof failed: the token that ends the answer is not trained")
        before = tokenizer.split_rendered(turn.prompt)
        place = Place.START if not before else Place.TEXT if isinstance(before[-1], Piece) else Place.SPECIAL
        region = shown(tokenizer.split_rendered(turn.view[turn.start : turn.end], place), disguise)
        if not _spell(tokenizer, trained, [*region, tokenizer.eos_id] if closed else region):
            raise DataError("mask proof failed: the trained tokens do not spell the answer")


def _spell(tokenizer: Tokenizer, ids: list[int], parts: Sequence[Piece | int]) -> bool:
    """Whether `ids` spell `parts`, byte by byte.

    Text counts as the tokenizer's normalizer leaves it, and a space that the tokenizer puts before a text is allowed.
    Only where the bytes of a token are not known (the unknown token, decoders other than ByteLevel and SentencePiece)
    are the ids compared with what the parts give when they are encoded once more.
    """
    if not tokenizer.knows_bytes(ids):
        return ids == flatten(tokenizer.encode_parts(parts))
    found: list[bytearray | int] = []
    for number in ids:
        if tokenizer.is_special(number):
            found.append(number)
        elif found and isinstance(found[-1], bytearray):
            found[-1] += tokenizer.token_bytes(number)  # in place: an answer can have a million tokens
        else:
            found.append(bytearray(tokenizer.token_bytes(number)))
    wanted = [tokenizer.normalize(part.text).encode() if isinstance(part, Piece) else part for part in parts]
    wanted = [part for part in wanted if part != b""]
    return len(found) == len(wanted) and all(
        have == want or (tokenizer.leading_space and isinstance(want, bytes) and have == b" " + want)
        for have, want in zip(found, wanted, strict=True)
    )


def shown(parts: Iterable[Piece | int], disguise: Disguise) -> list[Piece | int]:
    """`parts` with hidden special tokens turned back into text, after the template's own were taken out."""
    return [Piece(disguise.show(part.text), part.place) if isinstance(part, Piece) else part for part in parts]


def flatten(ids: Iterable[Iterable[int]]) -> list[int]:
    """The ids of all parts in one list."""
    return [number for part in ids for number in part]
