"""Answers of Luthier and of transformers' `generate`: same prompts, same number of tokens, greedy, interleaved.

    python benchmarks/generate.py [--peer-python .venv-bench/bin/python] [--rounds 3] [--new-tokens 64] [--device auto]

Prompts are fixed random tokens of 64 to 128, answered 1, 4 and 16 at a time, and nothing ends an answer early. Each
contender runs in a process of its own, in turn, `rounds` times; in each it answers every batch once unmeasured and
once measured, and the first token alone before. Written to benchmarks/results: tokens/s of whole answers and seconds
to the first token (medians), peak memory of the process, and how far the answers agree with those of transformers over
the same bits (random prompts make near ties, which bf16 decides one way or the other).

    luthier                 bf16
    luthier-nf4             4 bits, as in `luthier chat` and in the samples of a run
    luthier-nf4-unpacked    4 bits, unpacked once, as in `luthier chat` on a CPU where nothing can be compiled
    transformers            bf16
    transformers-nf4        4 bits of bitsandbytes, where that is installed
"""

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import fmean, median
from typing import Any

HERE = Path(__file__).parent
CONTENDERS = ("luthier", "luthier-nf4", "luthier-nf4-unpacked", "transformers", "transformers-nf4")
SHORTEST, LONGEST = 64, 128


def make_prompts(number: int, vocab_size: int) -> list[list[int]]:
    """Random tokens, no special ones among them in the usual tokenizers, of lengths evenly spread and then shuffled."""
    random_ = random.Random(0)
    lengths = [SHORTEST + (LONGEST - SHORTEST) * i // max(1, number - 1) for i in range(number)]
    random_.shuffle(lengths)
    return [[random_.randrange(1000, vocab_size - 1000) for _ in range(length)] for length in lengths]


def run(python: str, contender: str, plan: Path) -> dict[str, Any]:
    """One run of a contender in its own process."""
    command = [python, str(HERE / "generate_worker.py"), contender, str(plan)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{contender} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """The share of each answer that is the same up to the first difference, on average."""
    shares = []
    for one, other in zip(ours, theirs, strict=True):
        same = next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))
        shares.append(same / len(one))
    return fmean(shares)


def summarise(runs: dict[str, list[dict[str, Any]]], batches: list[int], new_tokens: int) -> dict[str, Any]:
    """Of each contender and batch: medians over the rounds."""
    summary: dict[str, Any] = {}
    for name, made in runs.items():
        if missing := made[0].get("missing"):
            summary[name] = {"not_measured": missing}
            continue
        summary[name] = {"peak_rss_bytes": max(one["peak_rss_bytes"] for one in made), "versions": made[0]["versions"]}
        for batch in batches:
            parts = [one["batches"][str(batch)] for one in made]
            part = {
                "tokens_per_second": round(median(batch * new_tokens / one["seconds"] for one in parts), 1),
                "seconds_to_first_token": round(median(one["first_token_seconds"] for one in parts), 4),
            }
            peer = runs.get("transformers-nf4" if "nf4" in name else "transformers", [{"missing": "not run"}])[0]
            if not name.startswith("transformers") and "missing" not in peer:
                other = peer["batches"][str(batch)]["answers"]
                part["agrees_with_transformers"] = round(agreement(parts[0]["answers"], other), 3)
            summary[name][f"batch_{batch}"] = part
    return summary


def main() -> None:
    """Parse, run in turn, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="Python of the environment with transformers")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=CONTENDERS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "generate.json")
    arguments = parser.parse_args()

    from luthier.core.hardware import cpu
    from luthier.models.device import choose_place
    from luthier.models.spec import read_spec
    from luthier.models.store import resolve_model

    folder, place = resolve_model(arguments.model), choose_place(arguments.device, "bf16")
    prompts = make_prompts(max(arguments.batches), read_spec(folder).vocab_size)
    plan = {
        "model": str(folder),
        "device": place.device.type,
        "prompts": prompts,
        "batches": arguments.batches,
        "new_tokens": arguments.new_tokens,
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.only}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "plan.json"
        file.write_text(json.dumps(plan))
        for number in range(arguments.rounds):
            for name in runs:
                python = arguments.peer_python if name.startswith("transformers") else sys.executable
                made = run(python, name, file)
                runs[name].append(made)
                speeds = [
                    f"{batch}: {batch * arguments.new_tokens / made['batches'][str(batch)]['seconds']:.1f}"
                    for batch in (() if "missing" in made else arguments.batches)
                ]
                said = made.get("missing") or "tokens/s of a batch of " + ", ".join(speeds)
                print(f"round {number + 1}  {name:20} {said}", flush=True)

    facts, summary = cpu(), summarise(runs, arguments.batches, arguments.new_tokens)
    for made in runs.values():
        for one in made:
            for part in one.get("batches", {}).values():
                part.pop("answers")
    result = {
        "benchmark": "generate",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": facts.name,
            "cores": facts.cores,
            "system": platform.platform(),
            "computed_on": place.why,
        },
        "setting": {
            "model": arguments.model,
            "device": place.device.type,
            "prompt_tokens": [SHORTEST, LONGEST],
            "new_tokens": arguments.new_tokens,
            "batches": arguments.batches,
            "rounds": arguments.rounds,
            "luthier": metadata.version("luthier"),
        },
        "summary": summary,
        "runs": runs,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
