"""Training steps on a GPU beside TRL, Unsloth and Liger, and the speed of each kernel. One command:

    python benchmarks/gpu/run.py                      Llama-3.1-8B's shape with random weights, 8 × 2,048 tokens a step
    python benchmarks/gpu/run.py --shape tiny         the same on a CPU, to see that it runs

Each provider runs in a process of its own, with and without gradient checkpointing; `--python trl=PATH` names the
Python that has it. A provider that is not installed has a row that says so. Without a GPU nothing is measured and every
row says so; with `--shape tiny` the steps are taken all the same and their losses and gradients checked. Needs no
network. Written as JSON and CSV: median, p20 and p80 of the step, time to the first step, peak memory, tokens/s,
versions, driver, clocks.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from op_speed import ceilings, kernel_rows
from random_checkpoint import SHAPES, write_checkpoint

HERE = Path(__file__).parent
PROVIDERS = ("luthier", "trl", "liger", "unsloth")
NEED_GPU = ("liger", "unsloth")  # they do not even start without one
# What keeps the peers from asking the network, and Unsloth from writing beside the sources.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "WANDB_MODE": "disabled",
}
CLOCKS = "clocks.sm,clocks.mem,temperature.gpu,power.draw"
COLUMNS = (
    *("provider", "checkpointing", "status", "why", "step_seconds_median", "step_seconds_p20", "step_seconds_p80"),
    *("tokens_per_second", "first_step_seconds", "peak_allocated_bytes", "peak_reserved_bytes", "peak_rss_bytes"),
)


def query(fields: str) -> list[dict[str, str]]:
    """What nvidia-smi says of each GPU; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = out.stdout.splitlines() if out.returncode == 0 else []
    return [dict(zip(fields.split(","), (part.strip() for part in line.split(",")), strict=True)) for line in lines]


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie, by nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def run_provider(python: str, plan: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """One process; returns what it wrote, and the clocks that were seen while it ran."""
    (scratch / "plan.json").write_text(json.dumps({**plan, "asked_at": time.time()}))
    out, log = scratch / "result.json", scratch / "log.txt"
    out.unlink(missing_ok=True)
    environment = {**os.environ, **QUIET, "UNSLOTH_COMPILE_LOCATION": str(scratch / "unsloth")}
    command = [python, str(HERE / "worker.py"), str(scratch / "plan.json"), str(out)]
    clocks = []
    with (
        log.open("w") as stream,
        subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, cwd=scratch) as process,
    ):
        while process.poll() is None:
            clocks += query(CLOCKS)[:1]
            time.sleep(0.5)
    if process.returncode or not out.is_file():
        lines = log.read_text().strip().splitlines() or [f"exit status {process.returncode}"]
        return {"status": "failed", "why": lines[-1][:300], "log": lines[-30:]}
    return {**json.loads(out.read_text()), "clocks": clocks}


def summarise(made: dict[str, Any], plan: dict[str, Any], *, gpu: bool) -> dict[str, Any]:
    """A row of the table. Times stand in it only if a GPU made them."""
    row = {"provider": plan["provider"], "checkpointing": plan["checkpointing"], **made}
    if made["status"] != "ran":
        return row
    if not gpu:
        keep = ("provider", "checkpointing", "versions")
        steps = [{name: step[name] for name in ("loss", "grad_norm")} for step in made["steps"]]
        why = "no CUDA device; the steps were taken on the CPU, loss finite and gradient above 0"
        return {name: row[name] for name in keep} | {"status": "not measured", "why": why, "steps": steps}
    seconds = [step["seconds"] for step in made["steps"][plan["warmup"] :]]
    return {
        **row,
        "status": "measured",
        "step_seconds_median": quantile(seconds, 0.5),
        "step_seconds_p20": quantile(seconds, 0.2),
        "step_seconds_p80": quantile(seconds, 0.8),
        "tokens_per_second": plan["segments"] * plan["length"] / quantile(seconds, 0.5),
    }


def train_rows(arguments: argparse.Namespace, scratch: Path, *, gpu: bool) -> list[dict[str, Any]]:
    """Every provider with and without gradient checkpointing."""
    rows, pythons = [], dict(item.split("=", 1) for item in arguments.python)
    runs = gpu or arguments.shape == "tiny"
    model = scratch / "model"
    if runs:
        write_checkpoint(model, arguments.shape)
    for checkpointing in (False, True):
        for provider in arguments.providers:
            plan = {
                "provider": provider,
                "checkpointing": checkpointing,
                "model": str(model),
                "scratch": str(scratch),
                "vocab_size": SHAPES[arguments.shape]["vocab_size"],
                "segments": arguments.segments,
                "length": arguments.length,
                "pass_segments": arguments.pass_segments,
                "warmup": arguments.warmup,
                "steps": arguments.steps,
                "nf4": arguments.base == "nf4",
            }
            if runs and (gpu or provider not in NEED_GPU):
                made = run_provider(pythons.get(provider, sys.executable), plan, scratch)
            else:
                made = {"status": "not measured", "why": "no CUDA device"}
            rows.append(summarise(made, plan, gpu=gpu))
            row = rows[-1]
            speed = f"{row['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in row else row.get("why", "")
            print(f"{provider:8} checkpointing {checkpointing!s:5}  {row['status']:13} {speed}", flush=True)
    return rows


def main() -> None:
    """Parse, run in turn, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--base", choices=("nf4", "bf16"), default="nf4")
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--pass-segments", type=int, default=2, help="segments of one forward and backward pass")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS))
    parser.add_argument("--python", nargs="*", default=[], metavar="PROVIDER=PATH", help="Python that has a provider")
    parser.add_argument("--scratch", type=Path, help="where the checkpoint is written; a temporary folder by default")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "gpu.json")
    arguments = parser.parse_args()
    if arguments.segments % arguments.pass_segments:
        parser.error("--segments must be a multiple of --pass-segments")
    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        rows = train_rows(arguments, Path(name), gpu=gpu)
    ceiling = ceilings() if gpu else {}
    kernels = kernel_rows(SHAPES[arguments.shape], arguments.segments, arguments.length, ceiling)
    for row in kernels:
        told = (
            f"{row['seconds'] * 1e3:8.3f} ms, {row['share']:.0%} of the ceiling" if "seconds" in row else row["status"]
        )
        print(f"{row['op']:42} {told}")
    result = {
        "benchmark": "gpu",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.platform(),
            "gpu": query("name,driver_version,memory.total,clocks.max.sm,clocks.max.mem"),
            "cuda": torch.version.cuda,
            "torch": torch.__version__,
        },
        "setting": {
            name: getattr(arguments, name)
            for name in ("shape", "base", "segments", "length", "pass_segments", "warmup", "steps")
        }
        | {"rank": 16, "targets": "every linear", "optimizer": "AdamW, float32 states"},
        "ceilings": ceiling,
        "training": rows,
        "kernels": kernels,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    with arguments.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {arguments.out} and {arguments.out.with_suffix('.csv')}")
    if any(row["status"] == "failed" for row in rows):
        sys.exit("a provider failed; its last lines are in the JSON")


if __name__ == "__main__":
    main()
