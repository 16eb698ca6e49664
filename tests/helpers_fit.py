"""A tiny run through the real loop, without files of data or a recipe on the disk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers_models import decoder_of, make_twin
from luthier.data.pack import plan_run
from luthier.data.render import Row
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.recipe import Recipe
from luthier.train.checkpoint import load_checkpoint, newest_good
from luthier.train.loop import Judged, fit
from luthier.train.optim import Optimizer, make_optimizer
from luthier.train.progress import Progress
from luthier.train.settings import Settings
from luthier.train.stream import Stream

LENGTH, PROMPT = 12, 3  # tokens of a row, and those of them that are not trained on
Logprobs = Callable[[Tensor, Tensor], Tensor]  # tokens (T,), logprobs (N,) → logprobs (N,)


def make_rows(
    number: int, *, seed: int = 0, name: str = "r", known: int = LENGTH // 2, noise: float = 0.0
) -> list[Row]:
    """Rows to learn, 300 at most and no two alike: tokens grow by 7 for `known` tokens and then by 11, or turned.

    A share `noise` of the tokens is any; what follows grows from what would have been there.
    """
    rng = np.random.default_rng(seed)
    starts = rng.permutation(300)[:number]
    rows = []
    for index, start in enumerate(starts):
        growth = np.repeat([7, 11], [known, LENGTH - known])[:: 1 if start < 150 else -1]
        ids = ((start + np.cumsum(growth)) % 150 + 3).astype(np.int32)
        ids = np.where(rng.random(LENGTH) < noise, rng.integers(3, 153, LENGTH).astype(np.int32), ids)
        rows.append(Row(ids, np.arange(LENGTH) >= PROMPT, f"{name}{index}", f"{name}{index}", f"data.jsonl:{index}"))
    return rows


class Spoiled:
    """A decoder whose log-probabilities a test may change; everything else is the real one's."""

    def __init__(self, decoder: Decoder, change: Logprobs) -> None:
        self._decoder, self._change = decoder, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def logprobs(self, tokens: Tensor, *arguments: Any, **named: Any) -> Tensor:
        return self._change(tokens, self._decoder.logprobs(tokens, *arguments, **named))


@dataclass
class Rig:
    """What `fit` needs. `run` starts a run in its folder, or goes on with it, as a new process would."""

    decoder: Decoder
    run_dir: Path
    steps: int = 40
    rows_a_step: int = 4
    rows: list[Row] = field(default_factory=lambda: make_rows(160))
    more_rows: list[Row] = field(default_factory=list)  # known to `other` alone
    replay_rows: list[Row] = field(default_factory=list)
    micro_rows: int = 2
    seed: int = 0
    recipe: dict[str, Any] = field(default_factory=dict)
    save_steps: int = 5
    eval_steps: int = 10_000
    evaluate: Callable[[Progress], Judged] | None = None
    without: tuple[int, ...] = ()  # steps that the plan lacks, counted from 1
    other: dict[int, list[list[int]]] = field(default_factory=dict)  # steps that have other microsteps than planned
    start: dict[str, Any] = field(default_factory=dict)  # of a fresh Progress
    change: Logprobs | None = None
    wrap: Callable[[Optimizer, Progress], Any] | None = None  # the optimizer → another
    listen: Callable[[dict[str, Any]], None] | None = None
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.progress, self.adapter = Progress(), self._adapter()

    def _adapter(self) -> Adapter:
        return Adapter(self.decoder.spec, 4, 8, dropout=self.recipe.get("lora_dropout", 0.0), seed=self.seed)

    def named(self, *names: str) -> list[dict[str, Any]]:
        """Events of these names, in order."""
        return [event for event in self.events if event["event"] in names]

    def plan(self) -> list[Any]:
        """The steps, as indices."""
        plan = plan_run(
            [len(row.ids) for row in self.rows], batch_tokens=self.rows_a_step * LENGTH,
            micro_batch_tokens=self.micro_rows * LENGTH, seed=self.seed, num_epochs=1000, max_steps=self.steps,
        )  # fmt: skip
        numbered = ((number, (epoch, self.other.get(number, step))) for number, (epoch, step) in enumerate(plan, 1))
        return [step for number, step in numbered if number not in self.without]

    def rows_of_step(self, step: int) -> list[Row]:
        """The planned rows of a step, counted from 1."""
        return [self.rows[index] for microstep in self.plan()[step - 1][1] for index in microstep]

    def run(self) -> str:
        """Start, or go on from the newest checkpoint."""
        recipe = Recipe(base_model="-", datasets=["-"], output_dir=str(self.run_dir), lora_r=4, lora_alpha=8,
                        **{"learning_rate": 1e-2, "warmup_ratio": 0.0, "lr_scheduler": "constant",
                           **self.recipe})  # fmt: skip
        settings = Settings(
            batch_tokens=self.rows_a_step * LENGTH, micro_batch_tokens=self.micro_rows * LENGTH,
            learning_rate=float(recipe.learning_rate), eval_steps=self.eval_steps, save_steps=self.save_steps,
            steps=self.plan(), notes=[],
        )  # fmt: skip
        self.adapter = self._adapter()
        self.optimizer = optimizer = make_optimizer(self.adapter, recipe)
        newest, _ = newest_good(self.run_dir)
        self.progress = Progress(**self.start) if newest is None else load_checkpoint(newest, self.adapter, optimizer)
        stream = Stream([*self.rows, *self.more_rows], settings.steps, self.replay_rows,
                        micro_batch_tokens=settings.micro_batch_tokens, seed=self.seed)  # fmt: skip

        def emit(event: str, **fields: Any) -> None:
            self.events.append({"event": event, **fields})
            if self.listen is not None:
                self.listen(self.events[-1])

        decoder: Any = self.decoder if self.change is None else Spoiled(self.decoder, self.change)
        return fit(
            decoder, self.adapter, optimizer if self.wrap is None else self.wrap(optimizer, self.progress), stream,
            recipe=recipe, settings=settings, progress=self.progress, run_dir=self.run_dir, base_model="-", facts={},
            emit=emit, evaluate=self.evaluate, should_stop=self.should_stop,
        )  # fmt: skip

    def bits(self) -> list[Tensor]:
        """Copies of the weights and moments as they are now."""
        return [tensor.clone() for tensor in (self.adapter.flat, *self.optimizer.tensors().values())]


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether both are the same, bit for bit."""
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def holds(tokens: Tensor, rows: list[Row]) -> bool:
    """Whether a stream has one of these rows in it, by its own tokens."""
    text = "".join(f" {token} " for token in tokens.tolist())
    return any("".join(f" {token} " for token in row.ids.tolist()) in text for row in rows)


class _Inf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.full_like(gradient, torch.inf)


def infinite_gradient(values: Tensor) -> Tensor:
    """The values as they are, with a gradient that is infinite."""
    return _Inf.apply(values)


def make_taught(folder: Path, *, steps: int = 80) -> Decoder:
    """A tiny model that knows how tokens grow by 7, so that there is something to lose."""
    model = make_twin(
        folder, "llama", num_hidden_layers=1, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64,
    ).train()  # fmt: skip
    ids = (torch.arange(150)[:, None] + 7 * torch.arange(LENGTH)) % 150 + 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return decoder_of(folder)
