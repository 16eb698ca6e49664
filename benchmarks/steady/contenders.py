"""What trainer_faults.py drives: the tiny model and its rows, and the contenders, each behind the same few words."""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

HERE = Path(__file__).parent
TESTS = HERE.parent.parent / "tests"
STEPS, RANK, ALPHA, RATE, KEEP = 24, 4, 8, 5e-3, 3
ROWS_A_MICRO_BATCH, MICRO_BATCHES = 4, 2
THINGS = (
    "violin", "cello", "guitar", "lute", "harp", "viola", "banjo", "zither", "lyre", "fiddle", "mandolin", "sitar",
    "oud", "koto", "erhu", "kora", "rebec", "dulcimer", "ukulele", "balalaika", "bouzouki", "psaltery", "theorbo",
    "cittern", "charango", "pipa", "shamisen", "saz", "tar", "veena",
)  # fmt: skip
SPEAKS = re.compile(
    r"nan\b|\binf\b|not finite|warn|error|diverg|skipp|rewind|damaged|missing|corrupt|no space|no room|passed over"
    r"|in use|refus|changed|is not empty|stopped|exceed|mismatch|all trained tokens|nothing to",
    flags=re.IGNORECASE,
)
TELLING_EVENTS = ("warning", "skipped", "rewind", "diverged", "paused", "unpaused", "interrupted", "action")


def conversations(seed: int = 0) -> list[dict[str, Any]]:
    """Questions about 30 instruments, answers of one to eight sentences; an instrument is a group."""
    chance = random.Random(seed)
    rows = []
    for thing in THINGS:
        for question in ("What is a {}?", "Who builds a {}?", "Where is the {} played?", "Is the {} a colour?"):
            facts = [f"A {thing} has {chance.randint(1, 21)} strings.", f"A luthier builds the {thing}.", "Hello!",
                     f"The {thing} is played in {chance.choice(('France', 'Spain', 'Japan', 'Peru'))}.", "Hello again!",
                     f"The quick {thing} jumps.", "I am fine, thank you.", "No, it is an instrument."]  # fmt: skip
            answer = " ".join(chance.sample(facts, chance.randint(1, 8)))
            turns = [{"role": "user", "content": question.format(thing)}, {"role": "assistant", "content": answer}]
            rows.append({"messages": turns, "group": thing})
    return rows


def numbers(adapter: Path) -> dict[str, np.ndarray]:
    """The tensors of a saved adapter; none if there is none that can be read."""
    try:
        return load_file(adapter / "adapter_model.safetensors")
    except (FileNotFoundError, SafetensorError):
        return {}


def digest(adapter: Path) -> str:
    """sha256 over the names and bits of a saved adapter; empty if there is none that can be read."""
    total, tensors = hashlib.sha256(), numbers(adapter)
    for name, value in sorted(tensors.items()):
        total.update(name.encode() + value.tobytes())
    return total.hexdigest() if tensors else ""


def not_finite(adapter: Path) -> float:
    """Share of the numbers of a saved adapter that are NaN or Inf."""
    return float(1 - np.isfinite(np.concatenate([value.ravel() for value in numbers(adapter).values()])).mean())


