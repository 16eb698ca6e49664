"""Explosions: what the guards see, what a run ends with after one, and what they cost.

    python benchmarks/steady/explosions.py [--seeds 20] [--cost-model smollm2-135m]

Three parts.

Detectors, simulated: norms that are lognormal about a level or a falling course, losses with tails of several kinds.
False alarms per 1,000 steps, and how many single norms of ten times the usual are seen.

Runs: a one-layer model that knows a part of a synthetic language learns the rest, through the real loop, once clean and
once with each kind of explosion, for each seed: a learning rate 1000 times too high for three steps, six steps of
garbage labels, one infinite element in a gradient, NaN in five steps. Compared is the validation loss of what the run
ends with. False alarms are what the guards refuse in clean runs.

Cost, only with --cost-model, on a quiet machine: time in the guards' judgement and in the check before a save, as a
share of the steps' time in a run of the named model. It is written beside what the other parts gave last.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from helpers_fit import LENGTH, Rig, make_rows, make_taught  # noqa: E402
from luthier.core.hardware import cpu  # noqa: E402
from luthier.data.render import Row  # noqa: E402
from luthier.evaluate.losses import row_losses  # noqa: E402
from luthier.models.decoder import Decoder  # noqa: E402
from luthier.train import loop  # noqa: E402
from luthier.train.guards import Guard  # noqa: E402
from luthier.train.keeper import Keeper  # noqa: E402
from luthier.train.loop import Judged  # noqa: E402
from luthier.train.progress import Progress  # noqa: E402

STEPS, ROWS_A_STEP, SAVE_STEPS, RATE = 160, 16, 10, 2e-2
NOISE = 0.05  # of the tokens follow from nothing, as much of any text does
KINDS = ("clean", "rate x 1000", "bad rows", "infinite gradient", "nan")
MARGIN = 0.02  # of the clean run's validation loss
SIGMAS = (0.2, 0.35, 0.6)


def norms(rng: np.random.Generator, number: int, sigma: float, *, falling: bool) -> np.ndarray:
    """Gradient norms: lognormal, about a level or about a course that falls to a quarter in the first 100 steps."""
    course = math.log(4) * np.exp(-np.arange(number) / 30) if falling else 0.0
    return np.exp(course + sigma * rng.standard_normal(number))


def losses(rng: np.random.Generator, number: int, tail: str) -> np.ndarray:
    """Losses that fall from 2.5 to 1.2 nats."""
    noise = {
        "normal": lambda: 0.12 * rng.standard_normal(number),
        "wide": lambda: 0.4 * rng.standard_normal(number),
        "t5": lambda: 0.15 * rng.standard_t(5, number),
        "t3": lambda: 0.15 * rng.standard_t(3, number),
    }[tail]()
    return 1.2 + 1.3 * np.exp(-np.arange(number) / 40) + noise


def simulate(runs: int) -> dict[str, Any]:
    """The detectors alone."""
    alarms, seen = {}, {}
    cases = [(f"norm sigma {s}, {'falling' if f else 'level'}", s, f, "normal") for s in SIGMAS for f in (False, True)]
    cases += [(f"loss {tail}", 0.3, False, tail) for tail in ("wide", "t5", "t3")]
    for name, sigma, falling, tail in cases:
        refused = 0
        for seed in range(runs):
            rng, guard = np.random.default_rng(seed), Guard({})
            pairs = zip(losses(rng, 1000, tail), norms(rng, 1000, sigma, falling=falling), strict=True)
            for step, (loss, norm) in enumerate(pairs, 1):
                verdict = guard.judge(step, float(loss), float(norm))
                refused += verdict.action != "take"
                if verdict.action in ("rewind", "diverged"):
                    break
        alarms[name] = round(refused / runs, 3)
    for sigma in SIGMAS:
        for at in (17, 40, 100):
            hits = 0
            for seed in range(10 * runs):
                rng, guard = np.random.default_rng(10_000 + seed), Guard({})
                spiked = norms(rng, at, sigma, falling=False)
                spiked[-1] *= 10
                for step, (loss, norm) in enumerate(zip(losses(rng, at, "normal"), spiked, strict=True), 1):
                    verdict = guard.judge(step, float(loss), float(norm))
                hits += verdict.action != "take"
            seen[f"sigma {sigma}, step {at}"] = round(hits / (10 * runs), 4)
    return {"runs": runs, "false_alarms_per_1000_steps": alarms, "tenfold_norms_seen": seen}


class TooFast:
    """An optimizer whose rate is a thousand times too high in some steps."""

    def __init__(self, inner: Any, progress: Progress, steps: range) -> None:
        self._inner, self._progress, self._steps = inner, progress, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self, rate: float, shrink: float) -> None:
        self._inner.step(rate * (1000 if self._progress.step + 1 in self._steps else 1), shrink)


def garbage(seed: int, number: int) -> list[Row]:
    """Rows whose tokens follow from nothing."""
    rng = np.random.default_rng(seed)
    mask = np.arange(LENGTH) >= 3
    return [
        Row(rng.integers(3, 153, LENGTH).astype(np.int32), mask, f"bad{i}", f"bad{i}", f"bad.jsonl:{i}")
        for i in range(number)
    ]


def explode(decoder: Decoder, folder: Path, kind: str, seed: int) -> dict[str, Any]:
    """One run."""
    every = make_rows(300, seed=seed, known=8, noise=NOISE)
    rows, held_out = every[:240], every[240:]
    rig = Rig(
        decoder, folder, steps=STEPS, rows_a_step=ROWS_A_STEP, micro_rows=ROWS_A_STEP, rows=rows, seed=seed,
        save_steps=SAVE_STEPS, eval_steps=40,
        recipe={"learning_rate": RATE, "lr_scheduler": "cosine", "warmup_ratio": 0.05},
    )  # fmt: skip

    def evaluate(progress: Progress) -> Judged:
        measured = row_losses(decoder, held_out, adapter=rig.adapter, micro_batch_tokens=1024)
        return Judged(measured.mean, int(measured.tokens.sum()))

    rig.evaluate = evaluate
    at = int(np.random.default_rng(seed).integers(30, 120))  # the step that it begins at
    if kind == "rate x 1000":
        rig.wrap = lambda inner, progress: TooFast(inner, progress, range(at, at + 3))
    elif kind == "bad rows":
        rig.more_rows = garbage(seed, 4)
        again = [[240, 241, 242, 243] * (ROWS_A_STEP // 4)]
        rig.other = {step: again for step in range(at, at + 6)}
    elif kind == "infinite gradient":

        def should_stop() -> bool:
            if rig.progress.step + 1 == at:
                rig.adapter.grad[at] = torch.inf
            return False

        rig.should_stop = should_stop
    elif kind == "nan":
        bad = set(np.random.default_rng(seed + 1).choice(np.arange(20, 119), 5, replace=False).tolist())
        rig.change = lambda tokens, logprobs: logprobs * (torch.nan if rig.progress.step in bad else 1)
    status = rig.run()
    validations = [event["loss"] for event in rig.named("validation")]
    return {
        "status": status,
        "at": at,
        "validation": validations[-1] if validations else None,
        "best": rig.progress.best_loss,
        "skipped": len(rig.named("skipped")),
        "rewinds": [[event["to_step"], event["next_step"], event["reason"]] for event in rig.named("rewind")],
        "taken": [event["text"] for event in rig.named("warning")],
    }


def explosions(seeds: int) -> dict[str, Any]:
    """All kinds for all seeds."""
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as name:
        decoder = make_taught(Path(name) / "model", steps=150)
        for seed in range(seeds):
            for kind in KINDS:
                runs[kind].append(explode(decoder, Path(name) / f"{seed}-{kind}", kind, seed))
            clean = runs["clean"][-1]["validation"]
            parts = [f"{kind} {runs[kind][-1]['validation'] / clean - 1:+.1%}" for kind in KINDS[1:]]
            print(f"seed {seed}: clean {clean:.3f}, {', '.join(parts)}", flush=True)
    within = {}
    for kind in KINDS[1:]:
        changes = [run["validation"] / clean["validation"] - 1
                   for run, clean in zip(runs[kind], runs["clean"], strict=True)]  # fmt: skip
        within[kind] = {
            "within_2_percent_or_better": sum(change <= MARGIN for change in changes),
            "changes": [round(change, 4) for change in changes],
            "noticed": sum(run["skipped"] > 0 or bool(run["rewinds"]) for run in runs[kind]),
        }
    refused = sum(run["skipped"] + len(run["rewinds"]) for run in runs["clean"])
    return {
        "seeds": seeds,
        "steps": STEPS,
        "kinds": within,
        "false_alarms_per_1000_steps": round(1000 * refused / (seeds * STEPS), 3),
        "runs": runs,
    }


def cost(model: str, steps: int) -> dict[str, Any]:
    """The guards' share of the step time on a real model, rows of 512 random tokens, four a step."""
    from luthier.models.device import choose_place, keep_freed_memory
    from luthier.models.store import resolve_model
    from luthier.models.weights import load_decoder

    spent: dict[str, list[float]] = {"judge": [], "sound": []}

    class Timed(Guard):
        def judge(self, step: int, loss: float, norm: float) -> Any:
            began = time.perf_counter()
            verdict = super().judge(step, loss, norm)
            spent["judge"].append(time.perf_counter() - began)
            return verdict

    sound = Keeper.sound

    def timed(self: Keeper) -> bool:
        began = time.perf_counter()
        result = sound(self)
        spent["sound"].append(time.perf_counter() - began)
        return result

    keep_freed_memory()
    place = choose_place()
    decoder = load_decoder(resolve_model(model), dtype=place.dtype, device=place.device)
    rng = np.random.default_rng(0)
    rows = [
        Row(rng.integers(3, decoder.spec.vocab_size, 512).astype(np.int32), np.arange(512) >= 64, str(i), str(i), "")
        for i in range(4 * steps)
    ]
    filled = Guard({}).state  # full windows cost the most
    filled |= {"log_norms": [0.1 * (i % 7) for i in range(64)], "losses": [12 + 0.1 * (i % 5) for i in range(64)]}
    with tempfile.TemporaryDirectory() as name:
        rig = Rig(decoder, Path(name), steps=steps, rows=rows, save_steps=max(1, steps // 2), start={"guard": filled},
                  recipe={"learning_rate": 1e-5})  # fmt: skip
        rig.other = {step: [[4 * step - 4, 4 * step - 3], [4 * step - 2, 4 * step - 1]] for step in range(1, steps + 1)}
        loop.Guard, Keeper.sound = Timed, timed
        rig.run()
        loop.Guard, Keeper.sound = Guard, sound
    seconds = [event["seconds"] for event in rig.named("step")]
    a_step, a_save = median(spent["judge"]), median(spent["sound"])
    return {
        "model": model,
        "place": place.why,
        "steps": len(seconds),
        "step_seconds": round(median(seconds), 4),
        "judge_seconds": a_step,
        "check_before_save_seconds": a_save,
        "share_of_step": a_step / median(seconds),
        "share_of_step_if_every_step_were_saved": (a_step + a_save) / median(seconds),
    }


def main() -> None:
    """Run the parts, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--simulated", type=int, default=60, help="simulated runs of 1,000 steps of each kind")
    parser.add_argument("--cost-model", help="measure the cost on this model, and nothing else")
    parser.add_argument("--cost-steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "steady_explosions.json")
    arguments = parser.parse_args()
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    now = {
        "benchmark": "steady_explosions",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu().name, "cores": cpu().cores},
        "versions": {name: metadata.version(name) for name in ("luthier", "torch")},
    }
    if arguments.cost_model:
        now["cost"] = cost(arguments.cost_model, arguments.cost_steps)
        print(json.dumps(now["cost"], indent=1))
    else:
        now |= {"detectors": simulate(arguments.simulated), "explosions": explosions(arguments.seeds)}
        print(json.dumps(now["detectors"], indent=1))
        kinds = now["explosions"]["kinds"]
        for kind, numbers in kinds.items():
            print(f"{kind}: {numbers['within_2_percent_or_better']} of {arguments.seeds} within 2 %, "
                  f"noticed in {numbers['noticed']}")  # fmt: skip
        print(f"false alarms in clean runs: {now['explosions']['false_alarms_per_1000_steps']} per 1,000 steps")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**result, **now}, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
