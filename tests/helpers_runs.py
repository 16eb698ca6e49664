"""What tests of whole runs need: a tiny model with a template, conversations, recipes, and a look at what came out."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from helpers_models import make_twin
from helpers_tokenizers import model_folder
from luthier.core.events import read_events
from luthier.data.tokenizer import Tokenizer
from luthier.recipe import Recipe

WORDS = ("violin", "cello", "guitar", "lute", "harp", "viola", "banjo", "zither", "lyre", "fiddle")
ASKS = (
    ("What is a {}?", "A {} is an instrument with strings."),
    ("Who builds a {}?", "A luthier builds the {}."),
    ("Name an instrument.", "The {}. Hello again, {}!"),
    ("Is the {} a colour?", "No. Blue is a colour, the {} is not."),
)


def make_chat_model(folder: Path, *, seed: int = 0, style: str = "chatml", **changes: Any) -> Path:
    """A random llama and a tokenizer of `style` with as many tokens as the model's table has."""
    vocab_size = Tokenizer(model_folder(folder, style)).vocab_size
    make_twin(folder, "llama", seed=seed, **{"vocab_size": vocab_size, "max_position_embeddings": 512, **changes})
    model_folder(folder, style)  # save_pretrained wrote a generation_config.json over the tokenizer's
    return folder


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    """One row of a messages file."""
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return {"messages": list(turns), **more}


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Rows as JSONL; a str is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def rows_of(words: tuple[str, ...] = WORDS) -> list[dict[str, Any]]:
    """Four conversations about each word, which are one group."""
    return [talk(ask.format(word), answer.format(word, word), group=word) for word in words for ask, answer in ASKS]


def write_conversations(path: Path) -> Path:
    """40 conversations in 10 groups."""
    return write_rows(path, rows_of())


def make_recipe(model: Path, data: Path, output_dir: Path, **fields: Any) -> Recipe:
    """A run of two steps in fp32 on the CPU that holds two groups out and answers nothing."""
    values: dict[str, Any] = {
        "base_model": model,
        "datasets": [data],
        "output_dir": output_dir,
        "val_set_size": 0.2,
        "lora_r": 2,
        "batch_tokens": 256,
        "micro_batch_tokens": 128,
        "learning_rate": 1e-2,
        "max_steps": 2,
        "num_epochs": 10.0,
        "num_samples": 0,
        "max_new_tokens": 4,
        "dtype": "fp32",
        "device": "cpu",
        "replay_share": 0.0,
        "max_forgetting": None,
    }
    return Recipe(**{**values, **fields})


def events(run_dir: Path, *names: str) -> list[dict[str, Any]]:
    """The run's events of these names, all without any."""
    return [event for event in read_events(run_dir) if not names or event["event"] in names]


def tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    return load_file(file)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same names and the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
