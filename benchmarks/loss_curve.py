"""The course of a run beside TRL's: loss and gradient norm of each step, same rows, order, start and settings, float32.

    python benchmarks/loss_curve.py --peer-python .venv-bench/bin/python [--steps 50]

Both train SmolLM2-135M with rank 16 on every linear, AdamW, warmup and cosine, from the same matrices A (B is zero),
four rows of at most 128 tokens a step. Ours is the loop of `luthier train`; theirs is SFTTrainer with PEFT, in a
process of its own. What differs is only what each computes. The loss may drift by 1e-3 nats on average.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cpu_sft import ALPHA, HERE, RANK, RATE, make_rows

ROWS_A_STEP, MAX_TOKENS, MAX_NORM, WARMUP = 4, 128, 1.0, 0.1
MAX_DRIFT = 1e-3  # nats, the mean over the steps


def luthier(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The real loop on the given rows; writes the adapter's start into `folder`/start first."""
    from importlib import metadata

    import numpy as np
    import torch

    from luthier.data.render import Row
    from luthier.models.adapter_files import save_adapter
    from luthier.models.device import keep_freed_memory
    from luthier.models.lora import Adapter
    from luthier.models.weights import load_decoder
    from luthier.recipe import Recipe
    from luthier.train.loop import fit
    from luthier.train.optim import make_optimizer
    from luthier.train.progress import Progress
    from luthier.train.settings import Settings
    from luthier.train.stream import Stream

    keep_freed_memory()
    steps, rows = given["steps"], given["rows"]
    recipe = Recipe(
        base_model=given["model"], datasets=["-"], output_dir=str(folder), lora_r=RANK, lora_alpha=ALPHA,
        learning_rate=RATE, warmup_ratio=WARMUP, max_grad_norm=MAX_NORM, dtype="fp32",
    )  # fmt: skip
    decoder = load_decoder(Path(given["model"]), dtype=torch.float32)
    adapter = Adapter(decoder.spec, RANK, ALPHA, seed=recipe.seed)
    (folder / "start").mkdir()
    save_adapter(adapter, folder / "start", base_model=given["model"])
    plan = [(1, [list(range(i * ROWS_A_STEP, (i + 1) * ROWS_A_STEP))]) for i in range(steps)]
    settings = Settings(
        batch_tokens=ROWS_A_STEP * MAX_TOKENS, micro_batch_tokens=ROWS_A_STEP * MAX_TOKENS, learning_rate=RATE,
        eval_steps=steps, save_steps=steps, steps=plan, notes=[],
    )  # fmt: skip
    seen: list[dict[str, Any]] = []

    def emit(event: str, **fields: Any) -> None:
        if event == "step":
            seen.append(fields)

    tokens = [Row(np.array(row["ids"], np.int32), np.array(row["mask"]), "", "", "") for row in rows]
    fit(
        decoder, adapter, make_optimizer(adapter, recipe),
        Stream(tokens, plan, micro_batch_tokens=settings.micro_batch_tokens, seed=recipe.seed),
        recipe=recipe, settings=settings, progress=Progress(), run_dir=folder, base_model=given["model"], facts={},
        emit=emit, evaluate=None, should_stop=lambda: False,
    )  # fmt: skip
    return {
        "losses": [step["loss"] for step in seen],
        "grad_norms": [step["grad_norm"] for step in seen],
        "learning_rates": [step["learning_rate"] for step in seen],
        "versions": {name: metadata.version(name) for name in ("luthier", "torch")},
    }


def trl(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """SFTTrainer in float32 from the start that `luthier` wrote, at the learning rates that it had."""
    from importlib import metadata

    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    losses: list[float] = []
    norms: list[float] = []
    rates: list[float] = []

    class Exact(SFTTrainer):
        """Keeps each step's loss as it is; what is logged is rounded."""

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            losses.append(loss.item())
            return loss

    class Logs(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "grad_norm" in logs:
                norms.append(float(logs["grad_norm"]))
                rates.append(float(logs["learning_rate"]))

    base = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder / "start"), is_trainable=True)
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=RATE, weight_decay=0.0)
    course = [rate / RATE for rate in given["learning_rates"]]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: course[min(step, len(course) - 1)])
    rows = given["rows"]
    columns = {
        "input_ids": [row["ids"] for row in rows],
        "labels": [
            [token if trained else -100 for token, trained in zip(row["ids"], row["mask"], strict=True)] for row in rows
        ],
    }
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=ROWS_A_STEP,
        max_steps=given["steps"],
        max_grad_norm=MAX_NORM,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = Exact(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(given["model"]),
        callbacks=[Logs()],
        optimizers=(optimizer, scheduler),
    )
    trainer.train()
    names = ("trl", "peft", "transformers", "accelerate", "torch")
    return {
        "losses": losses,
        "grad_norms": norms,
        "learning_rates": rates,
        "versions": {name: metadata.version(name) for name in names},
    }


