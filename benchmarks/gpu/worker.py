"""One provider of run.py in a process of its own: QLoRA steps over given segments; writes one JSON file.

    python benchmarks/gpu/worker.py PLAN.json OUT.json

Each provider trains rank 16 on every linear over NF4 with AdamW in float32 states, on the same random ids, every token
a label. A step is `segments` of `length` tokens in passes of `pass_segments`. The clock of the first step starts when
the process was asked for, so loading, quantising and compiling count.
"""

import importlib.util
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

RANK, ALPHA, RATE = 16, 32, 2e-4
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NEEDS = {
    "luthier": ("luthier",),
    "trl": ("trl", "peft", "datasets", "transformers"),
    "liger": ("liger_kernel", "trl", "peft", "datasets", "transformers"),
    "unsloth": ("unsloth", "unsloth_zoo", "bitsandbytes", "peft"),
}
Plan = dict[str, Any]


def rows_of(plan: Plan) -> list[list[int]]:
    """The step's segments as token ids, the same for all and in each step."""
    import torch

    generator = torch.Generator().manual_seed(1)
    shape = (plan["segments"], plan["length"])
    return torch.randint(0, plan["vocab_size"], shape, generator=generator).tolist()


class Clock:
    """Times steps with CUDA events (a plain clock on a CPU) and keeps loss and gradient norm of each."""

    def __init__(self, plan: Plan) -> None:
        import torch

        self.torch, self.plan, self.cuda = torch, plan, torch.cuda.is_available()
        self.steps: list[dict[str, float]] = []
        self.first_step_seconds = 0.0

    def begin(self) -> None:
        """A step begins."""
        if len(self.steps) == self.plan["warmup"] and self.cuda:
            self.torch.cuda.reset_peak_memory_stats()
        self.began = self._now()

    def end(self, loss: float | None = None, norm: float | None = None) -> None:
        """It is done, and the device too."""
        ended = self._now()
        if self.cuda:
            self.torch.cuda.synchronize()
            seconds = self.began.elapsed_time(ended) / 1e3
        else:
            seconds = ended - self.began
        if not self.steps:
            self.first_step_seconds = time.time() - self.plan["asked_at"]
        self.steps.append({"seconds": seconds, "loss": loss, "grad_norm": norm})

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def result(self, *packages: str) -> dict[str, Any]:
        """What a worker writes."""
        memory = {}
        if self.cuda:
            memory = {
                "peak_allocated_bytes": self.torch.cuda.max_memory_allocated(),
                "peak_reserved_bytes": self.torch.cuda.max_memory_reserved(),
            }
        return {
            "status": "ran",
            "first_step_seconds": self.first_step_seconds,
            "steps": self.steps,
            **memory,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "versions": {name: metadata.version(name) for name in ("torch", *packages)},
        }


def luthier(plan: Plan) -> dict[str, Any]:
    """The parts that `luthier train` is made of."""
    import torch

    from luthier.kernels.segments import Segments
    from luthier.models.device import choose_place
    from luthier.models.lora import Adapter
    from luthier.models.weights import load_decoder
    from luthier.recipe import Recipe
    from luthier.train.objective import sft_loss
    from luthier.train.optim import make_optimizer

    clock, place = Clock(plan), choose_place()
    recipe = Recipe(base_model=plan["model"], datasets=["-"], output_dir="-", lora_r=RANK, lora_alpha=ALPHA)
    decoder = load_decoder(Path(plan["model"]), dtype=place.dtype, device=place.device, nf4=plan["nf4"])
    if plan["checkpointing"]:
        decoder.recomputed = range(decoder.spec.num_layers)
    adapter = Adapter(decoder.spec, RANK, ALPHA, device=place.device)
    optimizer = make_optimizer(adapter, recipe)
    rows = torch.tensor(rows_of(plan), device=place.device)
    lengths = [plan["length"]] * plan["pass_segments"]
    targets = [i for i in range(sum(lengths)) if i % plan["length"]]  # a segment's first token follows from nothing
    places = torch.tensor(targets, device=place.device)
    labels = plan["segments"] * (plan["length"] - 1)
    for _ in range(plan["warmup"] + plan["steps"]):
        clock.begin()
        loss = torch.zeros((), device=place.device)
        for part in rows.split(plan["pass_segments"]):
            segments = Segments.of(lengths, place.device)
            nll = sft_loss(decoder.logprobs(part.flatten(), segments, places, adapter)) / labels
            nll.backward()
            loss += nll.detach()
        norm = torch.linalg.vector_norm(adapter.grad).item()
        optimizer.step(RATE, min(1.0, 1.0 / norm))
        adapter.grad.zero_()
        clock.end(loss.item(), norm)
    return clock.result("luthier")


