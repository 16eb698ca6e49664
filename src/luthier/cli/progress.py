"""A run as the terminal shows it: a bar with loss, speed and time left; plain lines where there is no terminal."""

import time
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from luthier.cli.console import err, note, out, span
from luthier.evaluate.decision_words import decision_line

# Decisions that are told apart from the course of things: colour and word before the line.
TONES = {
    **dict.fromkeys(("skipped", "rewind", "paused", "overfit", "action"), "yellow"),
    **dict.fromkeys(("diverged", "outcome"), "red"),
}
WORDS = {"skipped": "guard", "rewind": "guard", "paused": "waiting", "overfit": "watch", "action": "watch"}
PLAIN_SECONDS = 15.0  # between two lines where there is no terminal


class RunProgress:
    """Shows `say` and event calls of a run. Use as a context manager."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._said = time.monotonic()
        self._total_steps = 0
        self._first = 0
        self._validation = ""

    def __enter__(self) -> "RunProgress":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def say(self, what: str, done: int, total: int) -> None:
        """A counted piece of work: rendering, validation, answers."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, text="")
        self._bars.update(self._tasks[what], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(what))
        elif not out.is_terminal and time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            out.print(f"{what}: {done:,} of {total:,}")

    def listen(self, event: dict[str, Any]) -> None:
        """An event of the run."""
        show = getattr(self, f"_on_{event['event']}", None)
        if show is not None:
            show(event)
        elif line := decision_line(event):
            tone = TONES.get(event["event"], "")
            tone = "red" if event.get("passed") is False or event.get("stop") is True else tone
            word = f"[{tone}]{WORDS.get(event['event'], event['event'])}[/] " if tone else ""
            (err if tone else out).print(f"{word}{escape(line)}")

    def _on_start(self, event: dict[str, Any]) -> None:
        self._total_steps = event["total_steps"]

    def _on_resume(self, event: dict[str, Any]) -> None:
        if "step" not in event:  # of a training in stages
            out.print(f"Going on with stage {event['stage']}." if event.get("stage") else "Going on.")
            return
        self._first, self._total_steps = event["step"], event.get("total_steps", 0)
        out.print(f"Going on after step {event['step']}.")

    def _on_warning(self, event: dict[str, Any]) -> None:
        err.print(f"[yellow]warning[/] {escape(event['text'])}")

    def _on_validation(self, event: dict[str, Any]) -> None:
        if not event["label_tokens"]:  # nothing is held out; the validation was for the watch on forgetting
            return
        best = "  (best so far)" if event["best"] else ""
        probe = event.get("probe_loss")
        inside = f", training rows {probe:.4f}" if probe is not None else ""
        self._validation = f"validation {event['loss']:.3f}"
        label = "before training" if event["step"] == 0 else f"step {event['step']}"
        out.print(f"{label}: held-out loss {event['loss']:.4f}{inside}{best}")

    def _on_step(self, event: dict[str, Any]) -> None:
        step, total = event["step"], self._total_steps
        text = f"loss {event['loss']:.3f}  {self._validation}  {event['tokens_per_second']:,.0f} tokens/s"
        if out.is_terminal:
            if "training" not in self._tasks:
                self._tasks["training"] = self._bars.add_task("training", total=total or None, text="")
            self._bars.update(self._tasks["training"], completed=step, total=total or None, text=text)
        elif time.monotonic() - self._said > PLAIN_SECONDS or step == total:
            self._said = time.monotonic()
            left = span((total - step) * event["seconds"]) if total else "?"
            out.print(f"step {step}/{total or '?'}  {text}  {left} left")

    def _on_interrupted(self, event: dict[str, Any]) -> None:
        where = f"step {event['step']}" if "step" in event else f"stage {event['stage']}"
        note(f"stopped {'in' if 'stage' in event else 'after'} {where}; everything up to there is saved")
