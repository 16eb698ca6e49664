"""The watch on forgetting: the base is measured once, the tuned model at each evaluation, and both on the same rows.

run/general/base.json          the base, frozen: a resumed run compares with the same numbers
run/general/step-000050.json   the tuned model after 50 steps, which the choice of a strength uses again
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.files import read_json, write_json
from luthier.core.readable import SPACE, decimal
from luthier.data.render import Row
from luthier.data.tokenizer import Tokenizer
from luthier.evaluate.interval import Change
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.recipe import Recipe
from luthier.stages.forgetting_probes import Probes
from luthier.stages.forgetting_rule import (
    BASE,
    FORGETTING,
    NOT_BY_PROMPTS,
    Judgement,
    Measured,
    act,
    by_no_prompts,
    count,
    judge,
    told,
)
from luthier.stages.general import FOLDER, General
from luthier.stages.prepare import Say
from luthier.train.progress import Progress

OWN_TIMES = 8  # budgets, where the general texts are the base's own; see `forgetting_rule`
STATE = "forgetting"  # in `progress.watch`
LOST = "the measurement that the target's gain is counted from is missing or damaged: it is counted from here on"
UNLINKED = (
    "the base finds the answers no likelier after their own prompts than after those of other rows: unless they are "
    "facts that it cannot know, or much the same whatever is asked, see whether each stands with its own prompt"
)


class ForgettingWatch:
    """Measures what must not be forgotten, and says what to do.

    Args:
        recipe: its `max_forgetting` is not null.
        general: rows and questions.
        target: rows of the new task, best held out; a few are taken. May be empty.
        run_dir: gets the measurements.
        micro_batch_tokens: tokens of one forward pass.
        say: receives progress.
    """

    def __init__(
        self,
        recipe: Recipe,
        general: General,
        target: Sequence[Row],
        tokenizer: Tokenizer,
        *,
        run_dir: Path,
        micro_batch_tokens: int,
        say: Say | None = None,
    ) -> None:
        assert recipe.max_forgetting is not None
        self.budget, self._seed = recipe.max_forgetting * (OWN_TIMES if general.own else 1), recipe.seed
        self.general, self._folder = general, run_dir / FOLDER
        self._probes = Probes(general, target, tokenizer, micro_batch_tokens=micro_batch_tokens, say=say)
        self._base: Measured | None = None

    def before(self, decoder: Decoder) -> list[dict[str, Any]]:
        """Measure the base, unless this run has done so before; returns the events to record.

        A measurement that is damaged, or of other rows, is made anew.
        """
        self._base = self._read("base")
        if self._base is not None:
            return []
        self._base = self.measure(decoder, None)
        self._write("base", self._base)
        loss, right = self._base.loss, self._base.right
        parts = [] if loss is None else [f"loss {loss:.3f} on {len(self._base.nll)} general rows"]
        parts.append(f"{int(right.sum())} of {len(right)} questions right")
        events = [self._event(0, None, BASE, f"the base: {', '.join(parts)}", self._base)]
        prompts = self.judged(self._base).prompts
        if prompts is not None and prompts.missing:
            low, high = (decimal(end, 3) for end in prompts.base.interval or ())
            known = f"{decimal(prompts.base.change, 3)} nats a token, 95{SPACE}% interval {low} to {high}"
            events.append({"event": "warning", "text": f"{UNLINKED} ({known}, {prompts.base.rows} rows)"})
        return events

    def start(self, progress: Progress, decoder: Decoder, adapter: Adapter) -> str:
        """Measure what a later stage begins with; what the target gains is then counted from there.

        Returns:
            What was measured, in words, where it is outside the budget already, else "".
        """
        now = self.measure(decoder, adapter)
        self._write("step-000000", now)
        progress.watch.setdefault(STATE, {})["best"] = 0
        judgement = self.judged(now)
        return "" if judgement.inside else told(self.base, now, judgement, budget=self.budget)

    def at(
        self, progress: Progress, decoder: Decoder, adapter: Adapter, *, last: bool = False
    ) -> tuple[list[dict[str, Any]], str]:
        """Measure after `progress.step`, and act on it: `progress` is changed where the ladder is climbed.

        Args:
            last: no step follows, so nothing is left to change; what was forgotten the strength is then chosen by, and
                `refusal` asked.

        Returns:
            Events to record, each with its name under "event"; and "forgetting" if the run is to stop, else "".
        """
        if self._base is None:
            self.before(decoder)
        now = self.measure(decoder, adapter)
        self._write(f"step-{progress.step:06d}", now)
        state = progress.watch.setdefault(STATE, {})
        best = self.known(state["best"]) if "best" in state else None
        judgement = self.judged(now, before=best)
        lost = "best" in state and best is None
        if judgement.gained or lost:
            state["best"] = progress.step
        text = told(self.base, now, judgement, budget=self.budget)
        events = [self._event(progress.step, judgement, judgement.verdict, text, now)]
        if lost:
            events.append({"event": "warning", "text": LOST})
        count(judgement, state)
        action = None if last else act(judgement, state, progress, can_replay=bool(self.general.replay_rows))
        if action is None:
            return events, ""
        told_action = {"step": progress.step, "what": action.what, "value": action.value, "text": action.text}
        told_action["unrelated"] = by_no_prompts(state)
        return [*events, {"event": "action", **told_action}], FORGETTING if action.what == "stop" else ""

    def refusal(self, progress: Progress) -> str:
        """Why nothing that this run has learned may be published, or ""."""
        return NOT_BY_PROMPTS if by_no_prompts(progress.watch.get(STATE, {})) else ""

    @property
    def base(self) -> Measured:
        """The base's measurement."""
        assert self._base is not None, "`before` comes first"
        return self._base

    def known(self, step: int) -> Measured | None:
        """What was measured after `step`, if it was and is whole."""
        return self._read(f"step-{step:06d}")

    def judged(self, now: Measured, *, before: Measured | None = None) -> Judgement:
        """Compare with the base; `before` is the last evaluation at which the target had gained, None the base."""
        return judge(self.base, now, self._probes.groups, budget=self.budget, seed=self._seed, before=before)

    def measure(self, decoder: Decoder, adapter: Adapter | None, *, moved: bool = True) -> Measured:
        """All probes once.

        Args:
            adapter: None measures the base.
            moved: also what moved on the new task's rows; without, those numbers are the base's losses and 0.
        """
        return self._probes.measure(decoder, adapter, unmoved=None if moved else self.base)

    def _event(self, step: int, judgement: Judgement | None, verdict: str, text: str, now: Measured) -> dict[str, Any]:
        loss, right, target, kl, prompts = (
            (judgement.loss, judgement.right, judgement.target, judgement.kl, judgement.prompts)
            if judgement
            else (None,) * 5
        )
        return {
            "event": "forgetting",
            "step": step,
            "n": len(now.nll),
            "base_loss": self.base.loss,
            "loss": now.loss,
            "change": _change(loss),
            "interval": _interval(loss),
            "choices_n": len(now.right),
            "choices_base": int(self.base.right.sum()),
            "choices_now": int(now.right.sum()),
            "choices_interval": _interval(right),
            "kl": _change(kl),
            "kl_interval": _interval(kl),
            "target_change": _change(target),
            "target_interval": _interval(target),
            "prompts_base": None if prompts is None else prompts.base.change,
            "prompts_now": None if prompts is None else prompts.now.change,
            "prompts_interval": None if prompts is None else _interval(prompts.now),
            "unrelated": judgement is not None and judgement.unrelated,
            "budget": self.budget,
            "verdict": verdict,
            "text": text,
        }

    def _write(self, name: str, measured: Measured) -> None:
        values = {field.name: getattr(measured, field.name).tolist() for field in fields(Measured)}
        write_json(self._folder / f"{name}.json", {"rows": self._probes.hash, **values})

    def _read(self, name: str) -> Measured | None:
        path = self._folder / f"{name}.json"
        if not path.is_file():
            return None
        try:
            values = read_json(path)
            if values.pop("rows") != self._probes.hash:
                return None
            measured = Measured(**{field: np.asarray(value) for field, value in values.items()})
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
            return None
        return measured if self._probes.fits(measured) else None


def _change(change: Change | None) -> float | None:
    return None if change is None else change.change


def _interval(change: Change | None) -> list[float] | None:
    return None if change is None or change.interval is None else list(change.interval)
