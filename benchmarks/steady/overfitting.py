"""How well overfitting is noticed: alarms on runs that overfit, and false ones on runs that do not.

    python benchmarks/steady/overfitting.py scripted [--runs 200]
    python benchmarks/steady/overfitting.py real --data dolly.json [--model smollm2-135m] [--seeds 3] [--tiny]

`scripted` gives the rule losses of single rows that are made up: rows differ by nature (log-normal, sd 0.35), follow
the common course to different degrees (log-normal, sd 0.5), belong to groups, and wander from one validation to the
next, each alone, its group together, and all together, as the weights do. NOISE is of the size that real runs show
(`real` records theirs). A run that overfits has validation losses that turn after 15 to 60 % of it and rise by 0.1 to
0.5 nats a token until its end, while the probe falls on. A healthy one levels off, or still falls, while the probe
falls at least as far: training rows always gain more. In a hard one the probe gains much and validation stands still.

`real` trains: few rows many times over, which is learned by heart, and many rows once, which is not.

Both write into benchmarks/results/steady_overfitting.json.
"""

import argparse
import json
import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from luthier.evaluate.losses import RowLosses
from luthier.evaluate.overfitting import ALARM_AFTER, Measured, OverfitWatch

RESULT = Path(__file__).parent.parent / "results" / "steady_overfitting.json"
NOISE = {"row": 0.06, "group": 0.015, "common": 0.006}  # nats a token between two validations
ROWS, VALIDATIONS = (60, 150, 400), (8, 16, 30)
KINDS = ("overfits", "levels off", "still falls", "hard: probe gains, validation stands")


@dataclass
class Side:
    """The rows of one set: what lasts about them, and where they have wandered to."""

    tokens: np.ndarray
    group: np.ndarray
    level: np.ndarray
    response: np.ndarray
    row: np.ndarray
    shared: np.ndarray

    @classmethod
    def made(cls, rng: np.random.Generator, rows: int) -> "Side":
        groups = max(8, rows // int(rng.integers(1, 5)))
        group = np.concatenate([np.arange(groups), rng.integers(0, groups, rows - groups)])
        return cls(
            tokens=np.maximum(5, rng.lognormal(4, 0.8, rows)).astype(int),
            group=group,
            level=np.exp(rng.normal(math.log(2.0), 0.35, rows)),
            response=np.exp(rng.normal(-0.125, 0.5, rows)),
            row=np.zeros(rows),
            shared=np.zeros(groups),
        )

    def losses(self, rng: np.random.Generator, fallen: float, common: float) -> RowLosses:
        """After the common course has fallen by so many nats; wanders one step on."""
        self.row = 0.6 * self.row + rng.normal(0, NOISE["row"], len(self.row)) * self.level / 2
        self.shared = 0.6 * self.shared + rng.normal(0, NOISE["group"], len(self.shared))
        mean = self.level - fallen * self.response + self.row + self.shared[self.group] + common
        return RowLosses(np.maximum(mean, 0.01) * self.tokens, self.tokens)

    @property
    def names(self) -> list[str]:
        return [f"g{index}" for index in self.group]


def courses(rng: np.random.Generator, kind: str, validations: int) -> tuple[np.ndarray, np.ndarray]:
    """By how many nats validation and probe have fallen at each validation."""
    t = np.arange(validations + 1) / validations
    falls = rng.uniform(0.15, 0.5) * (1 - np.exp(-t / rng.uniform(0.08, 0.3)))
    if kind == "overfits":
        turn, rise = rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.5)
        return falls - rise * np.maximum(0, (t - turn) / (1 - turn)), falls + rng.uniform(0.2, 0.8) * t
    if kind == "levels off":
        return falls, falls + rng.uniform(0.0, 0.15) * t
    if kind == "still falls":
        return falls + rng.uniform(0.05, 0.2) * t, falls + rng.uniform(0.05, 0.3) * t
    return falls, falls + rng.uniform(0.15, 0.5) * t


