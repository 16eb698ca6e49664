"""The proof of a loss mask: what is trained is read back from the token ids and compared with the text it came from."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.data.spans import Disguise, Turn
from luthier.data.tokenizer import Piece, Tokenizer


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
        region = turn.view[turn.start : turn.end]
        if not _spells(tokenizer, disguise, trained, region, tokenizer.eos_token if closed else ""):
            raise DataError("mask proof failed: the trained tokens do not spell the answer")


def _spells(tokenizer: Tokenizer, disguise: Disguise, ids: list[int], region: str, added: str) -> bool:
    """Whether `ids` spell `region` (with hidden special tokens) and `added`.

    A leading space that the tokenizer itself puts before a text does not count. A tokenizer that changes text
    (normalises Unicode, swallows whitespace at special tokens) is measured by what it makes of the region alone.
    """
    spelled = _bytes(tokenizer, ids)
    expected = (disguise.show(region) + added).encode()
    if spelled == expected:
        return True
    alone = flatten(tokenizer.encode_parts(shown(tokenizer.split_rendered(region), disguise)))
    wanted = [expected, _bytes(tokenizer, alone) + added.encode()]
    if tokenizer.leading_space:
        return spelled.removeprefix(b" ") in [text.removeprefix(b" ") for text in wanted]
    return spelled in wanted


def shown(parts: Iterable[Piece | int], disguise: Disguise) -> list[Piece | int]:
    """`parts` with hidden special tokens turned back into text, after the template's own were taken out."""
    return [Piece(disguise.show(part.text), part.place) if isinstance(part, Piece) else part for part in parts]


def flatten(ids: Iterable[Iterable[int]]) -> list[int]:
    """The ids of all parts in one list."""
    return [number for part in ids for number in part]


def _bytes(tokenizer: Tokenizer, ids: Iterable[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))
