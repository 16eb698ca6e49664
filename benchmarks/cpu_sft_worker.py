"""One contender of cpu_sft.py in a process of its own; prints one line of JSON.

python benchmarks/cpu_sft_worker.py luthier|luthier-nf4|trl|peft ROWS.json STEPS
"""

import json
import resource
import sys
import tempfile
import time
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from cpu_sft import ALPHA, RANK, RATE, ROWS_A_STEP

Rows = list[dict[str, Any]]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def steps_of(rows: Rows, steps: int) -> list[Rows]:
    """Eight rows a step, in order."""
    return [rows[i * ROWS_A_STEP : (i + 1) * ROWS_A_STEP] for i in range(steps)]


def luthier(model: str, rows: Rows, steps: int, *, nf4: bool = False) -> dict[str, Any]:
    """The parts `luthier train` is made of, on the given rows."""
    import numpy as np
    import torch

    from luthier.data.collate import collate
    from luthier.data.pack import plan_pass
    from luthier.data.render import Row
    from luthier.kernels.segments import Segments
    from luthier.models.device import keep_freed_memory, row_ops_on_cpu
    from luthier.models.lora import Adapter
    from luthier.models.weights import load_decoder
    from luthier.train.objective import sft_loss
    from luthier.train.settings import CPU_MICRO_TOKENS

    keep_freed_memory()
    decoder = load_decoder(Path(model), dtype=torch.bfloat16, nf4=nf4)
    adapter = Adapter(decoder.spec, RANK, ALPHA)
    optimizer = torch.optim.AdamW([adapter.flat], lr=RATE, weight_decay=0.0, fused=True)
    losses, seconds = [], []
    for step in steps_of(rows, steps):
        began = time.perf_counter()
        made = [Row(np.array(row["ids"], np.int32), np.array(row["mask"]), "", "", "") for row in step]
        labels, loss = sum(int(row.mask.sum()) for row in made), 0.0
        for micro in plan_pass([len(row.ids) for row in made], CPU_MICRO_TOKENS):
            stream = collate([made[i] for i in micro])
            segments = Segments.of(stream.lengths, parents=stream.parents)
            logprobs = decoder.logprobs(stream.tokens, segments, stream.targets, adapter)
            part = sft_loss(logprobs) / labels
            part.backward()
            loss += part.item()
        norm = torch.linalg.vector_norm(adapter.grad).item()
        if norm > 1.0:
            adapter.grad.mul_(1.0 / norm)
        assert norm > 0
        optimizer.step()
        adapter.grad.zero_()
        losses.append(loss)
        seconds.append(time.perf_counter() - began)
    made = {"losses": losses, "seconds": seconds, "row_ops": row_ops_on_cpu()}
    return {**made, "versions": versions("luthier", "torch")}


def peft_model(model: str) -> Any:
    """The model in bf16 with PEFT's LoRA on every linear."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    return get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM"))


def peft(model: str, rows: Rows, steps: int) -> dict[str, Any]:
    """A bare loop: one row at a time, no padding, gradients summed over the step's rows."""
    import torch

    wrapped = peft_model(model)
    free = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=RATE, weight_decay=0.0)
    losses, seconds = [], []
    for step in steps_of(rows, steps):
        began = time.perf_counter()
        labels, loss = sum(sum(row["mask"]) for row in step), 0.0
        for row in step:
            ids = torch.tensor([row["ids"]])
            targets = torch.where(torch.tensor([row["mask"]]), ids, -100)[:, 1:]
            logits = wrapped(ids).logits[:, :-1]
            part = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="sum") / labels
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(free, 1.0)
        assert norm > 0
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss)
        seconds.append(time.perf_counter() - began)
    return {"losses": losses, "seconds": seconds, "versions": versions("peft", "transformers", "torch")}


def trl(model: str, rows: Rows, steps: int) -> dict[str, Any]:
    """SFTTrainer as its documentation sets it up, on the same ids and masks, in order."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.losses: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                self.losses.append(logs["loss"])

    clock = Clock()
    columns = {
        "input_ids": [row["ids"] for row in rows],
        "labels": [
            [token if trained else -100 for token, trained in zip(row["ids"], row["mask"], strict=True)] for row in rows
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=ROWS_A_STEP,
            max_steps=steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            bf16=True,
            use_cpu=True,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        )
        trainer = SFTTrainer(
            model=peft_model(model),
            args=config,
            train_dataset=Dataset.from_dict(columns),
            processing_class=AutoTokenizer.from_pretrained(model),
            callbacks=[clock],
        )
        trainer.train()
    return {
        "losses": clock.losses,
        "seconds": clock.seconds,
        "versions": versions("trl", "peft", "transformers", "accelerate", "torch"),
    }


def versions(*names: str) -> dict[str, str]:
    """Installed versions."""
    return {name: metadata.version(name) for name in names}


def main() -> None:
    """Run the contender and print what it did."""
    contender, path, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    given = json.loads(path.read_text())
    contenders = {"luthier": luthier, "luthier-nf4": partial(luthier, nf4=True), "peft": peft, "trl": trl}
    result = contenders[contender](given["model"], given["rows"], steps)
    result["tokens"] = [sum(len(row["ids"]) for row in step) for step in steps_of(given["rows"], steps)]
    result["label_tokens"] = [sum(sum(row["mask"]) for row in step) for step in steps_of(given["rows"], steps)]
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