def run(python: str, contender: str, folder: Path) -> dict[str, Any]:
    """A contender in a process of its own, on folder/given.json."""
    command = [python, __file__, "--contender", contender, "--folder", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{contender} failed:\n{result.stderr[-3000:]}")
    return json.loads((folder / f"{contender}.json").read_text())


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """How far the two courses lie apart; losses in nats, gradient norms as a share of theirs."""
    losses = [abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)]
    norms = [abs(a / b - 1) for a, b in zip(ours["grad_norms"], theirs["grad_norms"], strict=True)]
    mean = sum(losses) / len(losses)
    return {
        "loss_drift_mean": mean,
        "loss_drift_max": max(losses),
        "loss_drift_limit": MAX_DRIFT,
        "within_limit": mean <= MAX_DRIFT,
        "grad_norm_drift_mean": sum(norms) / len(norms),
        "grad_norm_drift_max": max(norms),
        "loss_first": ours["losses"][0],
        "loss_last": ours["losses"][-1],
    }


def main() -> None:
    """Run both, compare step by step, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="Python of the environment with trl and peft")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, default=Path("data/python-stdlib.jsonl"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "loss_curve.json")
    parser.add_argument("--contender", choices=("luthier", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        folder, contender = arguments.folder, {"luthier": luthier, "trl": trl}[arguments.contender]
        result = contender(json.loads((folder / "given.json").read_text()), folder)
        (folder / f"{arguments.contender}.json").write_text(json.dumps(result))
        return

    from luthier.core.hardware import cpu

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_rows(
            arguments.model, arguments.data, ROWS_A_STEP * arguments.steps, folder / "rows.json", max_tokens=MAX_TOKENS
        )
        given = json.loads((folder / "rows.json").read_text()) | {"steps": arguments.steps}
        (folder / "given.json").write_text(json.dumps(given))
        ours = run(sys.executable, "luthier", folder)
        given["learning_rates"] = ours["learning_rates"]
        (folder / "given.json").write_text(json.dumps(given))
        theirs = run(arguments.peer_python, "trl", folder)
    summary = compare(ours, theirs)
    print("step     loss  TRL's loss   difference   gradient norm   TRL's")
    for i, (a, b) in enumerate(zip(ours["losses"], theirs["losses"], strict=True)):
        print(f"{i + 1:4}  {a:.5f}     {b:.5f}     {a - b:+.1e}   {ours['grad_norms'][i]:13.5f}   "
              f"{theirs['grad_norms'][i]:.5f}")  # fmt: skip
    print(f"mean drift of the loss {summary['loss_drift_mean']:.1e} nats, limit {MAX_DRIFT:g}")
    tokens = [
        sum(len(row["ids"]) for row in given["rows"][i * ROWS_A_STEP : (i + 1) * ROWS_A_STEP])
        for i in range(arguments.steps)
    ]
    result = {
        "benchmark": "loss_curve",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu().name, "cores": cpu().cores},
        "setting": {
            "model": arguments.model,
            "data": arguments.data.name,
            "dtype": "fp32",
            "steps": arguments.steps,
            "rows_a_step": ROWS_A_STEP,
            "max_tokens": MAX_TOKENS,
            "tokens": sum(tokens),
            "rank": RANK,
            "alpha": ALPHA,
            "learning_rate": RATE,
            "lr_scheduler": "cosine",
            "warmup_ratio": WARMUP,
            "max_grad_norm": MAX_NORM,
        },
        "summary": summary,
        "runs": {"luthier": ours, "trl": theirs},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.out}")
    if not summary["within_limit"]:
        sys.exit("the courses lie too far apart")


if __name__ == "__main__":
    main()
