"""Clean pools from files, and their two halves: one to look at while rules are made, one to report on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from inject_kinds import Row

Half = Literal["development", "reported"]
PROMPTS: Final = ("instruction", "question", "prompt")
ANSWERS: Final = ("output", "response", "answer", "completion", "canonical_solution")


def half_of(row: Row) -> Half:
    """The half a row is in, by the parity of a hash of what it says: the same in every file and every run."""
    digest = hashlib.sha256(f"{row.prompt}\x00{row.answer}".encode()).digest()
    return "reported" if digest[0] % 2 else "development"


def read_pool(name: str, path: Path) -> list[Row]:
    """The rows of a JSON list or JSONL file with one of the known columns for the prompt and for the answer."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        values = json.loads(text)
    else:
        values = [json.loads(line) for line in text.split("\n") if line.strip()]
    return [_row(f"{name}:{number}", name, value) for number, value in enumerate(values)]


def _row(key: str, domain: str, value: Mapping[str, Any]) -> Row:
    prompt = next(value[name] for name in PROMPTS if name in value)
    answer = next(value[name] for name in ANSWERS if name in value)
    if value.get("input"):
        prompt = f"{prompt}\n\n{value['input']}"
    return Row(key, domain, prompt, answer, str(value.get("category", "")))


def read_half(pools: Mapping[str, Path], half: Half) -> list[Row]:
    """Every row of the pools that is in this half, in the order of the files."""
    return [row for name, path in pools.items() for row in read_pool(name, path) if half_of(row) == half]
