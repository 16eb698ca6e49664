"""The rows of each step: those of the plan, and general rows that are replayed among them.

Replay (Scialom et al. 2022, arXiv:2205.12393; Ibrahim et al. 2024, arXiv:2403.08763) mixes a little general data into
the training so that what the base knew is not lost. Its share is one of trained tokens, kept by an account: each step
owes it share / (1 − share) of its own trained tokens, and a row is drawn when at least half of it is owed. So the share
is held over the run, however long the rows are, and may change while the run goes on.

All of it is a function of the run's progress. A resumed run, and one that gave up a step in the middle, draws the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.core.seeds import stream_seed
from luthier.data.pack import Step, first_fit
from luthier.data.render import Row
from luthier.train.progress import Progress


@dataclass(frozen=True)
class StepRows:
    """What one step trains on.

    Attributes:
        epoch: counted from 0.
        microsteps: rows that share a stream.
        replayed: of each row of each microstep, whether it is replay.
        tokens: tokens of all rows.
        label_tokens: trained tokens of all rows.
        replay_tokens: trained tokens of replay among them.
        drawn, owed: `Progress.replay_drawn` and `replay_owed` once the step is behind.
    """

    epoch: int
    microsteps: list[list[Row]]
    replayed: list[list[bool]]
    tokens: int
    label_tokens: int
    replay_tokens: int
    drawn: int
    owed: float


class Stream:
    """All steps of a run.

    Args:
        rows: what `steps` indexes.
        steps: the plan, as `plan_run` makes it.
        replay_rows: general rows, each with trained tokens; none is no replay.
        micro_batch_tokens: tokens of a microstep, at most; a longer row gets one to itself.
        seed: decides the order in which replay is drawn.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        steps: Sequence[tuple[int, Step]],
        replay_rows: Sequence[Row] = (),
        *,
        micro_batch_tokens: int,
        seed: int,
    ) -> None:
        assert all(row.mask.any() for row in replay_rows), "a replay row without trained tokens pays nothing"
        self.rows, self.steps, self.replay_rows = rows, steps, replay_rows
        self.micro_batch_tokens, self.seed = micro_batch_tokens, seed
        self._order = (-1, np.arange(0))  # a pass over the replay rows, and its order

    def rows_of(self, progress: Progress) -> StepRows:
        """The rows of the step after `progress`, which must not be at the plan's end."""
        epoch, plan = self.steps[progress.step]
        microsteps = [[self.rows[index] for index in microstep] for microstep in plan]
        target_tokens = sum(_labels(row) for microstep in microsteps for row in microstep)
        drawn, owed = progress.replay_drawn, progress.replay_owed
        replay: list[Row] = []
        if self.replay_rows and progress.replay_share > 0:
            owed += target_tokens * progress.replay_share / (1 - progress.replay_share)
            while owed >= _labels(row := self._drawn(drawn)) / 2:
                replay.append(row)
                owed -= _labels(row)
                drawn += 1
        replayed = [[False] * len(microstep) for microstep in microsteps]
        if replay:
            own = [row for microstep in microsteps for row in microstep]
            every = [*own, *replay]
            places = first_fit(range(len(every)), [len(row.ids) for row in every], self.micro_batch_tokens)
            microsteps = [[every[place] for place in microstep] for microstep in places]
            replayed = [[place >= len(own) for place in microstep] for microstep in places]
        replay_tokens = sum(_labels(row) for row in replay)
        return StepRows(
            epoch=epoch,
            microsteps=microsteps,
            replayed=replayed,
            tokens=sum(len(row.ids) for microstep in microsteps for row in microstep),
            label_tokens=target_tokens + replay_tokens,
            replay_tokens=replay_tokens,
            drawn=drawn,
            owed=owed,
        )

    def _drawn(self, number: int) -> Row:
        """Row `number` of the endless stream: each pass has every row once, in an order of its own."""
        turn, place = divmod(number, len(self.replay_rows))
        if turn != self._order[0]:
            order = np.random.default_rng(stream_seed(self.seed, "replay", turn)).permutation(len(self.replay_rows))
            self._order = turn, order
        return self.replay_rows[self._order[1][place]]


def _labels(row: Row) -> int:
    return int(row.mask.sum())
