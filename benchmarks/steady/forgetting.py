"""What a model forgets while it learns grade-school maths, with and without replay; and a run on shuffled answers.

    python benchmarks/steady/forgetting.py --data FOLDER [--model smollm2-135m] [--seeds 3] [--target-tokens 50000]

FOLDER holds gsm8k_train.jsonl, gsm8k_test.jsonl (question, answer) and dolly_3k.json (Alpaca columns). A third of the
general records, 64 at most, is held out and measured; the rest is replayed. Every arm of a seed has the same target
rows in the same order, so the same target tokens; replay comes beside them. The watch measures, and does not act.

`shuffled` is another thing: the answers of the training rows change places, and the watch acts as it does by default.
The held-out rows are as they were. It counts at which evaluation it acts and at which it ends the run. For scale,
`honest` is the same run on the answers in their places.

Each finished (seed, arm) is kept in the result, and a run that was broken off goes on behind it. `--only draw` makes
the table and the drawing anew.
"""

import argparse
import json
import random
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier.core.files import read_json, write_json
from luthier.core.hardware import cpu
from luthier.data.read import read_records
from luthier.data.records import Message, Record
from luthier.data.render import Renderer, Row
from luthier.evaluate.choices import load_items
from luthier.evaluate.interval import paired_change
from luthier.evaluate.losses import RowLosses, row_losses
from luthier.models.decoder import Decoder
from luthier.models.device import choose_place, keep_freed_memory
from luthier.models.lora import Adapter
from luthier.models.store import resolve_model
from luthier.models.weights import load_decoder
from luthier.recipe import Recipe
from luthier.stages.forgetting import ForgettingWatch
from luthier.stages.general import General
from luthier.stages.general_data import divide
from luthier.stages.prepare import open_renderer
from luthier.train.loop import Judged, fit
from luthier.train.optim import make_optimizer
from luthier.train.progress import Progress
from luthier.train.settings import decide
from luthier.train.stream import Stream

RESULTS = Path(__file__).parent.parent / "results"
RESULT, DRAWING = RESULTS / "steady_forgetting.json", RESULTS / "steady_forgetting.svg"
ARMS = {"no replay": 0.0, "5 % replay": 0.05}
WATCHED = {"honest": False, "shuffled": True}  # arms in which the watch acts; whether answers change places
MOST_TOKENS = 256  # of a row
HELD_OUT, PROBE = 64, 64  # target rows, general rows
SMALL = 12  # a trial has so many rows in place of these, and one in so many of the questions
EVALUATIONS, WATCHED_EVALUATIONS = 2, 4


@dataclass(frozen=True)
class Setting:
    """What all runs have."""

    model: str
    rate: float
    target_tokens: int
    small: bool
    batch_tokens: int = 1024
    rank: int = 16


@dataclass(frozen=True)
class Data:
    """Rows of the target, of its held-out side, and general ones."""

    train: list[Row]
    shuffled: list[Row]
    val: list[Row]
    general: General


