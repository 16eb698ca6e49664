"""Whether `learning_rate: auto` finds a rate near the best of a grid, on five small tasks and a real model.

    python benchmarks/steady/auto_rate.py --data FOLDER --work FOLDER [--model smollm2-135m] [--only NAME …]

Five tasks begin with a tiny model that is first trained from scratch on bytes of one kind of text and then gets an
adapter for another kind; a sixth, which has to be asked for with `--only`, adapts a real model. The rule was developed
on other models and tasks. Each task is trained at each rate of a grid (steps of a factor of two), from the same start,
on the same rows in the same order, with the run's own warmup and course. What counts is the token-weighted loss on
held-out rows after the last step. Then the range test is made as a run makes it, within its share of the run's tokens,
and its rate is compared with the grid: how far it lies from the best rate, and what loss it costs against the best
(read from the grid, in straight lines over the logarithm of the rate). The formula's rate, which a run without a test
takes, is judged in the same way beside it.

`--data` holds `gsm8k_train.jsonl`, `dolly_3k.json`, `codegen_instruct.json` and `hh_harmless_pairs.jsonl`. Trained
bases and grids are kept under `--work`: they do not depend on the test, so another rule can be judged in a minute.
"""

import argparse
import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from auto_rate_tasks import BASES, JUDGED, TASKS, Task, real_rows, tiny_rows, train_base
from transformers.utils import logging

from luthier.core.files import read_json, write_json
from luthier.core.hardware import cpu
from luthier.data.collate import collate
from luthier.data.pack import plan_run
from luthier.data.render import Row
from luthier.evaluate.losses import row_losses
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter, named_targets
from luthier.models.store import resolve_model
from luthier.models.weights import load_decoder
from luthier.recipe import Recipe
from luthier.train.objective import sft_loss
from luthier.train.optim import gradient_norm, make_optimizer
from luthier.train.range_test import (
    ABOVE,
    BELOW,
    DIVISOR,
    LOST,
    MIN_STEPS,
    SHARE,
    RangeTest,
    range_rows,
    range_test,
    run_tokens,
)
from luthier.train.schedule import factor
from luthier.train.settings import Settings, decide

HERE: Final = Path(__file__).parent
FITTED: Final = (0.49, 0.76, 1.62)  # of the other rules, on the tasks on which ours was developed
WITHIN: Final = 2.0  # a rate counts as found when it is this factor from the best, at most


def new_adapter(decoder: Decoder, recipe: Recipe) -> Adapter:
    """The adapter that a run of the recipe begins with."""
    targets = named_targets(recipe.lora_targets, decoder.spec)
    return Adapter(decoder.spec, recipe.lora_r, recipe.lora_alpha, targets=targets, seed=recipe.seed)


def trained_loss(decoder: Decoder, recipe: Recipe, train: list[Row], val: list[Row], rate: float) -> float:
    """Held-out loss after a run at this peak rate (nats a token)."""
    adapter = new_adapter(decoder, recipe)
    optimizer = make_optimizer(adapter, recipe)
    plan = plan_of(recipe, train)
    for number, (_, microsteps) in enumerate(plan):
        labels = sum(int(train[i].mask.sum()) for microstep in microsteps for i in microstep)
        for microstep in microsteps:
            stream = collate([train[i] for i in microstep])
            logprobs = decoder.logprobs(
                stream.tokens, Segments.of(stream.lengths, decoder.device, parents=stream.parents), stream.targets,
                adapter,
            )  # fmt: skip
            (sft_loss(logprobs) / labels).backward()
        norm = gradient_norm(adapter.grad)
        course = factor(number + 1, len(plan), kind=recipe.lr_scheduler, warmup_ratio=recipe.warmup_ratio)
        optimizer.step(rate * course, 1 / max(1.0, norm))
        adapter.grad.zero_()
    return row_losses(decoder, val, adapter=adapter, micro_batch_tokens=1024).mean


def plan_of(recipe: Recipe, train: list[Row]) -> list[tuple[int, list[list[int]]]]:
    """The run's steps."""
    assert recipe.batch_tokens != "auto"
    return plan_run(
        [len(row.ids) for row in train], batch_tokens=recipe.batch_tokens, micro_batch_tokens=recipe.batch_tokens,
        seed=recipe.seed, num_epochs=recipe.num_epochs, max_steps=recipe.max_steps,
    )  # fmt: skip


def walk(
    decoder: Decoder, recipe: Recipe, rows: tuple[list[Row], list[Row]], guess: float, file: Path, *, full: bool
) -> dict[float, float]:
    """Rates and losses, from 1/32 of the guess to 64 times it; or from the guess on until both neighbours are worse.

    The first is the whole grid. The second is the same best in a third of the time, if the loss has one valley.
    """
    kept: dict[str, float] = read_json(file) if file.exists() else {}

    def loss(power: int) -> float:
        key = f"{guess * 2.0**power:.4g}"
        if key not in kept:
            kept[key] = trained_loss(decoder, recipe, *rows, float(key))
            write_json(file, kept)
            print(f"  {key:>9}  {kept[key]:.4f}", flush=True)
        return kept[key]

    powers = {power: loss(power) for power in (range(-5, 7) if full else (0, 1))}
    while not full:
        best = min(powers, key=powers.__getitem__)
        if open_ends := [power for power in (best + 1, best - 1) if power not in powers]:
            powers[open_ends[0]] = loss(open_ends[0])
        else:
            break
    return {float(f"{guess * 2.0**power:.4g}"): powers[power] for power in sorted(powers)}


