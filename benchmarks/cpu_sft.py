"""Luthier against TRL and a bare PEFT loop on a CPU: same rows, same LoRA, same trained tokens, interleaved.

    make benchmark                                  makes the extra environment and runs this
    python benchmarks/cpu_sft.py --peer-python .venv-bench/bin/python [--rounds 2] [--steps 10]

Rows are rendered once and handed to all as token ids and masks, so they differ in nothing but the training itself:
SmolLM2-135M in bf16, rank 16 on every linear, AdamW, eight rows of at most 512 tokens a step. Luthier runs three times:
with the base in bf16, in 4 bits (NF4), and in bf16 where no compiler is found for its row operations. Each contender
runs in a process of its own, in turn, `rounds` times. Written to benchmarks/results: tokens/s without padding (the
median step and the first), peak memory of the process, and the loss of every step.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
ROWS_A_STEP, MAX_TOKENS, RANK, ALPHA, RATE = 8, 512, 16, 32, 2e-4
WITHOUT_C = "-without-c"


def make_rows(model: str, data: Path, number: int, out: Path, *, max_tokens: int = MAX_TOKENS) -> None:
    """Render `number` rows of `data` spread over the file, at most `max_tokens` long, and write ids and masks."""
    from collections import Counter

    from luthier.data.read import read_records
    from luthier.data.rows import build_rows
    from luthier.models.store import resolve_model
    from luthier.stages.prepare import open_renderer

    folder = resolve_model(model)
    renderer = open_renderer(folder, None, today=date.today())
    records = read_records(data).records
    rows = build_rows(records, renderer, sequence_len=max_tokens, too_long="drop", counts=Counter())
    picked = rows[:: max(1, len(rows) // number)][:number]
    assert len(picked) == number, f"{data} has only {len(rows)} rows"
    values = [{"ids": row.ids.tolist(), "mask": row.mask.tolist()} for row in picked]
    out.write_text(json.dumps({"model": str(folder), "rows": values}))
    renderer.template.close()


def run(python: str, contender: str, rows: Path, steps: int) -> dict[str, Any]:
    """One run of a contender in its own process."""
    name = contender.removesuffix(WITHOUT_C)
    command = [python, str(HERE / "cpu_sft_worker.py"), name, str(rows), str(steps)]
    # Programs are looked for beside the rows, where there are none, so no compiler is found.
    environment = {**os.environ, "PATH": str(rows.parent)} if name != contender else None
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        sys.exit(f"{contender} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Parse, run in turn, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer-python", help="Python of the environment with trl and peft; without it Luthier runs alone"
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, default=Path("data/python-stdlib.jsonl"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "cpu_sft.json")
    arguments = parser.parse_args()

    from luthier.core.hardware import cpu
    from luthier.models.measure import matmul_flops, memory_bandwidth

    import torch  # isort: skip

    contenders = dict.fromkeys(("luthier", "luthier-nf4", f"luthier{WITHOUT_C}"), sys.executable)
    if arguments.peer_python:
        contenders |= {"trl": arguments.peer_python, "peft": arguments.peer_python}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        make_rows(arguments.model, arguments.data, ROWS_A_STEP * arguments.steps, rows)
        for number in range(arguments.rounds):
            for name, python in contenders.items():
                made = run(python, name, rows, arguments.steps)
                runs[name].append(made)
                speeds = [tokens / seconds for tokens, seconds in zip(made["tokens"], made["seconds"], strict=True)]
                print(
                    f"round {number + 1}  {name:17} median {median(speeds):6.0f} tokens/s, "
                    f"first step {speeds[0]:6.0f}, peak {made['peak_rss_bytes'] / 1e9:.2f} GB, "
                    f"loss {made['losses'][0]:.3f} -> {made['losses'][-1]:.3f}",
                    flush=True,
                )

    facts = cpu()
    summary = {}
    for name, made in runs.items():
        speeds = [t / s for one in made for t, s in zip(one["tokens"], one["seconds"], strict=True)]
        summary[name] = {
            "tokens_per_second_median": round(median(speeds), 1),
            "tokens_per_second_first_step": [round(one["tokens"][0] / one["seconds"][0], 1) for one in made],
            "peak_rss_bytes": max(one["peak_rss_bytes"] for one in made),
            "label_tokens": sum(made[0]["label_tokens"]),
            "versions": made[0]["versions"],
        }
    for name in summary.keys() - {"luthier"}:
        ratio = summary["luthier"]["tokens_per_second_median"] / summary[name]["tokens_per_second_median"]
        summary[name]["luthier_is_faster_by"] = round(ratio, 2)
        print(f"luthier is {ratio:.1f} times as fast as {name}")
    result = {
        "benchmark": "cpu_sft",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": facts.name,
            "cores": facts.cores,
            "system": platform.platform(),
            "bf16_gflops": round(matmul_flops(torch.bfloat16) / 1e9),
            "fp32_gflops": round(matmul_flops(torch.float32) / 1e9),
            "memory_gb_per_second": round(memory_bandwidth() / 1e9),
        },
        "setting": {
            "model": arguments.model,
            "data": arguments.data.name,
            "rows_a_step": ROWS_A_STEP,
            "max_tokens": MAX_TOKENS,
            "rank": RANK,
            "steps": arguments.steps,
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