def main() -> None:
    """Read the arguments, run what is missing, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target-tokens", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--small", action="store_true", help="a trial of this script; its numbers say nothing")
    parser.add_argument("--only", choices=[*ARMS, *WATCHED, "draw"])
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    setting = Setting(arguments.model, arguments.rate, arguments.target_tokens, arguments.small)
    found = read_json(arguments.out) if arguments.out.exists() else {"setting": asdict(setting), "runs": []}
    if found["setting"] != asdict(setting):
        raise SystemExit(f"{arguments.out} was made with {found['setting']}: name another --out, or delete it")
    if arguments.only != "draw":
        wanted = [(seed, arm) for seed in range(arguments.seeds) for arm in (*ARMS, *WATCHED)]
        have = {(run["seed"], run["arm"]) for run in found["runs"]}
        wanted = [(seed, arm) for seed, arm in wanted if (seed, arm) not in have and arguments.only in (None, arm)]
        run_all(wanted, setting, arguments.data, found, arguments.out)
    found["summary"] = summary(found["runs"])
    write_json(arguments.out, found)
    drawing = arguments.out.with_suffix(".svg")
    drawing.write_text(draw(found["runs"]), encoding="utf-8")
    print(json.dumps(found["summary"], indent=2, ensure_ascii=False))


def run_all(wanted: list[tuple[int, str]], setting: Setting, folder: Path, found: dict[str, Any], out: Path) -> None:
    """The runs that are missing, each written when it is done."""
    keep_freed_memory()
    place, model_dir = choose_place("cpu", "auto"), resolve_model(setting.model)
    decoder = load_decoder(model_dir, dtype=place.dtype)
    renderer = open_renderer(model_dir, None, today=date(2026, 1, 1))
    found["machine"] = {"cpu": cpu().name, "dtype": place.dtype_name, "threads": torch.get_num_threads()}
    found["versions"] = {name: metadata.version(name) for name in ("luthier", "torch")}
    try:
        base: dict[str, Any] = {}  # what was measured of it, the same for all
        for seed, arm in wanted:
            began = datetime.now(UTC)
            data = read_data(folder, renderer, setting, seed)
            with tempfile.TemporaryDirectory() as scratch:
                run = one_run(base, decoder, renderer, data, setting, seed, arm, Path(scratch))
            seconds = (datetime.now(UTC) - began).total_seconds()
            found["runs"].append({"seed": seed, "arm": arm, **run, "seconds": round(seconds, 1)})
            write_json(out, found)
    finally:
        if renderer.template is not None:
            renderer.template.close()


def read_data(folder: Path, renderer: Renderer, setting: Setting, seed: int) -> Data:
    """As many target rows as make the tokens that are asked for, other ones with each seed."""
    draw = random.Random(seed)
    train, val = (read_records(folder / f"gsm8k_{name}.jsonl").records for name in ("train", "test"))
    draw.shuffle(train)
    rows = rendered(train[: setting.target_tokens // 50 + 8], renderer)
    ends = np.cumsum([len(row.ids) for row in rows])
    number = int(np.searchsorted(ends, setting.target_tokens)) + 1
    own = {row.record_id for row in rows[:number]}
    chosen = [record for record in train if record.id in own]
    answers = [record.messages[-1] for record in chosen]
    moved = answers[1:] + answers[:1]  # of a list in random order, so each answer comes to a foreign question
    mixed = [Record((*record.messages[:-1], answer)) for record, answer in zip(chosen, moved, strict=True)]
    return Data(
        train=rows[:number],
        shuffled=rendered(mixed, renderer),
        val=rendered(random.Random(0).sample(val, SMALL if setting.small else HELD_OUT), renderer),
        general=read_general_rows(folder / "dolly_3k.json", renderer, small=setting.small),
    )


def read_general_rows(file: Path, renderer: Renderer, *, small: bool) -> General:
    """General rows, divided as a run divides the user's."""
    probe, replay, _ = divide(read_records(file).records)
    held, replayed = rendered(probe, renderer)[: SMALL if small else PROBE], rendered(replay[:800], renderer)
    return General(held, replayed, load_items()[:: SMALL if small else 1], "Dolly", [], "")


def rendered(records: list[Record], renderer: Renderer) -> list[Row]:
    """Rows of at most MOST_TOKENS; longer ones are left out."""
    assert all(isinstance(turn, Message) for record in records for turn in record.messages)
    made = [row for result in renderer.render_many(records) if isinstance(result, list) for row in result]
    return [row for row in made if len(row.ids) <= MOST_TOKENS]


