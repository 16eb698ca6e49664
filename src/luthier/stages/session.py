"""The parts of one run while it lasts: base, adapter, optimizer, and where its events go."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from luthier.core.events import EventLog
from luthier.models.decoder import Decoder
from luthier.models.device import keep_freed_memory
from luthier.models.lora import Adapter, named_targets
from luthier.models.weights import load_decoder
from luthier.recipe import Recipe
from luthier.stages.check import Check
from luthier.stages.interrupt import Interrupt
from luthier.stages.link import Link, begin_with
from luthier.stages.prepare import Prepared, Say
from luthier.train.optim import DTYPES, make_optimizer
from luthier.train.progress import Progress
from luthier.train.tensorboard import TensorBoard

Listener = Callable[[dict[str, Any]], None]


def load_base(prepared: Prepared) -> Decoder:
    """The base model on its device, as the recipe wants it held.

    Raises:
        ModelError: the weights are damaged or do not fit the config.
    """
    recipe = prepared.recipe
    keep_freed_memory()
    decoder = load_decoder(
        prepared.model_dir,
        dtype=prepared.place.dtype,
        device=prepared.place.device,
        nf4=recipe.nf4,
        nf4_head=recipe.nf4_head,
        embedding_on_host=recipe.embedding_on_host,
    )
    if recipe.gradient_checkpointing:
        decoder.recomputed = range(prepared.spec.num_layers)
    return decoder


def fresh_adapter(recipe: Recipe, decoder: Decoder) -> Adapter:
    """The adapter that a run starts with: the model with it is the base."""
    adapter = Adapter(
        decoder.spec,
        recipe.lora_r,
        recipe.lora_alpha,
        targets=named_targets(recipe.lora_targets, decoder.spec),
        rslora=recipe.rslora,
        dropout=recipe.lora_dropout,
        dora=recipe.dora,
        seed=recipe.seed,
        dtype=DTYPES[recipe.adapter_dtype],
        device=decoder.device,
    )
    adapter.start_magnitudes(decoder.layers)
    return adapter


class Session:
    """One run at work; its folder is not touched before `open`.

    Attributes:
        facts: what the run is made of (`stages.facts`).
        interrupt: asked whether to stop.
        link: the place among other stages, None for a run by itself.
        base_model: where PEFT shall find the base: the folder, or the hub id as the recipe has it.
    """

    def __init__(
        self,
        checked: Check,
        run_dir: Path,
        decoder: Decoder,
        facts: dict[str, Any],
        *,
        interrupt: Interrupt,
        say: Say | None = None,
        listen: Listener | None = None,
        link: Link | None = None,
    ) -> None:
        self.checked, self.prepared, self.recipe = checked, checked.prepared, checked.prepared.recipe
        self.run_dir, self.decoder, self.facts, self.interrupt, self.link = run_dir, decoder, facts, interrupt, link
        self._say, self._listen = say, listen
        self.began = time.monotonic()
        local = Path(self.recipe.base_model).exists() or "/" not in self.recipe.base_model
        self.base_model = str(self.prepared.model_dir) if local else self.recipe.base_model
        self.adapter = fresh_adapter(self.recipe, decoder)
        if link is not None:
            begin_with(self.adapter, link)
        # The weights of the stage before, between which and the result a strength is chosen; None after the base.
        self.origin = self.adapter.flat.detach().clone() if self.start is not None else None
        self.optimizer = make_optimizer(self.adapter, self.recipe)
        self._log: EventLog | None = None
        self._board: TensorBoard | None = None

    @property
    def start(self) -> Adapter | None:
        """What the training starts from: None is the base."""
        return self.adapter if self.link is not None and self.link.parent else None

    def open(self) -> None:
        """Events can be written from now on."""
        self._log = EventLog(self.run_dir)

    def draw(self, *, after: int | None) -> None:
        """TensorBoard files are written from now on; of a resumed run, points after step `after` are hidden."""
        self._board = TensorBoard(self.run_dir, purge_step=None if after is None else after + 1)

    def close(self) -> None:
        """Close the files."""
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()

    def say(self, what: str, done: int, total: int) -> None:
        """Progress of something long that can be given up.

        Raises:
            Interrupted: a stop was asked for.
        """
        if self._say is not None:
            self._say(what, done, total)
        self.interrupt.check()

    def emit(self, event: str, **fields: Any) -> None:
        """Record an event, and pass it on to whoever shows the run."""
        assert self._log is not None, "the session is not open"
        entry = self._log.add(event, **fields)
        if self._board is not None:
            self._board.add(entry)
        if self._listen is not None:
            self._listen(entry)

    def end(self, status: str, progress: Progress) -> None:
        """The last event: how it ended, and what it took."""
        on_gpu = self.prepared.place.device.type == "cuda"
        self.emit(
            "end",
            status=status,
            step=progress.step,
            seconds=time.monotonic() - self.began,
            training_seconds=progress.seconds,
            best_step=progress.best_step,
            peak_rss_bytes=peak_rss_bytes(),
            peak_gpu_bytes=torch.cuda.max_memory_reserved() if on_gpu else 0,
        )


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
