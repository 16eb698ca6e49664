"""What the watch on forgetting measures, of the base and of a tuned model alike."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from luthier.core.files import hash_bytes
from luthier.data.render import Row
from luthier.data.tokenizer import Tokenizer
from luthier.evaluate.choices import right_answers
from luthier.evaluate.general import few_rows, row_shifts
from luthier.evaluate.losses import row_losses
from luthier.evaluate.other_prompts import after_other_prompts
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.stages.forgetting_rule import Measured
from luthier.stages.general import General
from luthier.stages.prepare import Say

TARGET_ROWS, TARGET_TOKENS = 24, 4096  # rows of the new task that are measured


class Probes:
    """General rows, questions, a few rows of the new task, and their first answers after each other's prompts.

    Args:
        general: rows and questions.
        target: rows of the new task, best held out. May be empty.
        micro_batch_tokens: tokens of one forward pass.
        say: receives progress.

    Attributes:
        groups: of the general rows, of the new task's, and of its first answers.
        hash: over all that is measured.
    """

    def __init__(
        self, general: General, target: Sequence[Row], tokenizer: Tokenizer, *, micro_batch_tokens: int, say: Say | None
    ) -> None:
        self._general, self._tokenizer = general, tokenizer
        self._micro_batch_tokens, self._say = micro_batch_tokens, say
        some = few_rows(target, most_rows=TARGET_ROWS, most_tokens=TARGET_TOKENS)
        self._target = [row for row in some if len(row.ids) > 1]
        self._own, self._other = after_other_prompts(self._target)
        kinds = general.probe_rows, self._target, self._own
        self.groups = tuple([row.group for row in rows] for rows in kinds)
        parts = [part.tobytes() for row in self._target for part in (row.ids, row.mask)]
        self.hash = hash_bytes(general.hash.encode(), repr(general.choices).encode(), *parts)

    def fits(self, measured: Measured) -> bool:
        """Whether it is as many rows and questions as these."""
        of = measured.nll, measured.right, measured.target_nll, measured.kl, measured.own_nll, measured.other_nll
        rows, questions = len(self._general.probe_rows), len(self._general.choices)
        target, answers = len(self._target), len(self._own)
        return tuple(map(len, of)) == (rows, questions, target, target, answers, answers)

    def measure(self, decoder: Decoder, adapter: Adapter | None, *, unmoved: Measured | None = None) -> Measured:
        """All probes once.

        Args:
            adapter: None measures the base.
            unmoved: the base's measurement, whose numbers then stand for the new task's rows.
        """
        losses = row_losses(
            decoder, self._general.probe_rows, adapter=adapter, micro_batch_tokens=self._micro_batch_tokens,
            progress=self._progress("general texts"),
        )  # fmt: skip
        right = right_answers(
            decoder, self._tokenizer, self._general.choices, adapter=adapter,
            micro_batch_tokens=self._micro_batch_tokens, progress=self._progress("general questions"),
        )  # fmt: skip
        if unmoved is not None:
            return replace(unmoved, nll=losses.nll, tokens=losses.tokens, right=right)
        shifts = row_shifts(
            decoder, self._target, adapter=adapter, micro_batch_tokens=self._micro_batch_tokens,
            progress=self._progress("distance from the base"),
        )  # fmt: skip
        answers = row_losses(
            decoder, [*self._own, *self._other], adapter=adapter, micro_batch_tokens=self._micro_batch_tokens,
            progress=self._progress("answers after other prompts"),
        )  # fmt: skip
        number = len(self._own)
        return Measured(
            nll=losses.nll,
            tokens=losses.tokens,
            right=right,
            target_nll=shifts.losses.nll,
            target_tokens=shifts.losses.tokens,
            kl=shifts.kl,
            positions=shifts.positions,
            own_nll=answers.nll[:number],
            other_nll=answers.nll[number:],
            answer_tokens=answers.tokens[:number],
        )

    def _progress(self, what: str) -> Callable[[int, int], None] | None:
        say = self._say
        return None if say is None else lambda done, total: say(what, done, total)
