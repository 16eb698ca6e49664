"""Ctrl-C and SIGTERM as a question the loop asks, so that the state is saved before the process ends."""

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While the block runs, the first SIGINT or SIGTERM only sets `asked`; a second SIGINT raises KeyboardInterrupt.

    Outside the main thread signals cannot be caught; `asked` then stays False.
    """

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.asked

    def __enter__(self) -> "Interrupt":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._on_signal)
        except ValueError:  # not the main thread
            self._old.clear()
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
