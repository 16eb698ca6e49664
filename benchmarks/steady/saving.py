"""What saving costs a run, how long it takes to end when it is asked to stop, and to go back when a gate fails.

    python benchmarks/steady/saving.py --data rows.jsonl [--model smollm2-135m] [--steps 100] [--signals 8]

Three measurements on a real model with the settings that a recipe has by default, `save_steps` among them:

    share      a run of `--steps` steps. Every call that writes a checkpoint or deletes an old one is timed (packing,
               hashing, writing, syncing); the share is their sum over the time from the first step to the last save.
    signals    as many runs, each a process of its own, which get SIGTERM at a moment spread over what a run does: its
               steps, a validation, the answers before it. The time is from the signal to the end of the process; then
               the run is looked at as a resume would: its newest checkpoint is whole, and of the step it says.
    rollback   two short stages, of which the second moves nothing and so fails a gate that asks for better. The time is
               from the gate's word to the end, with the first stage's adapter published and all reports written.

Written to benchmarks/results/steady_saving.json. Nothing else should run on the machine.
"""

import argparse
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from luthier.core.events import EVENTS_FILE, read_events
from luthier.core.files import read_json, write_json
from luthier.core.hardware import cpu
from luthier.recipe import Recipe, dump_recipe
from luthier.train import checkpoint

HERE = Path(__file__).parent
MOST_SHARE, MOST_SECONDS = 0.02, 10.0
PATIENCE = 900.0  # seconds until a run must have begun its first step


def recipe_of(arguments: argparse.Namespace, output_dir: Path, **fields: Any) -> Recipe:
    """Nothing but the model, the data and the length is set."""
    return Recipe(
        base_model=arguments.model,
        datasets=[str(arguments.data)],
        output_dir=str(output_dir),
        max_steps=arguments.steps,
        num_epochs=100.0,
        **fields,
    )


