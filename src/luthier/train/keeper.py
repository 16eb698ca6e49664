"""The loop's side of checkpoints: what is kept, what a rewind returns to, and what it gives up."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core import disk
from luthier.core.errors import RunError
from luthier.models.lora import Adapter
from luthier.train import checkpoint
from luthier.train.checkpoint_folder import checkpoints, step_of
from luthier.train.guards import trusted, worth_keeping
from luthier.train.optim import Optimizer
from luthier.train.progress import Progress

LITTLE = 2**20  # bytes that a validation may need


@dataclass
class Keeper:
    """The checkpoints of one run.

    Attributes:
        keep: newest ones that are kept, beside the best and those that a rewind may want.
        emit: receives the events checkpoint, warning, paused and unpaused.
        should_stop: asked while the disk is full.
        others as for `train.loop.fit`.
    """

    adapter: Adapter
    optimizer: Optimizer
    run_dir: Path
    base_model: str
    facts: dict[str, Any]
    keep: int
    emit: Callable[..., None]
    should_stop: Callable[[], bool]

    def save(self, progress: Progress, *, first: Callable[[], None] | None = None) -> bool:
        """Save, however long a full disk makes it wait.

        Args:
            first: what is to be done before, and again if the disk was full.

        Returns:
            False if it was given up, as the run was asked to stop while the disk was full.

        Raises:
            RunError: a weight or moment is not finite, or the disk fails in another way.
        """
        needed = worth_keeping(progress.guard, self._steps(), progress.step)

        def write() -> Path:
            if first is not None:
                self._first(first)
            return checkpoint.save_checkpoint(
                self.run_dir, progress, self.adapter, self.optimizer, base_model=self.base_model, facts=self.facts,
                protect=needed,
            )  # fmt: skip

        path = checkpoint.save_when_there_is_room(
            write, run_dir=self.run_dir, step=progress.step, emit=self.emit, should_stop=self.should_stop
        )
        if path is None:
            text = "asked to stop while the disk is full: what was done since the last checkpoint is not saved"
            self.emit("warning", text=text)
            return False
        self.emit("checkpoint", step=progress.step, path=str(path.relative_to(self.run_dir)))
        self._tell(checkpoint.prune(self.run_dir, keep=self.keep, protect={progress.best_step, *needed}))
        return True

    def _first(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno in disk.NO_SPACE:
                raise checkpoint.NoSpace(self.run_dir, LITTLE, disk.DISK.free(self.run_dir)) from error
            raise RunError(
                f"the validation cannot be written ({error.strerror})",
                where=str(error.filename or self.run_dir),
                fix="mend the disk or its rights, then luthier train --resume",
            ) from error

    def sound(self) -> bool:
        """Whether weights and moments are finite."""
        moments = self.optimizer.tensors().values()
        tensors = [self.adapter.flat, *(moment for moment in moments if moment.is_floating_point())]
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def back(self, guard: dict[str, Any], began: int) -> Progress | None:
        """Load the newest checkpoint that is whole and from before the trouble; None if there is none.

        Args:
            guard: the guards' state.
            began: first step of the trouble.
        """
        saved = self._steps()
        while (step := trusted(guard, saved, began)) is not None:
            folder = checkpoint.folder_of(self.run_dir, step)
            wrong = checkpoint.damage(folder)
            if not wrong:
                return checkpoint.load_checkpoint(folder, self.adapter, self.optimizer)
            self.emit("warning", text=f"{folder.name} is passed over: {wrong}")
            saved.remove(step)
        return None

    def discard(self, progress: Progress, start: int, end: int) -> None:
        """Delete what was saved after step `start` and before `end`, but for the best."""
        protect = {progress.best_step, *(step for step in self._steps() if step >= end)}
        self._tell(checkpoint.discard_after(self.run_dir, start, protect=protect))

    def _steps(self) -> list[int]:
        """Steps that have checkpoints, newest first."""
        return list(dict.fromkeys(step_of(folder) for folder in checkpoints(self.run_dir)))

    def _tell(self, notes: list[str]) -> None:
        for note in notes:
            self.emit("warning", text=note)