def judged(rate: float, grid: dict[float, float]) -> dict[str, Any]:
    """A rate against a grid of rates and losses."""
    best = min(grid, key=grid.__getitem__)
    loss = float(np.interp(np.log(rate), np.log(list(grid)), list(grid.values())))
    return {
        "rate": rate,
        "times_best": round(rate / best, 3),
        "within": bool(max(rate / best, best / rate) <= WITHIN),
        "loss_above_best": round(loss - grid[best], 4),
    }


def other_rules(test: RangeTest) -> dict[str, float]:
    """What other rules take from the same test. What each is divided by was fitted on the same tasks as ours."""
    if test.steps == 0:
        return {}
    rates, smoothed = np.log(test.rates), np.array(test.smoothed)
    least = int(np.argmin(smoothed))
    zero = next((i for i in range(least + 1, len(rates)) if smoothed[i] > 0), len(rates) - 1)
    crossing = np.interp(0, smoothed[zero - 1 : zero + 1], rates[zero - 1 : zero + 1])
    steepest = rates[int(np.argmin(np.gradient(smoothed, rates)[: least + 1]))]
    places = {"steepest fall": (steepest, FITTED[0]), "least loss": (rates[least], FITTED[1]),
              "no better than before": (crossing, FITTED[2])}  # fmt: skip
    return {rule: float(np.exp(place) / divisor) for rule, (place, divisor) in places.items()}


def run(name: str, task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """One task: its grid, its test, and what both say."""
    began = time.process_time()
    print(name, flush=True)
    if task.base:
        model = train_base(BASES[task.base], options.data, options.work / "bases" / task.base)
        rows = tiny_rows(options.data, task)
    else:
        model = resolve_model(options.model)
        rows = real_rows(options.data, task, model)
    decoder = load_decoder(model, dtype=torch.float32)
    recipe = Recipe(
        base_model=str(model), datasets=["-"], output_dir="-", num_epochs=100.0, max_steps=task.steps,
        batch_tokens=task.batch_tokens, micro_batch_tokens=task.batch_tokens, **task.adapter,
    )  # fmt: skip
    train, _ = rows
    settings = decide(recipe, decoder.spec, [len(row.ids) for row in train], on_gpu=False)
    guess = settings.learning_rate
    grid = walk(decoder, recipe, rows, guess, options.work / f"{name}.json", full=options.full)
    tests = [test_of(decoder, recipe, train, settings, seed) for seed in range(options.seeds)]
    tokens = run_tokens(train, settings)
    first = tests[0]
    return {
        "name": name,
        "run_tokens": tokens,
        "best": min(grid, key=grid.__getitem__),
        "best_loss": min(grid.values()),
        "test": judged(first.chosen, grid),
        "formula": judged(guess, grid),
        "other_seeds": [judged(test.chosen, grid) for test in tests[1:]],
        "other_rules": {rule: [judged(other_rules(test)[rule], grid) for test in tests] for rule in other_rules(first)},
        "steps": first.steps,
        "share_of_run": round(first.tokens / tokens, 4),
        "why": first.why,
        "curve": {"rates": first.rates, "losses": first.losses, "smoothed": first.smoothed},
        "grid": {f"{rate:g}": loss for rate, loss in grid.items()},
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def test_of(decoder: Decoder, recipe: Recipe, train: list[Row], settings: Settings, seed: int) -> RangeTest:
    """The test that a run with this seed makes; the first seed is the recipe's own."""
    adapter = new_adapter(decoder, recipe.model_copy(update={"seed": recipe.seed + seed}))
    steps = range_rows(train, settings, seed=recipe.seed + seed)
    return range_test(decoder, adapter, recipe, steps, guess=settings.learning_rate, seed=recipe.seed + seed)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where bases and grids are kept")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--only", nargs="*", default=JUDGED, help="tasks; without, the five of tiny models")
    parser.add_argument("--seeds", type=int, default=3, help="tests of each task, with other rows and another start")
    parser.add_argument("--full", action="store_true", help="train at every rate of the grid")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "steady_auto_rate.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    tasks = [run(name, TASKS[name], options) for name in options.only]
    for task in tasks:
        test, formula = task["test"], task["formula"]
        print(
            f"{task['name']}: best {task['best']:.2g}; test {test['rate']:.2g} ({test['times_best']:.2f} of the best, "
            f"{test['loss_above_best']:+.4f} nats, {task['share_of_run']:.1%} of the run); "
            f"formula {formula['rate']:.2g} ({formula['times_best']:.2f}, {formula['loss_above_best']:+.4f})"
        )
    found = sum(task["test"]["within"] for task in tasks)
    print(f"within a factor of {WITHIN:g} of the best: {found} of {len(tasks)}")
    write_json(
        options.out,
        {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"system": f"{platform.system()} {platform.machine()}", "cpu": cpu().name},
            "versions": {library: metadata.version(library) for library in ("luthier", "torch", "numpy")},
            "rule": {
                "share": SHARE,
                "lost": LOST,
                "divisor": DIVISOR,
                "below": BELOW,
                "above": ABOVE,
                "least_steps": MIN_STEPS,
            },
            "grid": "whole"
            if options.full
            else "from the formula's rate on until both neighbours of the best are worse",
            "within": found,
            "of": len(tasks),
            "tasks": tasks,
        },
    )


if __name__ == "__main__":
    main()
