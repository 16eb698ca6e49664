"""What a model forgets while it learns grade-school maths, with and without replay; and a run on shuffled answers.

    python benchmarks/steady/forgetting.py --data FOLDER [--model smollm2-135m] [--seeds 3] [--target-tokens 50000]

FOLDER holds gsm8k_train.jsonl, gsm8k_test.jsonl (question, answer) and dolly_3k.json (Alpaca columns). Every arm of a
seed has the same target rows in the same order, so the same target tokens; replay comes beside them.

`no replay`, `5 % replay`: broad, then specialised. A model that follows instructions already does not lose on Dolly
while it learns maths, it gains; so it learns Dolly first, and what it then loses of that is counted from there. Of
Dolly 64 records are held out and measured; the rest is learned first, and replayed. The watch measures, and does not
act.

`own texts, no replay`, `own texts, 5 % replay`: maths from the base, as in a run without general_datasets: the texts
that are measured and replayed the base has written. In the second the watch acts as it does by default.

`10 % replay` is the watch's next step, tried from the start.

`shuffled` is the own texts' arm with replay and with the answers of the training rows in other places; the held-out
rows are as they were. In `all shuffled` theirs are moved, too, as where a file was mixed up before it was split. What
counts is at which evaluation the watch acts and at which it ends the run.

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
from forgetting_show import draw, summary

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
from luthier.stages.general import General, prepare_general
from luthier.stages.general_data import divide
from luthier.stages.prepare import open_renderer
from luthier.train.loop import Judged, fit
from luthier.train.optim import make_optimizer
from luthier.train.progress import Progress
from luthier.train.settings import decide
from luthier.train.stream import Stream

RESULTS = Path(__file__).parent.parent / "results"
RESULT, DRAWING = RESULTS / "steady_forgetting.json", RESULTS / "steady_forgetting.svg"
DOLLY, OWN = "Dolly", "the base's own texts"
MOST_TOKENS = 256  # of a row
HELD_OUT, PROBE = 64, 64  # target rows, general rows
SMALL = 12  # a trial has so many rows in place of these, and one in so many of the questions
EVALUATIONS, WATCHED_EVALUATIONS = 2, 4
BROAD_TOKENS = 60_000


@dataclass(frozen=True)
class Arm:
    """One kind of run: which texts are general, the share of replay, whether the watch acts, and wrong answers."""

    general: str
    share: float
    acts: bool = False
    shuffled: bool = False
    val_shuffled: bool = False

    @property
    def broad(self) -> bool:
        """The general texts are learned first."""
        return self.general == DOLLY


ARMS = {
    "no replay": Arm(DOLLY, 0.0),
    "5 % replay": Arm(DOLLY, 0.05),
    "10 % replay": Arm(DOLLY, 0.1),
    "own texts, no replay": Arm(OWN, 0.0),
    "own texts, 5 % replay": Arm(OWN, 0.05, acts=True),
    "shuffled": Arm(OWN, 0.05, acts=True, shuffled=True),
    "all shuffled": Arm(OWN, 0.05, acts=True, shuffled=True, val_shuffled=True),
}


@dataclass(frozen=True)
class Setting:
    """What all runs have."""

    model: str
    rate: float
    target_tokens: int
    small: bool
    broad_tokens: int
    batch_tokens: int = 1024
    rank: int = 16


@dataclass(frozen=True)
class Data:
    """Rows of the target and of its held-out side."""

    train: list[Row]
    shuffled: list[Row]
    val: list[Row]
    val_shuffled: list[Row]


@dataclass(frozen=True)
class Known:
    """What is the same for many runs: of each kind of general texts the rows and the base's measurement on them."""

    decoder: Decoder
    renderer: Renderer
    setting: Setting
    general: dict[str, General]
    files: dict[str, bytes]
    broad: dict[int, torch.Tensor]


