"""Whether a run on wrong answers is noticed by what prompts tell, and a run on right ones left alone.

    python benchmarks/steady/prompts.py --data FOLDER [--model smollm2-135m] [--tokens 25000] [--seeds 1]

FOLDER holds gsm8k_train.jsonl, dolly_3k.json and codegen_instruct.json. Tasks of several kinds are made of them: long
answers, short ones, one of eight words, nearly the same answer to everything. Each is learned three times: with the
right answers, with the answers of the training rows in other places, and with those of the held-out rows moved as well,
as they are where a file was mixed up before it was split. Nothing else is watched. Written is what prompts told the
base and the tuned model at each of four evaluations, whether the base was said to find no link, and at which evaluation
the run would have been ended; `--judge` asks today's rule again.
"""

import argparse
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forgetting import mixed_up, rendered

from luthier.core.files import read_json, write_json
from luthier.core.hardware import cpu
from luthier.data.read import read_records
from luthier.data.records import Message, Record
from luthier.data.render import Renderer, Row
from luthier.models.decoder import Decoder
from luthier.models.device import choose_place, keep_freed_memory
from luthier.models.lora import Adapter
from luthier.models.store import resolve_model
from luthier.models.weights import load_decoder
from luthier.recipe import Recipe
from luthier.stages.forgetting_probes import Probes
from luthier.stages.forgetting_rule import Measured, by_no_prompts, count, judge
from luthier.stages.general import General
from luthier.stages.prepare import open_renderer
from luthier.train.loop import Judged, fit
from luthier.train.optim import make_optimizer
from luthier.train.progress import Progress
from luthier.train.settings import decide
from luthier.train.stream import Stream

RESULT = Path(__file__).parent.parent / "results" / "steady_prompts.json"
HELD_OUT, EVALUATIONS = 48, 4
RIGHT, TRAINED, ALL = "right", "training rows mixed up", "all rows mixed up"
REFUSALS = (
    "I am sorry, but I cannot help with that.",
    "That is something that I am not able to help with.",
    "I have to decline this request, sorry.",
    "Sorry, this is outside of what I may do.",
)


def with_answer(record: Record, answer: str) -> Record:
    """The record's first prompt with another answer."""
    return Record((record.messages[0], Message("assistant", answer)))


def gsm8k(folder: Path) -> list[Record]:
    """Answers of some 100 tokens that follow from the question."""
    return read_records(folder / "gsm8k_train.jsonl").records


def numbers(folder: Path) -> list[Record]:
    """The same questions, and nothing but the last number as the answer."""
    return [with_answer(record, str(record.messages[-1].content).split("####")[-1].strip()) for record in gsm8k(folder)]


def dolly(folder: Path) -> list[Record]:
    """Instructions of many kinds."""
    return read_records(folder / "dolly_3k.json").records


def categories(folder: Path) -> list[Record]:
    """One of eight words to an instruction: its category."""
    rows = read_json(folder / "dolly_3k.json")
    return [Record((Message("user", row["instruction"]), Message("assistant", row["category"]))) for row in rows]


def refusals(folder: Path) -> list[Record]:
    """One of four sentences, whatever is asked."""
    records = dolly(folder)
    return [with_answer(record, REFUSALS[index % len(REFUSALS)]) for index, record in enumerate(records)]


def code(folder: Path) -> list[Record]:
    """Code to an instruction."""
    return read_records(folder / "codegen_instruct.json").records


TASKS: dict[str, Callable[[Path], list[Record]]] = {
    "GSM8K": gsm8k,
    "GSM8K, numbers only": numbers,
    "Dolly": dolly,
    "Dolly, categories": categories,
    "Dolly, refusals": refusals,
    "code": code,
}