def trl(plan: Plan, *, liger: bool = False) -> dict[str, Any]:
    """SFTTrainer over PEFT and bitsandbytes; with `liger`, Liger's kernels in it."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    clock = Clock(plan)

    class Steps(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.end()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "grad_norm" in logs:
                clock.steps[-1] |= {"loss": float(logs["loss"]), "grad_norm": float(logs["grad_norm"])}

    wide = torch.bfloat16 if clock.cuda else torch.float32
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=wide
    )
    model = AutoModelForCausalLM.from_pretrained(
        plan["model"],
        dtype=wide,
        attn_implementation="sdpa",
        quantization_config=quantised if plan["nf4"] else None,
        device_map={"": 0} if clock.cuda else None,
    )
    total = plan["warmup"] + plan["steps"]
    rows = rows_of(plan) * total
    config = SFTConfig(
        output_dir=str(Path(plan["scratch"]) / "trl"),
        per_device_train_batch_size=plan["pass_segments"],
        gradient_accumulation_steps=plan["segments"] // plan["pass_segments"],
        max_steps=total,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        bf16=clock.cuda,
        use_cpu=not clock.cuda,
        gradient_checkpointing=plan["checkpointing"],
        use_liger_kernel=liger,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM"),
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        processing_class=AutoTokenizer.from_pretrained(plan["model"]),
        callbacks=[Steps()],
    )
    trainer.train()
    return clock.result("trl", "peft", "transformers", "accelerate", *(("liger_kernel",) if liger else ()))


def unsloth(plan: Plan) -> dict[str, Any]:
    """FastLanguageModel in a loop of its own, as its patches stand after import; needs a GPU."""
    from unsloth import FastLanguageModel  # isort: skip  (it must come before torch and transformers)

    import torch

    clock = Clock(plan)
    model, _ = FastLanguageModel.from_pretrained(
        plan["model"],
        max_seq_length=plan["length"],
        dtype=torch.bfloat16,
        load_in_4bit=plan["nf4"],
        local_files_only=True,
        use_exact_model_name=True,
        fix_tokenizer=False,
        device_map={"": 0},
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0,
        bias="none",
        target_modules=TARGETS,
        use_gradient_checkpointing="unsloth" if plan["checkpointing"] else False,
        random_state=0,
    )
    FastLanguageModel.for_training(model)
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=RATE, weight_decay=0.0, fused=True)
    rows = torch.tensor(rows_of(plan), device="cuda")
    passes = plan["segments"] // plan["pass_segments"]
    for _ in range(plan["warmup"] + plan["steps"]):
        clock.begin()
        loss = torch.zeros((), device="cuda")
        for part in rows.split(plan["pass_segments"]):
            with torch.autocast("cuda", torch.bfloat16):
                nll = model(input_ids=part, labels=part).loss / passes
            nll.backward()
            loss += nll.detach()
        norm = torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.end(loss.item(), norm.item())
    return clock.result("unsloth", "unsloth_zoo", "bitsandbytes", "transformers")


def main() -> None:
    """Run the plan's provider, or say what it lacks."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    providers: dict[str, Callable[[Plan], dict[str, Any]]] = {
        "luthier": luthier,
        "trl": trl,
        "liger": lambda plan: trl(plan, liger=True),
        "unsloth": unsloth,
    }
    provider = plan["provider"]
    needs = NEEDS[provider] + (("bitsandbytes",) if plan["nf4"] and provider in ("trl", "liger") else ())
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        result = {"status": "not installed", "why": f"no {', '.join(missing)}"}
    else:
        result = providers[provider](plan)
        sound = all(
            step["loss"] is not None and math.isfinite(step["loss"]) and 0 < step["grad_norm"] < math.inf
            for step in result["steps"]
        )
        if not sound or not result["steps"]:
            result |= {"status": "failed", "why": "a loss is not finite or a gradient is zero"}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