def share_of_saving(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One whole run, in this process."""
    from luthier.stages.run import train

    spent: dict[str, list[float]] = {"save": [], "prune": []}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*parts: Any, **more: Any) -> Any:
            began = time.perf_counter()
            result = call(*parts, **more)
            spent[name].append(time.perf_counter() - began)
            return result

        return act

    checkpoint.save_checkpoint = timed("save", checkpoint.save_checkpoint)
    checkpoint.prune = timed("prune", checkpoint.prune)
    moments: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] in ("step", "checkpoint"):
            moments.append(time.perf_counter())

    result = train(recipe_of(arguments, folder), listen=listen)
    settings = next(event for event in read_events(result.run_dir) if event["event"] == "start")["settings"]
    steps = [event["seconds"] for event in read_events(result.run_dir) if event["event"] == "step"]
    newest, _ = checkpoint.newest_good(result.run_dir)
    assert newest is not None
    # The first save is before the first step; the time from there to the last save holds all the others.
    saving, whole = sum(spent["save"][1:]) + sum(spent["prune"][1:]), moments[-1] - moments[0]
    return {
        "status": result.status,
        "save_steps": settings["save_steps"],
        "batch_tokens": settings["batch_tokens"],
        "steps": len(steps),
        "seconds_a_step": median(steps),
        "saves": len(spent["save"]),
        "seconds_a_save": median(spent["save"]),
        "slowest_save": max(spent["save"]),
        "bytes": sum(file.stat().st_size for file in newest.iterdir()),
        "seconds": whole,
        "share": saving / whole,
        "goal": MOST_SHARE,
    }


def signalled(arguments: argparse.Namespace, folder: Path, chance: random.Random, number: int) -> dict[str, Any]:
    """One process that gets SIGTERM; what it was doing, and how long it took to end."""
    run_dir, recipe_file = folder / "run", folder / "recipe.yaml"
    folder.mkdir()
    # Every third is asked soon after its first step, every third around a validation, every third while it answers.
    kind = ("a step", "a validation", "an answer")[number % 3]
    fields: dict[str, Any] = {"eval_steps": 2} if kind == "a validation" else {}
    recipe_file.write_text(dump_recipe(recipe_of(arguments, run_dir, **fields)))
    process = subprocess.Popen(
        [sys.executable, "-m", "luthier", "train", str(recipe_file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    awaited = {"a step": ("step", 1), "a validation": ("step", 2), "an answer": ("validation", 0)}[kind]
    wait_for(run_dir, process, awaited)
    time.sleep(chance.uniform(0.1, 2.0))
    process.send_signal(signal.SIGTERM)
    began = time.perf_counter()
    process.wait()
    seconds = time.perf_counter() - began
    assert process.stderr is not None
    done = [event["step"] for event in read_events(run_dir) if event["event"] == "step"]
    found, notes = checkpoint.newest_good(run_dir)
    return {
        "during": kind,
        "seconds": seconds,
        "exit_code": process.returncode,
        "steps_done": max(done, default=0),
        "step_saved": int(found.name.removeprefix("step-")) if found is not None else None,
        "notes": notes,
        "goal": MOST_SECONDS,
    }


def rollback(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A failed gate, and whether what is published is the stage before, byte for byte."""
    from luthier.core.files import hash_file
    from luthier.stages.run import train

    data = [str(arguments.data)]
    recipe = Recipe(
        base_model=arguments.model, output_dir=str(folder), max_steps=2, eval_steps=2, num_samples=0,
        max_forgetting=None, replay_share=0.0, learning_rate=1e-4, batch_tokens=1024,
        stages=[
            {"name": "broad", "datasets": data},
            {"name": "special", "datasets": data, "learning_rate": 1e-30, "gate": "better"},
        ],
    )  # fmt: skip
    moments: dict[bool, float] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "gate":
            moments[event["passed"]] = time.perf_counter()

    result = train(recipe, listen=listen)
    seconds = time.perf_counter() - moments[False]
    weights = "adapter/adapter_model.safetensors"
    assert result.adapter_dir is not None
    before, after = hash_file(folder / "stages/01-broad" / weights), hash_file(folder / weights)
    return {"seconds": seconds, "same_bytes": before == after, "bytes": (folder / weights).stat().st_size, "goal": 5.0}


def wait_for(run_dir: Path, process: "subprocess.Popen[bytes]", awaited: tuple[str, int]) -> None:
    """Wait for an event of a step."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if (run_dir / EVENTS_FILE).is_file() and any(
            (event["event"], event.get("step")) == awaited for event in read_events(run_dir)
        ):
            return
        time.sleep(0.05)
    assert process.stderr is not None
    raise SystemExit(f"the run did not come to {awaited}: {process.stderr.read().decode()[-2000:]}")


def signals_and_share(arguments: argparse.Namespace, folder: Path, chance: random.Random) -> dict[str, Any]:
    """The first two measurements, and what they were made on."""
    signals = []
    for number in range(arguments.signals):
        signals.append(signalled(arguments, folder / f"signal{number}", chance, number))
        print(signals[-1], flush=True)
    share = share_of_saving(arguments, folder / "share")
    print(share, flush=True)
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": arguments.model,
        "cpu": cpu().name,
        "cores": cpu().cores,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: metadata.version(name) for name in ("luthier", "torch", "safetensors")},
        "share": share,
        "signals": signals,
        "slowest_end": max((entry["seconds"] for entry in signals), default=None),
        "within_goals": share["share"] <= MOST_SHARE and all(e["seconds"] <= MOST_SECONDS for e in signals),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="in the model store, or a folder")
    parser.add_argument("--data", type=Path, required=True, help="a file to train on")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--signals", type=int, default=8, help="processes that are stopped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-rollback", action="store_true", help="and leave the other numbers as they were")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "steady_saving.json")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    result = read_json(arguments.out) if arguments.only_rollback else {}
    with tempfile.TemporaryDirectory(prefix="saving-", dir=Path.cwd()) as folder:  # a real disk, which /tmp may not be
        if not arguments.only_rollback:
            result = signals_and_share(arguments, Path(folder), chance)
        result["rollback"] = rollback(arguments, Path(folder) / "rollback")
        print(result["rollback"], flush=True)
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