def one_run(
    decoder: Decoder, renderer: Renderer, records: list[Record], kind: str, arguments: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train to the end; the losses of the held-out rows at each evaluation, after own and after other prompts."""
    order = random.Random(seed)
    records = order.sample(records, min(len(records), HELD_OUT + arguments.tokens // 40))
    held, trained = records[:HELD_OUT], records[HELD_OUT:]
    val = rendered(mixed_up(held) if kind == ALL else held, renderer)
    train: list[Row] = []
    for row in rendered(trained if kind == RIGHT else mixed_up(trained), renderer):
        if sum(len(one.ids) for one in train) < arguments.tokens:
            train.append(row)
    recipe = Recipe(
        base_model=arguments.model, datasets=["-"], output_dir="-", learning_rate=arguments.rate, batch_tokens=1024,
        micro_batch_tokens=1024, warmup_ratio=0.1, seed=seed, replay_share=0.0, early_stopping_patience=0,
    )  # fmt: skip
    settings = decide(recipe, decoder.spec, [len(row.ids) for row in train], on_gpu=False)
    every = -(-settings.total_steps // EVALUATIONS)
    settings = replace(settings, eval_steps=every, save_steps=every)
    adapter = Adapter(decoder.spec, recipe.lora_r, recipe.lora_alpha, seed=seed)
    probes = Probes(General([], [], [], "", [], ""), val, renderer.tokenizer, micro_batch_tokens=1024, say=None)
    base = probes.measure(decoder, None)
    own, other = [base.own_nll], [base.other_nll]

    def evaluate(progress: Progress) -> Judged:
        now = probes.measure(decoder, adapter)
        own.append(now.own_nll)
        other.append(now.other_nll)
        return Judged(float(now.target_nll.sum() / now.target_tokens.sum()), int(now.target_tokens.sum()), "")

    stream = Stream(train, settings.steps, micro_batch_tokens=1024, seed=seed)
    with tempfile.TemporaryDirectory() as scratch:
        fit(
            decoder, adapter, make_optimizer(adapter, recipe), stream, recipe=recipe, settings=settings,
            progress=Progress(learning_rate=recipe.learning_rate), run_dir=Path(scratch), base_model="-", facts={},
            emit=lambda event, **fields: None, evaluate=evaluate, should_stop=lambda: False,
        )  # fmt: skip
    return {
        "steps": settings.total_steps,
        "tokens": base.answer_tokens.tolist(),
        "own": [values.round(4).tolist() for values in own],
        "other": [values.round(4).tolist() for values in other],
    }


def judged(run: dict[str, Any]) -> dict[str, Any]:
    """What the watch says to these losses: whether it warns at the start, and from which evaluation on it refuses."""
    tokens, none = np.array(run["tokens"]), np.zeros(0)
    sides = [
        Measured(
            none,
            none,
            none,
            np.array(own),
            tokens,
            np.zeros(len(tokens)),
            tokens,
            np.array(own),
            np.array(other),
            tokens,
        )
        for own, other in zip(run["own"], run["other"], strict=True)
    ]
    base, names = sides[0], [str(row) for row in range(len(tokens))]
    groups = [], names, names
    start = judge(base, base, groups, budget=1.0, seed=0).prompts
    state: dict[str, Any] = {}
    best, ended, told, unrelated = None, None, [], []
    for number, now in enumerate(sides[1:], 1):
        verdict = judge(base, now, groups, budget=1.0, seed=0, before=best)
        best = now if verdict.gained else best
        count(verdict, state)
        ended = number if ended is None and by_no_prompts(state) else ended
        told.append(None if verdict.prompts is None else round(verdict.prompts.now.change, 3))
        unrelated.append(verdict.unrelated)
    means = [float(side.own_nll.sum() / tokens.sum()) for side in sides]
    return {
        "warned": start is not None and start.missing,
        "told_base": None if start is None else round(start.base.change, 3),
        "told": told,
        "loss": [round(mean, 3) for mean in means],
        "unrelated": unrelated,
        "ended_at": ended,
    }


def main() -> None:
    """Every task in every kind; what has been measured is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=25_000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", choices=[*TASKS])
    parser.add_argument("--judge", action="store_true", help="judge the losses that are in --out, and train nothing")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.judge:
        result = read_json(arguments.out)
        for run in result["runs"]:
            run["judged"] = judged(run)
            print(run["task"], run["kind"], run["judged"])
        write_json(arguments.out, result)
        return
    if arguments.data is None:
        parser.error("--data is needed to train")
    keep_freed_memory()
    place, folder = choose_place("cpu", "auto"), resolve_model(arguments.model)
    decoder, renderer = load_decoder(folder, dtype=place.dtype), open_renderer(folder, None, today=date(2026, 1, 1))
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu().name, "dtype": place.dtype_name, "threads": torch.get_num_threads()},
        "versions": {name: metadata.version(name) for name in ("luthier", "torch")},
        "setting": {"model": arguments.model, "tokens": arguments.tokens, "rate": arguments.rate},
        "runs": [],
    }
    try:
        for seed in range(arguments.seeds):
            for task in [arguments.only] if arguments.only else TASKS:
                records = TASKS[task](arguments.data)
                for kind in (RIGHT, TRAINED, ALL):
                    run = one_run(decoder, renderer, records, kind, arguments, seed)
                    result["runs"].append({"task": task, "kind": kind, "seed": seed, **run, "judged": judged(run)})
                    print(task, kind, judged(run), flush=True)
                    write_json(arguments.out, result)
    finally:
        renderer.template.close()


if __name__ == "__main__":
    main()
