"""The tasks of `auto_rate.py`: which model, which rows, and how they are made."""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers

from luthier.core.files import read_json
from luthier.data.records import Message, Record
from luthier.data.render import Row
from luthier.stages.prepare import open_renderer
from luthier.train.schedule import factor

ROW: Final = 96  # bytes of a row of the tiny tasks, at most
REAL_ROW: Final = 160  # tokens of a row of the real model, at most
HELD_OUT: Final = 160  # rows, of the tiny tasks


@dataclass(frozen=True)
class Base:
    """A tiny model and the text that it is trained on first."""

    kind: str
    hidden: int
    layers: int
    text: tuple[str, ...]
    steps: int
    seed: int


@dataclass(frozen=True)
class Task:
    """What is trained: a base ("" for the real model), the data, the size of the run, and the adapter."""

    base: str
    data: str
    rows: int
    batch_tokens: int
    steps: int
    adapter: dict[str, Any]


BASES: Final = {
    "mixed": Base("llama", 80, 3, ("dolly", "gsm8k"), 300, 21),
    "talk": Base("qwen2", 64, 3, ("harmless",), 300, 22),
    "manual": Base("llama", 112, 2, ("code", "dolly"), 300, 23),
}
TASKS: Final = {
    "mixed to code": Task("mixed", "code", 2000, 768, 100, {"lora_r": 16, "lora_alpha": 32}),
    "talk to sums, alpha 64": Task("talk", "gsm8k", 2000, 768, 120, {"lora_r": 8, "lora_alpha": 64}),
    "talk to prose, rank 32": Task("talk", "dolly", 2500, 1024, 100, {"lora_r": 32, "lora_alpha": 32}),
    "manual to talk, alpha 8": Task("manual", "harmless", 1500, 768, 150, {"lora_r": 8, "lora_alpha": 8}),
    "manual to sums, queries and values": Task(
        "manual", "gsm8k", 1500, 512, 140, {"lora_r": 16, "lora_alpha": 32, "lora_targets": ["q_proj", "v_proj"]}
    ),
    "SmolLM2-135M to sums": Task("", "gsm8k", 400, 768, 100, {"lora_r": 16, "lora_alpha": 32}),
}
JUDGED: Final = [name for name, task in TASKS.items() if task.base]


def pairs(data: Path, name: str) -> list[tuple[str, str]]:
    """Prompts and answers of one kind of text."""
    if name == "gsm8k":
        lines = (data / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()
        return [(row["question"], row["answer"]) for row in map(json.loads, lines)]
    if name == "harmless":
        lines = (data / "hh_harmless_pairs.jsonl").read_text(encoding="utf-8").splitlines()
        return [(row["prompt"][-1]["content"], row["chosen"][-1]["content"]) for row in map(json.loads, lines)]
    file, answer = {"dolly": ("dolly_3k.json", "output"), "code": ("codegen_instruct.json", "response")}[name]
    return [(f"{row['instruction']}\n{row['input']}", row[answer]) for row in read_json(data / file)]


def byte_row(prompt: str, answer: str, name: str) -> Row:
    """Prompt and answer as bytes, cut to ROW; the answer is trained on."""
    start = prompt.encode()[-ROW // 2 :] + b"\n"
    ids = np.frombuffer((start + answer.encode())[:ROW], np.uint8).astype(np.int32)
    return Row(ids, np.arange(len(ids)) >= len(start), name, name, "")


def tiny_rows(data: Path, task: Task) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows that are held out."""
    rows = [byte_row(*pair, str(i)) for i, pair in enumerate(pairs(data, task.data)) if len(pair[1]) > 8]
    return rows[HELD_OUT : HELD_OUT + task.rows], rows[:HELD_OUT]


def real_rows(data: Path, task: Task, model: Path) -> tuple[list[Row], list[Row]]:
    """The same for the real model, in its own tokens and template; only rows of up to REAL_ROW tokens."""
    renderer = open_renderer(model, None, today=date(2026, 1, 1))
    records = [
        Record((Message("user", ask), Message("assistant", answer)), where=str(i))
        for i, (ask, answer) in enumerate(pairs(data, task.data)[: 2 * task.rows])
    ]
    rows = [
        made[0] for made in renderer.render_many(records) if isinstance(made, list) and len(made[0].ids) <= REAL_ROW
    ]
    if renderer.template is not None:
        renderer.template.close()
    return rows[80 : 80 + task.rows], rows[:80]


def train_base(base: Base, data: Path, folder: Path) -> Path:
    """A tiny model, trained from scratch on its text."""
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(base.seed)
    text = "\n\n".join(f"{ask}\n{answer}" for name in base.text for ask, answer in pairs(data, name)).encode()
    stream = torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))
    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }
    config, model_class = kinds[base.kind]
    model = model_class(
        config(
            vocab_size=256, hidden_size=base.hidden, intermediate_size=2 * base.hidden, num_hidden_layers=base.layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    for step in range(base.steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * factor(step + 1, base.steps, kind="cosine", warmup_ratio=0.05)
        starts = torch.randint(0, len(stream) - ROW, (12,)).tolist()
        ids = torch.stack([stream[start : start + ROW] for start in starts])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(f"  base trained, loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)
    return folder
