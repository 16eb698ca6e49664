"""The training loop: microsteps accumulate, a step updates, and at its intervals the run validates and saves.

Nothing here knows where rows come from or how a validation is made: they are arguments. A step's gradient is the sum
over its microsteps divided by the trained tokens of the whole step, so 1 × 8 rows and 8 × 1 rows give the same update.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from luthier.core.errors import RunError
from luthier.data.collate import collate
from luthier.data.render import Row
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.recipe import Recipe
from luthier.train.checkpoint import Progress, prune, save_checkpoint
from luthier.train.objective import sft_loss
from luthier.train.optim import Optimizer, gradient_norm
from luthier.train.schedule import factor
from luthier.train.settings import Settings

Emit = Callable[..., None]  # emit("step", loss=…): writes one event
Validate = Callable[[int], tuple[float, int]]  # step → token-weighted loss, label tokens; None: no validation


def fit(
    decoder: Decoder,
    adapter: Adapter,
    optimizer: Optimizer,
    rows: Sequence[Row],
    *,
    recipe: Recipe,
    settings: Settings,
    progress: Progress,
    run_dir: Path,
    base_model: str,
    emit: Emit,
    validate: Validate | None,
    should_stop: Callable[[], bool],
) -> str:
    """Train from `progress.step` to the end of the plan, an early stop, or an interruption.

    Args:
        rows: what `settings.steps` indexes.
        progress: where the run stands; updated in place.
        base_model: where PEFT shall find the base, written into each saved adapter.
        emit: receives the events step, validation, checkpoint and interrupted.
        validate: called every `eval_steps` and after the last step.
        should_stop: asked between microsteps; True gives the unfinished step up, saves, and ends the loop.

    Returns:
        "finished", "early stop" or "interrupted".

    Raises:
        RunError: the loss or the gradient is not finite; the weights are left as they were before that step.
    """

    def save() -> None:
        path = save_checkpoint(run_dir, progress, adapter, optimizer, base_model=base_model)
        emit("checkpoint", step=progress.step, path=str(path.relative_to(run_dir)))
        prune(run_dir, keep=recipe.keep_checkpoints, best_step=progress.best_step)

    while progress.step < settings.total_steps:
        if recipe.early_stopping_patience and progress.stale_validations >= recipe.early_stopping_patience:
            return "early stop"  # asked first, so that a run that is resumed here takes no further step
        began = time.monotonic()
        epoch, microsteps = settings.steps[progress.step]
        label_tokens = sum(int(rows[i].mask.sum()) for microstep in microsteps for i in microstep)
        tokens = sum(len(rows[i].ids) for microstep in microsteps for i in microstep)
        loss, computed_tokens = 0.0, 0
        for number, microstep in enumerate(microsteps):
            if should_stop():
                adapter.grad.zero_()
                save()
                emit("interrupted", step=progress.step)
                return "interrupted"
            stream = collate([rows[i] for i in microstep], border=decoder.spec.border)
            segments = Segments.of(stream.lengths, decoder.device, parents=stream.parents)
            logprobs = decoder.logprobs(
                stream.tokens.to(decoder.device), segments, stream.targets.to(decoder.device), adapter,
                drop=adapter.drop_seed(progress.step, number),
            )  # fmt: skip
            part = sft_loss(logprobs) / label_tokens
            part.backward()
            loss += part.item()
            computed_tokens += len(stream.tokens)
        norm = gradient_norm(adapter.grad)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            adapter.grad.zero_()
            raise RunError(
                f"the {'loss' if not math.isfinite(loss) else 'gradient'} of step {progress.step + 1} is not finite; "
                "that step was not taken",
                where=str(run_dir),
                fix=f"lower learning_rate (it is {settings.learning_rate:g}); checkpoints up to here are good",
            )
        rate = settings.learning_rate * factor(
            progress.step + 1, settings.total_steps, kind=recipe.lr_scheduler, warmup_ratio=recipe.warmup_ratio
        )
        optimizer.step(rate, recipe.max_grad_norm / norm if norm > recipe.max_grad_norm else 1.0)
        adapter.grad.zero_()
        seconds = time.monotonic() - began
        progress.step += 1
        progress.total_tokens += tokens
        progress.total_label_tokens += label_tokens
        progress.seconds += seconds
        emit(
            "step",
            step=progress.step,
            epoch=epoch,
            loss=loss,
            grad_norm=norm,
            learning_rate=rate,
            tokens=tokens,
            label_tokens=label_tokens,
            shared_tokens=tokens - computed_tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds,
            total_tokens=progress.total_tokens,
        )
        last = progress.step == settings.total_steps
        due = validate is not None and (last or progress.step % settings.eval_steps == 0)
        if validate is not None and due:
            _validation(validate, progress, emit)
        if due or last or progress.step % settings.save_steps == 0:
            save()
    return "finished"


def _validation(validate: Validate, progress: Progress, emit: Emit) -> None:
    """Validate now, and keep count of what is best."""
    loss, label_tokens = validate(progress.step)
    best = progress.best_loss is None or loss < progress.best_loss
    if best:
        progress.best_loss, progress.best_step, progress.stale_validations = loss, progress.step, 0
    else:
        progress.stale_validations += 1
    emit("validation", step=progress.step, loss=loss, label_tokens=label_tokens, best=best)
