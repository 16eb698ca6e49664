"""How many tokens of an example bear loss: what balances and token measures count."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from luthier.curate.example import Example

if TYPE_CHECKING:
    from luthier.data.tokenizer import Tokenizer

_SHAPE = bytes(ord(" " if chr(code).isspace() else "x") for code in range(256))
CountTokens = Callable[[Sequence[Example]], Sequence[int]]  # picklable; the loss-bearing tokens of each example
TOKENS_PER_WORD: Final = (
    1.3  # of English prose with a vocabulary of 32,000 to 128,000; code has two to three times that
)


def trained_texts(example: Example) -> Iterator[str]:
    """The texts that training predicts: a plain text, or every assistant turn with its tool calls; of a preference
    those of both continuations.
    """
    record = example.record
    if record.text:
        yield record.text
    for turns in (record.messages, record.chosen, record.rejected):
        for turn in turns:
            if turn.role == "assistant":
                yield turn.content + turn.tool_calls


def estimate_tokens(examples: Sequence[Example]) -> list[int]:
    """An estimate without a tokenizer: TOKENS_PER_WORD for each word, and one for the end of each text."""
    return [estimate(example) for example in examples]


def estimate(example: Example) -> int:
    """`estimate_tokens` of one."""
    tokens = 0
    for text in trained_texts(example):
        tokens += 1 + round(TOKENS_PER_WORD * count_words(text))
    return tokens


def count_words(text: str) -> int:
    """`len(text.split())`; of ASCII, as most is, in a third of the time, as no word is made to be counted."""
    if not text.isascii():
        return len(text.split())
    return (b" " + text.encode().translate(_SHAPE)).count(b" x")


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """Counts with the tokenizer in a model's folder: a `CountTokens`. Every text ends with a stop token."""

    model_dir: Path

    def __call__(self, examples: Sequence[Example]) -> list[int]:
        from luthier.data.tokenizer import Piece, Place

        texts = [list(trained_texts(example)) for example in examples]
        pieces = [Piece(text, Place.SPECIAL) for part in texts for text in part]
        lengths = iter(map(len, _open(self.model_dir).encode_pieces(pieces)))
        return [sum(1 + next(lengths) for _ in part) for part in texts]


@cache
def _open(model_dir: Path) -> "Tokenizer":
    from luthier.data.tokenizer import Tokenizer

    return Tokenizer(model_dir)