def scripted_run(kind: str, seed: int) -> dict[str, Any]:
    """One made-up run: at which validation the alarm came, 0 if never."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    rows, validations = int(rng.choice(ROWS)), int(rng.choice(VALIDATIONS))
    sides = Side.made(rng, rows), Side.made(rng, rows)
    falls = courses(rng, kind, validations)
    points: list[Measured] = []
    watch = OverfitWatch({}, (sides[0].names, sides[1].names), patience=3, read=lambda step: points[step])
    alarm, stop, common = 0, 0, 0.0
    for number in range(validations + 1):
        common = 0.3 * common + (rng.normal(0, NOISE["common"]) if number else 0.0)
        points.append(
            Measured(*(side.losses(rng, float(fell[number]), common) for side, fell in zip(sides, falls, strict=True)))
        )
        found = watch.add(number, points[-1])
        alarm = alarm or (number if found.times >= ALARM_AFTER else 0)
        stop = stop or (number if found.stop else 0)
    best = int(np.argmin([point.val.mean for point in points]))
    return {"rows": rows, "validations": validations, "alarm": alarm, "stop": stop, "best": best}


def wilson(hits: int, number: int) -> list[float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, p = 1.96, hits / number
    middle, half = p + z * z / (2 * number), z * math.sqrt(p * (1 - p) / number + z * z / (4 * number**2))
    return [max(0.0, (middle - half) / (1 + z * z / number)), min(1.0, (middle + half) / (1 + z * z / number))]


def scripted(runs: int) -> dict[str, Any]:
    """Shares of runs with an alarm, for each kind."""
    results: dict[str, Any] = {"noise": NOISE, "runs_of_each_kind": runs, "kinds": {}}
    for kind in KINDS:
        made = [scripted_run(kind, seed) for seed in range(runs)]
        hits = sum(run["alarm"] > 0 for run in made)
        share = {"alarms": hits, "n": runs, "share": hits / runs, "interval": wilson(hits, runs)}
        delays = [run["alarm"] - run["best"] for run in made if run["alarm"]]
        share["validations_from_best_to_alarm"] = float(np.median(delays)) if delays else None
        by_rows = {rows: [run for run in made if run["rows"] == rows] for rows in ROWS}
        share["by_rows"] = {
            rows: sum(r["alarm"] > 0 for r in some) / len(some) for rows, some in by_rows.items() if some
        }
        results["kinds"][kind] = share
        print(f"{kind}: alarm in {hits} of {runs} ({100 * hits / runs:.1f} %)", flush=True)
    healthy = [results["kinds"][kind] for kind in KINDS[1:]]
    false = sum(one["alarms"] for one in healthy)
    results["recall"] = results["kinds"][KINDS[0]]["share"]
    results["false_alarms"] = {"share": false / (3 * runs), "interval": wilson(false, 3 * runs)}
    return results


def examples(data: Path, *, seed: int) -> Iterator[dict[str, Any]]:
    """Short instructions with short answers, in an order of the seed's."""
    rows = [row for row in json.loads(data.read_text(encoding="utf-8")) if 20 < len(row["output"]) < 300]
    rows = [row for row in rows if len(row["instruction"]) + len(row.get("input") or "") < 300]
    random.Random(seed).shuffle(rows)
    return iter(rows)


