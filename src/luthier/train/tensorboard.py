"""TensorBoard files, written from a run's events."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

_STEP = ("loss", "grad_norm", "learning_rate", "tokens_per_second")


class TensorBoard:
    """Writes the numbers of `step` and `validation` events to `run_dir/tensorboard`.

    Args:
        run_dir: the run's folder.
        purge_step: when a run is resumed, later points of its earlier part are hidden.
    """

    def __init__(self, run_dir: Path, *, purge_step: int | None = None) -> None:
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step)

    def add(self, event: dict[str, Any]) -> None:
        """Write the event's numbers; events without any are passed over."""
        if event["event"] == "step":
            for name in _STEP:
                self._writer.add_scalar(f"train/{name}", event[name], event["step"])
        elif event["event"] == "validation":
            self._writer.add_scalar("validation/loss", event["loss"], event["step"])

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
