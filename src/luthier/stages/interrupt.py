"""Ctrl-C, SIGTERM and a closed terminal as a question the run asks, so that its state is saved before it ends."""

import signal
from types import FrameType, TracebackType
from typing import Any

from luthier.core.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """While the block runs, the first signal only sets `asked`; the second ends the process at once.

    The second SIGTERM or SIGHUP is the system's own, which needs no Python to act; the second Ctrl-C raises
    KeyboardInterrupt, since the process may be somebody's notebook. A signal that was ignored before stays ignored, so
    `nohup` does what it says. Outside the main thread signals cannot be caught; `asked` then stays False.
    """

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.asked

    def check(self) -> None:
        """For what takes long and reports progress: a validation, answers, a sweep.

        Raises:
            Interrupted: a stop was asked for.
        """
        if self.asked:
            raise Interrupted

    def __enter__(self) -> "Interrupt":
        try:
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._on_signal)
        except ValueError:  # not the main thread
            self._old.clear()
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for caught in self._old:
            signal.signal(caught, signal.default_int_handler if caught == signal.SIGINT else signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
