"""A run from recipe to report, or from its last good checkpoint on."""

import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from luthier.core.errors import RunError
from luthier.core.events import EVENTS_FILE, EventLog, read_events
from luthier.core.files import atomic_folder, hash_file, read_json, write_json, write_text
from luthier.core.hardware import cpu, memory
from luthier.core.lock import RunLock
from luthier.evaluate.interval import Comparison, compare
from luthier.evaluate.losses import row_losses
from luthier.evaluate.report import write_report
from luthier.models.adapter_files import save_adapter
from luthier.models.decoder import Decoder
from luthier.models.device import keep_freed_memory
from luthier.models.folder import shard_files
from luthier.models.lora import Adapter, named_targets
from luthier.models.weights import load_decoder
from luthier.recipe import Recipe, dump_recipe, load_recipe
from luthier.stages.check import Check, costs, require_new
from luthier.stages.interrupt import Interrupt
from luthier.stages.prepare import Say, prepare
from luthier.stages.samples import answer_samples, choose_samples
from luthier.train.checkpoint import Progress, damage, folder_of, load_checkpoint, newest_good
from luthier.train.loop import fit
from luthier.train.optim import DTYPES, make_optimizer
from luthier.train.tensorboard import TensorBoard

PACKAGES = ("luthier", "torch", "transformers", "tokenizers", "safetensors", "numpy")
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        run_dir: the run's folder.
        status: "finished", "early stop" or "interrupted".
        adapter_dir: the PEFT adapter, that of the best validation; None if the run was interrupted.
        comparison: held-out loss before and after; None without validation rows or if interrupted.
        report: the page that shows it all.
    """

    run_dir: Path
    status: str
    adapter_dir: Path | None
    comparison: Comparison | None
    report: Path


def train(
    recipe: Recipe, *, say: Say | None = None, listen: Listener | None = None, checked: Check | None = None
) -> TrainResult:
    """Run the recipe from the start.

    Args:
        say: receives the progress of rendering and evaluating.
        listen: receives every event as it is written.
        checked: the result of `check` on this recipe, if it was made already.

    Raises:
        LuthierError: what stops the run; nothing that was saved is lost.
    """
    assert checked is None or checked.prepared.recipe == recipe, "the check was of another recipe"
    run_dir = Path(recipe.output_dir)
    require_new(run_dir)  # before the folder is made, and again when nobody else can fill it
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the folder cannot be made ({error.strerror})", where=str(run_dir), fix="choose another output_dir"
        ) from None
    with RunLock(run_dir):
        require_new(run_dir)
        checked = checked or costs(prepare(recipe, say=say))
        # What a damaged model can stop comes first, because files make the folder a run.
        run, manifest = _Run(checked, run_dir, say, listen), _manifest(checked)
        write_text(run_dir / "recipe.yaml", dump_recipe(recipe))
        write_json(run_dir / "manifest.json", manifest)
        return run.go(resumed=False)


def resume(run_dir: str | Path, *, say: Say | None = None, listen: Listener | None = None) -> TrainResult:
    """Go on with an interrupted or crashed run from its newest whole checkpoint (from the start if it has none).

    Raises:
        RunError: not a run folder, a finished run, or one whose data or model has changed since.
    """
    run_dir = Path(run_dir)
    if not (run_dir / EVENTS_FILE).is_file() or not (run_dir / "recipe.yaml").is_file():
        raise RunError("not a run folder", where=str(run_dir), fix="luthier runs list shows runs")
    with RunLock(run_dir):
        if (run_dir / "adapter").exists():
            raise RunError(
                "this run is finished", where=str(run_dir), fix="start another with another output_dir to train further"
            )
        loaded = load_recipe(run_dir / "recipe.yaml")
        recipe = loaded.recipe.model_copy(update={"output_dir": str(run_dir)})
        manifest = read_json(run_dir / "manifest.json")
        checked = costs(prepare(recipe, today=date.fromisoformat(manifest["today"]), say=say))
        _require_same(manifest, _manifest(checked), run_dir)
        return _Run(checked, run_dir, say, listen).go(resumed=True)


def _manifest(checked: Check) -> dict[str, Any]:
    """What the run was made from: hashes of model and data, versions, machine."""
    prepared = checked.prepared
    facts = cpu()
    files = [*shard_files(prepared.model_dir), prepared.model_dir / "config.json"]
    return {
        "format": 1,
        "today": prepared.today.isoformat(),
        "model": {
            "name": prepared.recipe.base_model,
            "path": str(prepared.model_dir),
            "parameters": prepared.facts.parameters,
            "files": {file.name: hash_file(file) for file in files},
        },
        "tokenizer": prepared.renderer.tokenizer.fingerprint,
        "template": prepared.renderer.template.fingerprint if prepared.renderer.template else "",
        "data": prepared.data_hash,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": facts.name,
            "cores": facts.cores,
            "memory_bytes": memory().total,
            "gpu": torch.cuda.get_device_name() if prepared.place.device.type == "cuda" else "",
        },
        "place": prepared.place.why,
    }


def _require_same(old: dict[str, Any], new: dict[str, Any], run_dir: Path) -> None:
    """A resumed run must see the model and rows it began with."""
    for what, was, now in (
        ("the base model's files have", old["model"]["files"], new["model"]["files"]),
        ("the tokenizer has", old["tokenizer"], new["tokenizer"]),
        ("the chat template has", old["template"], new["template"]),
        ("the training data has", old["data"], new["data"]),
    ):
        if was != now:
            raise RunError(
                f"{what} changed since this run began, so it cannot go on as it was",
                where=str(run_dir),
                fix="put it back as it was, or start a new run with another output_dir",
            )


class _Run:
    """The parts of one run while it lasts. Making one loads the base model; the folder is not touched before `go`."""

    def __init__(self, checked: Check, run_dir: Path, say: Say | None, listen: Listener | None) -> None:
        self.checked, self.prepared, self.recipe = checked, checked.prepared, checked.prepared.recipe
        self.run_dir, self.say, self.listen = run_dir, say, listen
        self.log: EventLog | None = None
        self.board: TensorBoard | None = None
        self.began = time.monotonic()
        local = Path(self.recipe.base_model).exists() or "/" not in self.recipe.base_model
        self.base_model = str(self.prepared.model_dir) if local else self.recipe.base_model
        keep_freed_memory()
        prepared, recipe, device = self.prepared, self.recipe, self.prepared.place.device
        self.decoder = load_decoder(
            prepared.model_dir,
            dtype=prepared.place.dtype,
            device=device,
            nf4=recipe.nf4,
            nf4_head=recipe.nf4_head,
            embedding_on_host=recipe.embedding_on_host,
        )
        if recipe.gradient_checkpointing:
            self.decoder.recomputed = range(prepared.spec.num_layers)
        self.adapter = Adapter(
            prepared.spec,
            recipe.lora_r,
            recipe.lora_alpha,
            targets=named_targets(recipe.lora_targets, prepared.spec),
            rslora=recipe.rslora,
            dropout=recipe.lora_dropout,
            dora=recipe.dora,
            seed=recipe.seed,
            dtype=DTYPES[recipe.adapter_dtype],
            device=device,
        )
        self.adapter.start_magnitudes(self.decoder.layers)
        self.optimizer = make_optimizer(self.adapter, recipe)

    def emit(self, event: str, **fields: Any) -> None:
        """Record an event, and pass it on to whoever shows the run."""
        assert self.log is not None, "events belong to `go`"
        entry = self.log.add(event, **fields)
        if self.board is not None:
            self.board.add(entry)
        if self.listen is not None:
            self.listen(entry)

    def go(self, *, resumed: bool) -> TrainResult:
        """Train, compare, report."""
        # A run that died before its first event is begun anew.
        resumed = resumed and any(event["event"] == "start" for event in read_events(self.run_dir))
        self.log = EventLog(self.run_dir)
        try:
            return self._go(resumed)
        finally:
            self.log.close()
            if self.board is not None:
                self.board.close()

    def _go(self, resumed: bool) -> TrainResult:
        prepared, recipe = self.prepared, self.recipe
        decoder, adapter, optimizer = self.decoder, self.adapter, self.optimizer
        progress = Progress()
        if resumed:
            checkpoint, notes = newest_good(self.run_dir)
            for note in notes:
                self.emit("warning", text=note)
            if checkpoint is not None:
                progress = load_checkpoint(checkpoint, adapter, optimizer)
            self.emit("resume", step=progress.step)
        else:
            self.emit("start", **self._start(adapter))
        for text in self.checked.warnings:
            self.emit("warning", text=text)
        self.board = TensorBoard(self.run_dir, purge_step=progress.step + 1 if resumed else None)
        samples = choose_samples(prepared.val_records, recipe.num_samples, seed=recipe.seed)
        if progress.step == 0:
            self._before(decoder, samples)
        try:
            with Interrupt() as should_stop:
                status = fit(
                    decoder,
                    adapter,
                    optimizer,
                    prepared.train,
                    recipe=recipe,
                    settings=prepared.settings,
                    progress=progress,
                    run_dir=self.run_dir,
                    base_model=self.base_model,
                    emit=self.emit,
                    validate=(lambda step: self._validate(decoder, adapter, step)) if prepared.val else None,
                    should_stop=should_stop,
                )
        except RunError as error:
            self.emit("warning", text=error.what)
            self._end("failed", progress)
            write_report(self.run_dir)
            raise
        adapter_dir, comparison = None, None
        if status != "interrupted":
            adapter_dir, comparison = self._finish(decoder, adapter, progress, samples)
        self._end(status, progress)
        return TrainResult(self.run_dir, status, adapter_dir, comparison, write_report(self.run_dir))

    def _start(self, adapter: Adapter) -> dict[str, Any]:
        prepared, manifest = self.prepared, read_json(self.run_dir / "manifest.json")
        accounts = prepared.accounts
        return {
            "recipe": self.recipe.model_dump(),
            "model": manifest["model"],
            "adapter": {
                "base": "nf4" if self.recipe.nf4 else prepared.place.dtype_name,
                "r": adapter.rank,
                "alpha": adapter.alpha,
                "parameters": adapter.num_parameters,
            },
            "data": {
                "rows_in": accounts.rows_in,
                "train_rows": len(prepared.train),
                "val_rows": len(prepared.val),
                "train_tokens": prepared.train_tokens,
                "label_tokens": prepared.label_tokens,
                "val_tokens": sum(len(row.ids) for row in prepared.val),
                "val_label_tokens": sum(int(row.mask.sum()) for row in prepared.val),
                "dropped": dict(accounts.dropped),
                "changed": dict(accounts.changed),
                "sources": accounts.sources,
                "notes": accounts.notes,
                "hash": prepared.data_hash,
            },
            "settings": {
                "batch_tokens": prepared.settings.batch_tokens,
                "micro_batch_tokens": prepared.settings.micro_batch_tokens,
                "learning_rate": prepared.settings.learning_rate,
                "eval_steps": prepared.settings.eval_steps,
                "save_steps": prepared.settings.save_steps,
                "notes": prepared.settings.notes,
            },
            "machine": manifest["machine"],
            "versions": manifest["versions"],
            "device": str(prepared.place.device),
            "dtype": prepared.place.dtype_name,
            "place": prepared.place.why,
            "total_steps": prepared.settings.total_steps,
        }

    def _before(self, decoder: Decoder, samples: list[Any]) -> None:
        """The base itself: its answers and its held-out loss."""
        if self.prepared.val:
            loss, label_tokens = self._validate(decoder, None, 0)
            self.emit("validation", step=0, loss=loss, label_tokens=label_tokens, best=False)
        self._answer(decoder, None, samples, "before")

    def _validate(self, decoder: Decoder, adapter: Adapter | None, step: int) -> tuple[float, int]:
        """Loss over the held-out rows; the losses of the single rows are kept for the comparison at the end."""
        say = self.say
        losses = row_losses(
            decoder,
            self.prepared.val,
            adapter=adapter,
            micro_batch_tokens=self.prepared.settings.micro_batch_tokens,
            progress=None if say is None else lambda done, total: say("validation", done, total),
        )
        write_json(self._losses_file(step), {"nll": losses.nll.tolist(), "tokens": losses.tokens.tolist()})
        return losses.mean, int(losses.tokens.sum())

    def _losses_file(self, step: int) -> Path:
        return self.run_dir / "validation" / f"step-{step:06d}.json"

    def _answer(self, decoder: Decoder, adapter: Adapter | None, samples: list[Any], when: str) -> None:
        answers = answer_samples(
            decoder, adapter, self.prepared.renderer, samples, max_new_tokens=self.recipe.max_new_tokens, say=self.say
        )
        for answer in answers:
            self.emit("sample", when=when, **answer)

    def _finish(
        self, decoder: Decoder, adapter: Adapter, progress: Progress, samples: list[Any]
    ) -> tuple[Path, Comparison | None]:
        """Take the best adapter, compare it with the base on the held-out rows, and publish it."""
        if progress.best_step not in (0, progress.step):
            best = folder_of(self.run_dir, progress.best_step)
            if wrong := damage(best):
                text = f"{best.name} was the best checkpoint, but {wrong}: the adapter is that of the last step"
                self.emit("warning", text=text)
                progress.best_step = progress.step
            else:
                load_checkpoint(best, adapter, make_optimizer(adapter, self.recipe))
        comparison = None
        if self.prepared.val:
            before, after = (read_json(self._losses_file(step)) for step in (0, progress.best_step))
            comparison = compare(
                before["nll"],
                after["nll"],
                before["tokens"],
                [row.group for row in self.prepared.val],
                seed=self.recipe.seed,
            )
            self.emit("heldout", **asdict(comparison))
        self._answer(decoder, adapter, samples, "after")
        path = self.run_dir / "adapter"
        with atomic_folder(path) as folder:
            save_adapter(
                adapter, folder, base_model=self.base_model, nf4=self.recipe.nf4, nf4_head=self.recipe.nf4_head
            )
        return path, comparison

    def _end(self, status: str, progress: Progress) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        on_gpu = self.prepared.place.device.type == "cuda"
        self.emit(
            "end",
            status=status,
            step=progress.step,
            seconds=time.monotonic() - self.began,
            training_seconds=progress.seconds,
            best_step=progress.best_step,
            peak_rss_bytes=peak,
            peak_gpu_bytes=torch.cuda.max_memory_reserved() if on_gpu else 0,
        )
