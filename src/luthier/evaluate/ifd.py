"""Instruction-following difficulty: how much a prompt helps a model to expect the answer.

    IFD = perplexity(answer | prompt) / perplexity(answer)

Near 0 the prompt gives the answer away; near 1 it hardly helps, and the example asks for something the model cannot yet
do; above 1 prompt and answer may not belong together. (M. Li et al., "From Quantity to Quality: Boosting LLM
Performance with Self-Guided Data Selection for Instruction Tuning", NAACL 2024.)

The answer alone is not bare text here. It stands where the model's own template puts an answer, after a user who said
nothing: the same role marks, the same default system prompt, and token for token the same answer with its stop token.
So the two perplexities differ by the content of the prompt and by nothing else. Bare text would also measure how
strange it is for a chat model to see no template, which makes every prompt look helpful; and an answer that is cut or
tokenised otherwise without its prompt would make the ratio compare different texts. Of a conversation with several
answers each one is measured after all that precedes it, and alone.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.core.errors import DataError
from luthier.data.records import Message, Record
from luthier.data.render import Renderer, Row
from luthier.evaluate.losses import row_losses
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter

_BATCH = 256  # records rendered in one go
TOO_LONG = "longer than the model can see"
NO_PROMPT = "no prompt"


@dataclass(frozen=True)
class Difficulty:
    """Of n records. What was not measured has NaN and 0 tokens, and is counted by its reason.

    Attributes:
        given: (n,) float64, mean negative log-likelihood of the answers' tokens after their prompts, nats a token.
        alone: (n,) float64, the same without the prompts.
        tokens: (n,) int64, of the answers, stop tokens included.
        skipped: reason → records.
    """

    given: np.ndarray
    alone: np.ndarray
    tokens: np.ndarray
    skipped: Counter[str]

    @property
    def ifd(self) -> np.ndarray:
        """(n,) float64, the difficulty; NaN where it was not measured."""
        return np.exp(self.given - self.alone)


def difficulty(
    records: Sequence[Record],
    decoder: Decoder,
    renderer: Renderer,
    *,
    micro_batch_tokens: int,
    adapter: Adapter | None = None,
    expect: Callable[[int, int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Difficulty:
    """Measure the difficulty of conversations for a model.

    Args:
        records: conversations; plain texts are counted as having no prompt.
        micro_batch_tokens: tokens of one forward pass; changes speed and memory, not the result.
        adapter: measures the adapted model, None the base.
        expect: called once, before the model runs, with tokens in all and those of them whose loss is measured.
        progress: called with rows done and rows in all; a record makes two rows or more.

    Raises:
        ModelError: the model has no template.
    """
    skipped: Counter[str] = Counter()
    rows: list[Row] = []
    of: list[tuple[int, bool]] = []  # record of each row, and whether it has the prompt
    prefix = np.array(renderer.render_prompt([Message("user", "")]), np.int32)
    longest = decoder.spec.max_positions
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        chats = [record for record in batch if record.messages]
        rendered = iter(renderer.render_many(chats))
        for index, record in enumerate(batch, start):
            result = next(rendered) if record.messages else None
            if result is None:
                skipped[NO_PROMPT] += 1
            elif isinstance(result, DataError):
                skipped[result.what] += 1
            elif max(len(row.ids) for row in result) > longest:
                skipped[TOO_LONG] += 1
            else:
                alone = [answer for row in result for answer in answers_alone(row, prefix)]
                rows += [*result, *alone]
                of += [(index, True)] * len(result) + [(index, False)] * len(alone)
    given, without = np.zeros(len(records)), np.zeros(len(records))
    tokens = np.zeros(len(records), np.int64)
    if rows:
        if expect is not None:
            expect(sum(len(row.ids) for row in rows), sum(int(row.mask.sum()) for row in rows))
        losses = row_losses(decoder, rows, adapter=adapter, micro_batch_tokens=micro_batch_tokens, progress=progress)
        places = np.array([index for index, _ in of])
        full = np.array([prompted for _, prompted in of])
        np.add.at(given, places[full], losses.nll[full])
        np.add.at(without, places[~full], losses.nll[~full])
        np.add.at(tokens, places[full], losses.tokens[full])
    counted = np.where(tokens > 0, tokens, np.nan)
    return Difficulty(given / counted, without / counted, tokens, skipped)


def answers_alone(row: Row, prefix: np.ndarray) -> list[Row]:
    """A row for each answer in `row`, token for token, after the (P,) `prefix` instead of its prompt."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row.mask, [False]]).astype(np.int8)))
    made = []
    for start, end in edges.reshape(-1, 2):
        ids = np.concatenate([prefix, row.ids[start:end]])
        mask = np.arange(len(ids)) >= len(prefix)
        made.append(Row(ids, mask, row.record_id, row.group, row.where))
    return made