def one_run(
    known: dict[str, Any],
    decoder: Decoder,
    renderer: Renderer,
    data: Data,
    setting: Setting,
    seed: int,
    arm: str,
    scratch: Path,
) -> dict[str, Any]:
    """Train one arm; returns what was measured at each evaluation. `known` keeps what was measured of the base."""
    acting = arm in WATCHED
    share = 0.05 if acting else ARMS[arm]
    rows = data.shuffled if WATCHED.get(arm) else data.train
    recipe = Recipe(
        base_model=setting.model, datasets=["-"], output_dir=str(scratch), lora_r=setting.rank,
        lora_alpha=2 * setting.rank, learning_rate=setting.rate, batch_tokens=setting.batch_tokens,
        micro_batch_tokens=setting.batch_tokens, warmup_ratio=0.1, seed=seed, replay_share=share,
        early_stopping_patience=0, keep_checkpoints=1,
    )  # fmt: skip
    settings = decide(recipe, decoder.spec, [len(row.ids) for row in rows], on_gpu=False)
    every = -(-settings.total_steps // (WATCHED_EVALUATIONS if acting else EVALUATIONS))
    settings = replace(settings, eval_steps=every, save_steps=every)
    adapter = Adapter(decoder.spec, setting.rank, 2 * setting.rank, seed=seed)
    watch = ForgettingWatch(
        recipe, data.general, data.val, renderer.tokenizer, run_dir=scratch, micro_batch_tokens=setting.batch_tokens
    )
    file = scratch / "general" / "base.json"
    file.parent.mkdir()
    if known:
        file.write_bytes(known["file"])
    watch.before(decoder)
    if not known:
        known |= {"file": file.read_bytes(), "losses": losses(decoder, data.val, None, setting)}
    base = known["losses"]
    progress = Progress(replay_share=share, learning_rate=setting.rate)
    points: list[dict[str, Any]] = []
    actions: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []

    def evaluate(progress: Progress) -> Judged:
        now = losses(decoder, data.val, adapter, setting)
        target = paired_change(base.nll, now.nll, base.tokens, [row.group for row in data.val], seed=0)
        stop = ""
        if acting:
            events, stop = watch.at(progress, decoder, adapter)
            actions.extend(
                {k: e[k] for k in ("step", "what", "value", "text")} for e in events if e["event"] == "action"
            )
            told = next(event for event in events if event["event"] == "forgetting")
        else:
            measured = watch.measure(decoder, adapter)
            judged = watch.judged(measured)
            told = {
                "base_loss": watch.base.loss, "loss": measured.loss, "change": judged.loss.change,
                "interval": judged.loss.interval, "choices_base": int(watch.base.right.sum()),
                "choices_now": int(measured.right.sum()), "kl": judged.kl.change, "verdict": judged.verdict,
            }  # fmt: skip
        names = ("base_loss", "loss", "change", "interval", "choices_base", "choices_now", "kl", "verdict")
        general = {f"general_{name}": told[name] for name in names}
        points.append(
            {
                "step": progress.step,
                "target_base": base.mean,
                "target_loss": now.mean,
                "target_change": target.change,
                "target_interval": target.interval,
                **general,
            }
        )
        print(f"seed {seed}, {arm}, step {progress.step}: {points[-1]}", flush=True)
        return Judged(now.mean, int(now.tokens.sum()), stop)

    def emit(event: str, **fields: Any) -> None:
        if event == "step":
            steps.append(fields)

    stream = Stream(rows, settings.steps, data.general.replay_rows, micro_batch_tokens=setting.batch_tokens, seed=seed)
    status = fit(
        decoder, adapter, make_optimizer(adapter, recipe), stream, recipe=recipe, settings=settings, progress=progress,
        run_dir=scratch, base_model=setting.model, facts={}, emit=emit, evaluate=evaluate, should_stop=lambda: False,
    )  # fmt: skip
    return {
        "status": status,
        "steps": progress.step,
        "of_steps": settings.total_steps,
        "target_tokens": sum(len(row.ids) for row in rows),
        "replay_tokens": sum(step.get("replay_tokens") or 0 for step in steps),
        "label_tokens": sum(step["label_tokens"] for step in steps),
        "points": points,
        "actions": actions,
    }


def losses(decoder: Decoder, rows: list[Row], adapter: Adapter | None, setting: Setting) -> RowLosses:
    """Losses of rows."""
    return row_losses(decoder, rows, adapter=adapter, micro_batch_tokens=setting.batch_tokens)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What replay keeps and costs, seed by seed and in the mean, and what became of the watched runs."""
    pairs = []
    for seed in sorted({run["seed"] for run in runs}):
        arms = {run["arm"]: run["points"][-1] for run in runs if run["seed"] == seed}
        if ARMS.keys() <= arms.keys():
            without, with_replay = (arms[arm] for arm in ARMS)
            pairs.append(
                {
                    "seed": seed,
                    "general_rise_without": without["general_change"],
                    "general_rise_with": with_replay["general_change"],
                    "share_kept": 1 - with_replay["general_change"] / without["general_change"],
                    "target_without": without["target_loss"],
                    "target_with": with_replay["target_loss"],
                    "target_cost": with_replay["target_loss"] / without["target_loss"] - 1,
                }
            )
    watched = [
        {
            "seed": run["seed"], "arm": run["arm"], "status": run["status"], "evaluations": len(run["points"]),
            "first_action_at_evaluation": next(
                (n for n, point in enumerate(run["points"], 1) if run["actions"] and point["step"] ==
                 run["actions"][0]["step"]), None),
            "actions": [action["what"] for action in run["actions"]],
        }
        for run in runs if run["arm"] in WATCHED
    ]  # fmt: skip
    mean = {key: float(np.mean([pair[key] for pair in pairs])) for key in pairs[0] if key != "seed"} if pairs else {}
    if pairs:
        rises = [sum(pair[f"general_rise_{arm}"] for pair in pairs) for arm in ("without", "with")]
        mean["share_kept"] = 1 - rises[1] / rises[0]  # of the summed rises: a ratio of means, not a mean of ratios
        mean["goal_met"] = mean["share_kept"] >= 0.5 and mean["target_cost"] <= 0.05
    return {"replay": pairs, "mean": mean, "watched": watched}


def draw(runs: list[dict[str, Any]]) -> str:
    """General loss over target loss, a line from the base for each run: down is learned, right is forgotten."""
    width, height, left, bottom, top = 720, 440, 64, 52, 28
    colours = {"no replay": "#c0392b", "5 % replay": "#2471a3", "shuffled": "#7d3c98", "honest": "#7f8c8d"}
    lines = {
        (run["seed"], run["arm"]): [(0.0, run["points"][0]["target_base"])]
        + [(point["general_change"], point["target_loss"]) for point in run["points"]]
        for run in runs if run["points"]
    }  # fmt: skip
    xs, ys = zip(*[point for line in lines.values() for point in line], strict=True) if lines else ((0, 1), (0, 1))
    low_x, high_x, low_y, high_y = min(xs) - 0.01, max(*xs, 0.1) * 1.05, min(ys) * 0.97, max(ys) * 1.03

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (x - low_x) / (high_x - low_x) * (width - left - 16)
        return across, top + (high_y - y) / (high_y - low_y) * (height - bottom - top)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for tick in np.linspace(low_x, high_x, 6):
        x, _ = place(float(tick), low_y)
        out.append(f'<text x="{x:.0f}" y="{height - bottom + 18}" text-anchor="middle">{tick:+.2f}</text>')
    for tick in np.linspace(low_y, high_y, 6):
        _, y = place(low_x, float(tick))
        out.append(f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{tick:.2f}</text>')
        out.append(f'<path d="M{left} {y:.1f}H{width - 16}" stroke="#eee"/>')
    budget, _ = place(0.08, low_y)
    out.append(f'<path d="M{budget:.1f} {top}V{height - bottom}" stroke="#999" stroke-dasharray="4 3"/>')
    out.append(f'<text x="{budget + 4:.0f}" y="{top + 12}" fill="#666">max_forgetting 0.08</text>')
    for (_, arm), line in lines.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        dash = ' stroke-dasharray="5 3"' if arm in WATCHED else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colours[arm]}" stroke-width="1.5"{dash}/>')
        out += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colours[arm]}"/>' for x, y in (place(*p) for p in line)
        ]
    for number, (arm, colour) in enumerate(colours.items()):
        out.append(f'<text x="{width - 140}" y="{top + 14 + 16 * number}" fill="{colour}">{arm}</text>')
    name, middle = "rise of the general loss, nats a token", f"{width / 2:.0f}"
    out.append(f'<text x="{middle}" y="{height - 10}" text-anchor="middle">{name}</text>')
    out.append(f'<text x="{left}" y="16">loss on held-out maths, nats a token</text></svg>')
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