def tiny_model(model: str, folder: Path) -> str:
    """A random Llama of four narrow layers with the tokenizer and template of `model`, for a machine without time."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from luthier.core.files import read_json
    from luthier.models.store import resolve_model

    source = resolve_model(model)
    vocab = read_json(source / "config.json")["vocab_size"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in source.glob("*token*"):
        shutil.copy(file, folder / file.name)
    for name in ("chat_template.jinja", "vocab.json", "merges.txt"):
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    return str(folder)


@dataclass(frozen=True)
class Plan:
    """The size of a real run."""

    train_rows: int
    val_rows: int
    epochs: float
    rate: float


# (few rows many times, many rows once or twice); the tiny random model needs its head adapted to learn anything.
TINY_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"]
PLANS = {
    "model": (Plan(48, 60, 16.0, 1e-3), Plan(600, 60, 1.0, 5e-4)),
    "tiny": (Plan(30, 40, 24.0, 1e-2), Plan(400, 40, 2.0, 3e-3)),
}
VALIDATIONS_PLANNED = 12


def real_run(model: str, data: Path, *, seed: int, plan: Plan) -> dict[str, Any]:
    """One training as `luthier train` does it; what its events say."""
    from luthier.core.events import read_events
    from luthier.recipe import Recipe
    from luthier.stages.prepare import prepare
    from luthier.stages.run import train

    rows = examples(data, seed=seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, number in (("val", plan.val_rows), ("train", plan.train_rows)):
            lines = [json.dumps(next(rows)) for _ in range(number)]
            (folder / f"{file}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        recipe = Recipe(
            base_model=model, datasets=[str(folder / "train.jsonl")], val_datasets=[str(folder / "val.jsonl")],
            output_dir=str(folder / "run"), seed=seed, num_epochs=plan.epochs, batch_tokens=1024,
            micro_batch_tokens=1024,
            save_steps=1000, learning_rate=plan.rate, lr_scheduler="linear", num_samples=0, max_forgetting=None,
            replay_share=0.0, device="cpu", allow_leaks=True,
            lora_targets=TINY_TARGETS if plan in PLANS["tiny"] else "all",
        )  # fmt: skip
        prepared = prepare(recipe)
        prepared.close()
        every = max(1, prepared.settings.total_steps // VALIDATIONS_PLANNED)
        result = train(recipe.model_copy(update={"eval_steps": every}))
        events = list(read_events(result.run_dir))
        noise = wandering(result.run_dir)
    alarms = [event for event in events if event["event"] == "overfit"]
    course = [(e["step"], e["loss"], e.get("probe_loss")) for e in events if e["event"] == "validation"]
    return {
        "seed": seed, **asdict(plan), "status": result.status,
        "alarm_step": next((event["step"] for event in alarms if event["times"] >= ALARM_AFTER), None),
        "alarms": alarms, "course": course, "row_sd_between_validations": noise,
    }  # fmt: skip


def wandering(run_dir: Path) -> list[float]:
    """How much rows move against each other from one validation to the next: sd over rows, nats a token."""
    kept = [json.loads(path.read_text()) for path in sorted((run_dir / "validation").glob("step-*.json"))]
    means = [np.array(one["nll"]) / np.array(one["tokens"]) for one in kept]
    return [float(np.std(b - a)) for a, b in pairwise(means)]


def real(model: str, data: Path, seeds: int, *, tiny: bool) -> dict[str, Any]:
    """Runs of both kinds."""
    results: dict[str, Any] = {"model": f"random, with the tokens of {model}" if tiny else model, "data": data.name}
    results["runs"] = {}
    with tempfile.TemporaryDirectory() as name:
        path = tiny_model(model, Path(name)) if tiny else model
        for kind, plan in zip(("few rows many times", "many rows"), PLANS["tiny" if tiny else "model"], strict=True):
            results["runs"][kind] = []
            for seed in range(seeds):
                run = real_run(path, data, seed=seed, plan=plan)
                results["runs"][kind].append(run)
                losses = ", ".join(f"{step}: {loss:.2f}/{probe:.2f}" for step, loss, probe in run["course"])
                print(f"{kind}, seed {seed}: {run['status']}, alarm at {run['alarm_step']}; {losses}", flush=True)
    return results


def main() -> None:
    """Measure one part, and put it into the file of results beside the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["scripted", "real"])
    parser.add_argument("--runs", type=int, default=200, help="made-up runs of each kind")
    parser.add_argument("--data", type=Path, help="an Alpaca-style JSON file, such as Dolly")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a small random model instead, for `real`")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if given.part == "real":
        found = real(given.model, given.data, given.seeds, tiny=given.tiny)
    else:
        found = scripted(given.runs)
    old = json.loads(given.out.read_text()) if given.out.is_file() else {}
    stamp = {"made": datetime.now(UTC).isoformat(timespec="seconds")}
    given.out.write_text(
        json.dumps({**old, given.part + "_tiny" * given.tiny: stamp | found}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