def main() -> None:
    """Read the arguments, run what is missing, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target-tokens", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--small", action="store_true", help="a trial of this script; its numbers say nothing")
    parser.add_argument("--only", choices=[*ARMS, "draw"])
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    broad = SMALL * 500 if arguments.small else BROAD_TOKENS
    setting = Setting(arguments.model, arguments.rate, arguments.target_tokens, arguments.small, broad)
    found = read_json(arguments.out) if arguments.out.exists() else {"setting": asdict(setting), "runs": []}
    if found["setting"] != asdict(setting):
        raise SystemExit(f"{arguments.out} was made with {found['setting']}: name another --out, or delete it")
    if arguments.only != "draw":
        wanted = [(seed, arm) for seed in range(arguments.seeds) for arm in ARMS]
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
        general = {
            DOLLY: read_general_rows(folder / "dolly_3k.json", renderer, small=setting.small),
            OWN: own_rows(decoder, renderer, setting),
        }
        known = Known(decoder, renderer, setting, general, {}, {})
        for seed, name in wanted:
            began = datetime.now(UTC)
            data = read_data(folder, renderer, setting, seed)
            with tempfile.TemporaryDirectory() as scratch:
                run = one_run(known, data, seed, name, Path(scratch))
            seconds = (datetime.now(UTC) - began).total_seconds()
            found["runs"].append({"seed": seed, "arm": name, **run, "seconds": round(seconds, 1)})
            write_json(out, found)
    finally:
        if renderer.template is not None:
            renderer.template.close()


def own_rows(decoder: Decoder, renderer: Renderer, setting: Setting) -> General:
    """What the base writes, as a run without general_datasets has it."""
    recipe = Recipe(base_model=setting.model, datasets=["-"], output_dir="-")
    with tempfile.TemporaryDirectory() as scratch:
        made = prepare_general(
            recipe, run_dir=Path(scratch), decoder=decoder, renderer=renderer, base_hash=f"benchmark {setting.model}"
        )
    return replace(made, choices=made.choices[:: SMALL if setting.small else 1])


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
    held = random.Random(0).sample(val, SMALL if setting.small else HELD_OUT)
    return Data(rows[:number], *(rendered(some, renderer) for some in (mixed_up(chosen), held, mixed_up(held))))


def mixed_up(records: list[Record]) -> list[Record]:
    """Each answer behind the question of another record; they are in random order."""
    answers = [record.messages[-1] for record in records]
    moved = answers[1:] + answers[:1]
    return [Record((*record.messages[:-1], answer)) for record, answer in zip(records, moved, strict=True)]


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


def recipe_of(setting: Setting, arm: Arm, seed: int, scratch: Path) -> Recipe:
    """The settings of a run."""
    return Recipe(
        base_model=setting.model, datasets=["-"], output_dir=str(scratch), lora_r=setting.rank,
        lora_alpha=2 * setting.rank, learning_rate=setting.rate, batch_tokens=setting.batch_tokens,
        micro_batch_tokens=setting.batch_tokens, warmup_ratio=0.1, seed=seed, replay_share=arm.share,
        early_stopping_patience=0, keep_checkpoints=1,
    )  # fmt: skip


def broad_weights(known: Known, seed: int, scratch: Path) -> torch.Tensor:
    """(P,) weights of an adapter that has learned the general texts that are not measured."""
    if seed not in known.broad:
        setting, rows, tokens = known.setting, list(known.general[DOLLY].replay_rows), 0
        random.Random(seed).shuffle(rows)
        ends = np.cumsum([len(row.ids) for row in rows])
        rows = rows[: int(np.searchsorted(ends, setting.broad_tokens)) + 1]
        tokens = sum(len(row.ids) for row in rows)
        recipe = recipe_of(setting, Arm(DOLLY, 0.0), seed, scratch)
        settings = decide(recipe, known.decoder.spec, [len(row.ids) for row in rows], on_gpu=False)
        settings = replace(settings, eval_steps=settings.total_steps, save_steps=settings.total_steps)
        adapter = Adapter(known.decoder.spec, setting.rank, 2 * setting.rank, seed=seed)
        stream = Stream(rows, settings.steps, micro_batch_tokens=setting.batch_tokens, seed=seed)
        folder = scratch / "broad"
        folder.mkdir()
        status = fit(
            known.decoder, adapter, make_optimizer(adapter, recipe), stream, recipe=recipe, settings=settings,
            progress=Progress(learning_rate=setting.rate), run_dir=folder, base_model=setting.model, facts={},
            emit=lambda event, **fields: None, evaluate=None, should_stop=lambda: False,
        )  # fmt: skip
        print(f"seed {seed}: {len(rows)} general rows learned, {tokens} tokens: {status}", flush=True)
        known.broad[seed] = adapter.flat.detach().clone()
    return known.broad[seed]


def one_run(known: Known, data: Data, seed: int, name: str, scratch: Path) -> dict[str, Any]:
    """Train one arm; returns what was measured at each evaluation."""
    arm, setting, decoder, general = ARMS[name], known.setting, known.decoder, known.general[ARMS[name].general]
    rows = data.shuffled if arm.shuffled else data.train
    val = data.val_shuffled if arm.val_shuffled else data.val
    recipe = recipe_of(setting, arm, seed, scratch)
    settings = decide(recipe, decoder.spec, [len(row.ids) for row in rows], on_gpu=False)
    every = -(-settings.total_steps // (WATCHED_EVALUATIONS if arm.acts else EVALUATIONS))
    settings = replace(settings, eval_steps=every, save_steps=every)
    adapter = Adapter(decoder.spec, setting.rank, 2 * setting.rank, seed=seed)
    watch = ForgettingWatch(
        recipe, general, val, known.renderer.tokenizer, run_dir=scratch, micro_batch_tokens=setting.batch_tokens
    )
    file = scratch / "general" / "base.json"
    file.parent.mkdir()
    kind = f"{arm.general}, {arm.val_shuffled}"
    if kind in known.files:
        file.write_bytes(known.files[kind])
    watch.before(decoder)
    known.files[kind] = file.read_bytes()
    start, began = watch.base, losses(decoder, val, None, setting)
    if arm.broad:
        learned = broad_weights(known, seed, scratch)
        with torch.no_grad():
            adapter.flat.copy_(learned)
        start, began = watch.measure(decoder, adapter), losses(decoder, val, adapter, setting)
    progress = Progress(replay_share=arm.share, learning_rate=setting.rate)
    points: list[dict[str, Any]] = []
    actions: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    groups = [row.group for row in val], [row.group for row in general.probe_rows]

    def evaluate(progress: Progress) -> Judged:
        now = losses(decoder, val, adapter, setting)
        target = paired_change(began.nll, now.nll, began.tokens, groups[0], seed=0)
        stop = ""
        if arm.acts:
            events, stop = watch.at(progress, decoder, adapter, last=progress.step >= settings.total_steps)
            actions.extend(
                {k: e[k] for k in ("step", "what", "value", "text")} for e in events if e["event"] == "action"
            )
            measured = watch.known(progress.step)
            assert measured is not None
        else:
            measured = watch.measure(decoder, adapter)
        change = paired_change(start.nll, measured.nll, start.tokens, groups[1], seed=0)
        judged = watch.judged(measured)
        assert judged.kl is not None and judged.right is not None and judged.prompts is not None
        points.append(
            {
                "step": progress.step,
                "target_start": began.mean,
                "target_loss": now.mean,
                "target_change": target.change,
                "target_interval": target.interval,
                "general_base": watch.base.loss,
                "general_start": start.loss,
                "general_loss": measured.loss,
                "general_change": change.change,
                "general_interval": change.interval,
                "questions": len(measured.right),
                "right_base": int(watch.base.right.sum()),
                "right": int(measured.right.sum()),
                "right_interval": judged.right.interval,
                "kl_from_base": judged.kl.change,
                "prompts_base": judged.prompts.base.change,
                "prompts_now": judged.prompts.now.change,
                "verdict": judged.verdict,
            }
        )
        print(f"seed {seed}, {name}, step {progress.step}: {points[-1]}", flush=True)
        return Judged(now.mean, int(now.tokens.sum()), stop)

    def emit(event: str, **fields: Any) -> None:
        if event == "step":
            steps.append(fields)

    stream = Stream(rows, settings.steps, general.replay_rows, micro_batch_tokens=setting.batch_tokens, seed=seed)
    status = fit(
        decoder, adapter, make_optimizer(adapter, recipe), stream, recipe=recipe, settings=settings, progress=progress,
        run_dir=scratch, base_model=setting.model, facts={}, emit=emit, evaluate=evaluate, should_stop=lambda: False,
    )  # fmt: skip
    return {
        "general": arm.general,
        "acts": arm.acts,
        "general_rows": len(general.probe_rows),
        "target_rows": len(val),
        "budget": watch.budget,
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


if __name__ == "__main__":
    main()