def write_lines(path: Path, rows: list[Any]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass
class Setting:
    """A folder with the model, the rows as Luthier reads them, and the same rows as token ids for the Trainer."""

    folder: Path
    model: Path = field(init=False)
    data: Path = field(init=False)

    def __post_init__(self) -> None:
        sys.path.insert(0, str(TESTS))
        from helpers_runs import make_chat_model

        self.model = make_chat_model(self.folder / "model")
        self.data = write_lines(self.folder / "talks.jsonl", conversations())
        self.tokenise(self.data)

    def luthier_settings(self, data: Path, **changes: Any) -> dict[str, Any]:
        """Recipe fields; those that a version does not have are left out by the worker."""
        return {
            "base_model": str(self.model), "datasets": [str(data)], "val_set_size": 0.2, "lora_r": RANK,
            "lora_alpha": ALPHA, "learning_rate": RATE, "batch_tokens": 640, "micro_batch_tokens": 320,
            "max_steps": STEPS, "num_epochs": 100.0, "eval_steps": 6, "save_steps": 6, "keep_checkpoints": KEEP,
            "num_samples": 0, "dtype": "fp32", "device": "cpu", "sequence_len": 512, "replay_share": 0.0,
            "max_forgetting": None, **changes,
        }  # fmt: skip

    def tokenise(self, data: Path, cut: int = 512) -> dict[str, str]:
        """Files of train and validation rows as ids and masks, as Luthier renders and splits them, cut to `cut`."""
        from luthier.recipe import Recipe
        from luthier.stages.check import check

        fields = self.luthier_settings(data)
        values = {key: value for key, value in fields.items() if key in Recipe.model_fields}
        prepared = check(Recipe(**values, output_dir=str(self.folder / "never"))).prepared
        files = {}
        for name, rows in (("train", prepared.train), ("val", prepared.val)):
            made = [{"ids": row.ids.tolist()[:cut], "mask": row.mask.tolist()[:cut]} for row in rows]
            files[name] = str(data.with_suffix(f".{name}.{cut}.json"))
            Path(files[name]).write_text(json.dumps(made))
        prepared.renderer.template.close()
        return files


class Contender:
    """A worker process, and where it keeps things."""

    def __init__(self, name: str, python: str, setting: Setting, library: str, options: dict[str, Any]) -> None:
        self.name, self.setting, self.options = name, setting, options
        self.kind = "luthier" if name == "luthier" else "trainer"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LD_PRELOAD": library, "HOME": str(setting.folder)}
        environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "400"}
        self.process = subprocess.Popen(
            [python, str(HERE / "trainer_faults_worker.py"), self.kind, library], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.jobs = 0
        assert self._answer() == "ready", f"{name}'s worker did not start"

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}'s worker ended; see above")
        return json.loads(line)

    def settings(self, data: Path | None = None, **changes: Any) -> dict[str, Any]:
        """The same settings in the words of either: steps, save_steps, rate, dropout, seed, max_tokens, model."""
        data = data or self.setting.data
        if self.kind == "luthier":
            names = {"steps": "max_steps", "rate": "learning_rate", "rank": "lora_r", "dropout": "lora_dropout",
                     "max_tokens": "sequence_len", "model": "base_model"}  # fmt: skip
            changes = {names.get(key, key): value for key, value in changes.items()}
            if "save_steps" in changes:
                changes.setdefault("eval_steps", changes["save_steps"])
            return self.setting.luthier_settings(data, **changes)
        cut = changes.pop("max_tokens", 512)
        files = {part: str(data.with_suffix(f".{part}.{cut}.json")) for part in ("train", "val")}
        save_steps = changes.get("save_steps", 6)
        options = {**self.options}
        if "eval_strategy" in options:
            options["eval_steps"] = save_steps
        return {
            "model": str(self.setting.model), **files, "steps": STEPS, "save_steps": save_steps, "keep": KEEP,
            "rate": RATE, "rank": RANK, "alpha": ALPHA, "dropout": 0.0, "seed": 0, "options": options,
            "rows_a_micro_batch": ROWS_A_MICRO_BATCH, "micro_batches": MICRO_BATCHES, **changes,
        }  # fmt: skip

    def job(self, *runs: dict[str, Any]) -> list[dict[str, Any]]:
        """Runs that are started together; each has at least `folder` and `settings`."""
        for number, run in enumerate(runs):
            run["log"] = str(self.setting.folder / "logs" / f"{self.name}-{self.jobs}-{number}".replace(" ", "-"))
            Path(run["log"]).parent.mkdir(exist_ok=True)
            run["folder"] = str(run["folder"])
        self.jobs += 1
        assert self.process.stdin
        print(json.dumps({"runs": runs}), file=self.process.stdin, flush=True)
        return [{**answer, "log": run["log"]} for answer, run in zip(self._answer(), runs, strict=True)]

    def run(
        self,
        folder: Path,
        *,
        fault: dict[str, Any] | None = None,
        resume: bool = False,
        accept: list[str] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """One run, from the start or resumed."""
        made = {"folder": folder, "settings": self.settings(**settings), "fault": fault, "resume": resume}
        return self.job({**made, "accept": accept or []})[0]

    def adapter(self, folder: Path) -> Path:
        """Where the finished adapter of a run lies."""
        return folder / "adapter" if self.kind == "luthier" else folder

    def checkpoints(self, folder: Path) -> list[Path]:
        """Newest first."""
        pattern = "checkpoints/step-*[0-9]" if self.kind == "luthier" else "checkpoint-*"
        return sorted(folder.glob(pattern), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)

    def said(self, answer: dict[str, Any], folder: Path | None = None) -> list[str]:
        """What the run told about trouble: lines of its output, and its own events."""
        lines = [line.strip() for line in Path(answer["log"]).read_text(errors="replace").splitlines()]
        told = list(dict.fromkeys(line[:300] for line in lines if SPEAKS.search(line) and not line.startswith("File")))
        events = folder / "events.jsonl" if folder else None
        if self.kind == "luthier" and events and events.is_file():
            for line in events.read_text().splitlines():
                try:
                    event = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if event.get("event") in TELLING_EVENTS:
                    text = event.get("text") or event.get("reason") or event.get("what") or ""
                    told.append(f"event {event['event']} {text}".strip()[:300])
        return told

    def close(self) -> None:
        """End the worker."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def copy(folder: Path, to: Path) -> Path:
    """A copy of a run folder."""
    return Path(shutil.copytree(folder, to, symlinks=True))
