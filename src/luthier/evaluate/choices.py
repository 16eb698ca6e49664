"""Questions with four options each, scored by what the model thinks of the options' texts.

The items are our own: common knowledge, small reasoning and language, written for this purpose, each with one right
answer. They are no measure of how good a model is; they tell whether training took away what it could do before.

The model sees `Question: …` and `Answer:`, in plain text whatever its chat template, and each option's score is the
mean log-probability of its tokens, so that long options are not at a disadvantage.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch

from luthier.data.collate import collate
from luthier.data.render import Row
from luthier.data.tokenizer import Piece, Place, Tokenizer
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter

FILE = "choices.jsonl"
OPTIONS = 4


@dataclass(frozen=True)
class Item:
    """A question.

    Attributes:
        kind: "knowledge", "reasoning" or "language".
        question: without the options, which the model does not see together.
        options: what the answer could be.
        answer: the place of the right one.
    """

    kind: str
    question: str
    options: tuple[str, ...]
    answer: int


def load_items() -> list[Item]:
    """The items that come with the package."""
    text = resources.files("luthier.evaluate").joinpath(FILE).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [Item(row["kind"], row["question"], tuple(row["options"]), row["answer"]) for row in rows]


@torch.no_grad()
def right_answers(
    decoder: Decoder,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    *,
    adapter: Adapter | None,
    micro_batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """(n,) bool, whether the right option of each item has the highest score; of equal scores the first counts.

    Args:
        micro_batch_tokens: tokens of one forward pass, about: the options of an item, which share its question, stay
            together. Changes speed and memory, not the result.
        progress: called with options done and options in all; what it raises goes through.
    """
    rows = [_rows(tokenizer, item) for item in items]
    scores: list[float] = []
    for batch in _batches(rows, micro_batch_tokens):
        scores += _scores(decoder, batch, adapter)
        if progress is not None:
            progress(len(scores), sum(map(len, rows)))
    right, done = np.zeros(len(items), dtype=bool), 0
    for index, item in enumerate(items):
        right[index] = int(np.argmax(scores[done : done + len(item.options)])) == item.answer
        done += len(item.options)
    return right


def _rows(tokenizer: Tokenizer, item: Item) -> list[Row]:
    """A row for each option, the option's tokens as its targets."""
    question = Piece(f"Question: {item.question}\nAnswer:", Place.START)
    first, *options = tokenizer.encode_pieces([question, *(Piece(f" {text}", Place.TEXT) for text in item.options)])
    start = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    prompt = [*start, *first]
    return [
        Row(np.array(prompt + option, np.int32), np.arange(len(prompt) + len(option)) >= len(prompt), "", "", "")
        for option in options
    ]


def _batches(rows: Sequence[list[Row]], micro_batch_tokens: int) -> list[list[Row]]:
    """Whole items in their order, as many as fit."""
    batches: list[list[Row]] = []
    room = 0
    for options in rows:
        shared = min(len(row.ids) - int(row.mask.sum()) for row in options)
        size = shared + sum(len(row.ids) - shared for row in options)
        if not batches or size > room:
            batches.append([])
            room = micro_batch_tokens
        batches[-1] += options
        room -= size
    return batches


def _scores(decoder: Decoder, rows: Sequence[Row], adapter: Adapter | None) -> list[float]:
    """Mean log-probability of each row's targets."""
    stream = collate(rows, border=decoder.spec.border)
    segments = Segments.of(stream.lengths, decoder.device, parents=stream.parents)
    tokens, targets = stream.tokens.to(decoder.device), stream.targets.to(decoder.device)
    logprobs = decoder.logprobs(tokens, segments, targets, adapter).double().cpu()
    sums = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, stream.target_rows, logprobs)
    return [float(total) / int(row.mask.sum()) for total, row in zip(sums, rows, strict=True)]
