"""The same faults given to the Hugging Face `Trainer` and to Luthier, side by side: what each did.

    python benchmarks/steady/trainer_faults.py --peer-python .venv-bench/bin/python [--only nan_once] [--kills 24]

Both train LoRA on a tiny random llama, the same rows (as ids and masks), 8 rows a step in two micro-batches, AdamW,
warmup and cosine, in float32 on the CPU; the Trainer through PEFT, set up as its documentation does, with defaults
where a setting is not named here. Luthier is its command, `luthier train` and `luthier train --resume`. Where options
of the Trainer would help, it runs a second time with them. Every run is a process of its own. Faults come from outside:
rows, signals, a wrapped model call, a full tmpfs, and a write layer under the C library (faulty_io.c) that kills at the
k-th operation on a checkpoint. A third party judges adapters: transformers and PEFT load each and give its
token-weighted held-out loss. Behaviour is measured, not time.

Needs a C compiler, and for the full disk the right to mount a tmpfs (otherwise the write layer refuses instead).
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from contenders import HERE, RATE, STEPS, Contender, Setting, conversations, copy, digest, not_finite, write_lines

Seen = dict[str, Any]
HELPFUL = {  # what a careful user of the Trainer would add
    "logging_nan_inf_filter": False, "eval_strategy": "steps", "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss", "greater_is_better": False, "enable_jit_checkpoint": True,
}  # fmt: skip
LATE = 13  # the step in whose first micro-batch trouble starts
PACKAGES = ("transformers", "peft", "accelerate", "torch", "safetensors")


class Bench:
    """One contender with its clean run, and a judge for adapters."""

    def __init__(self, contender: Contender, judge: Contender) -> None:
        self.c, self.judge, self.root = contender, judge, contender.setting.folder / contender.name.replace(" ", "-")
        self.usual: set[str] = set()
        self.clean = self.look(self.fresh("clean"), self.c.run(self.root / "clean"))
        self.usual = {_shape(line) for line in self.clean.pop("said")}
        self.clean_loss: dict[int, float | None] = {STEPS: self.clean["loss"]}

    def fresh(self, name: str) -> Path:
        """A folder that is not there yet."""
        folder, number = self.root / name, 1
        while folder.exists():
            folder, number = self.root / f"{name}-{number}", number + 1
        return folder

    def look(self, folder: Path, answer: Seen) -> Seen:
        """Exit code, what was said, what was published, and what a third party finds in it."""
        adapter, kept = self.c.adapter(folder), self.c.checkpoints(folder)
        seen: Seen = {"exit": answer["exit"], "published": bool(digest(adapter))}
        if seen["published"]:
            seen |= {"loss": self.judged(adapter), "not_finite": not_finite(adapter)}
        seen["checkpoints"] = [path.name for path in kept]
        seen["checkpoints_not_finite"] = [round(not_finite(path), 4) for path in kept if digest(path)]
        if "train_loss" in answer["notes"]:
            seen["reported_train_loss"] = answer["notes"]["train_loss"]
        seen["said"] = [line for line in self.c.said(answer, folder) if _shape(line) not in self.usual]
        return seen

    def judged(self, adapter: Path) -> float | None:
        """Held-out loss from transformers and PEFT; None if they cannot load it."""
        setting = self.c.setting
        files = {"model": str(setting.model), "val": str(setting.data.with_suffix(".val.512.json"))}
        (answer,) = self.judge.job({"folder": adapter, "settings": {**files, "adapter": str(adapter)}})
        return answer["notes"].get("loss")

    def trained(self, fault: Seen | None, *, steps: int = STEPS, **settings: Any) -> Seen:
        """One run with a fault, looked at, and the loss of a run of as many steps without it."""
        if steps not in self.clean_loss:
            folder = self.fresh("clean")
            self.c.run(folder, steps=steps)
            self.clean_loss[steps] = self.judged(self.c.adapter(folder))
        folder = self.fresh("run")
        seen = self.look(folder, self.c.run(folder, fault=fault, steps=steps, **settings))
        return {**seen, "clean_loss": self.clean_loss[steps]}


def _shape(line: str) -> str:
    return "".join("0" if character.isdigit() else character for character in line)


# Faults while training


def nan_once(b: Bench) -> Seen:
    """F1 One micro-batch of NaN"""
    return b.trained({"kind": "nan", "steps": [LATE]})


def inf_gradient(b: Bench) -> Seen:
    """F2 One gradient element is Inf, the loss is finite"""
    return b.trained({"kind": "inf gradient", "steps": [LATE]})


def nan_4_of_100(b: Bench) -> Seen:
    """F3 NaN in 4 of 100 steps"""
    return b.trained({"kind": "nan", "steps": [41, 51, 61, 71]}, steps=100, save_steps=10)


def nan_always(b: Bench) -> Seen:
    """F4 Every loss is NaN from step 13 on"""
    return b.trained({"kind": "nan", "from_step": LATE})


def rate_x1000(b: Bench) -> Seen:
    """F5 Learning rate × 1000: 1 in place of 0.001"""
    return b.trained(None, rate=1.0, steps=60)


def masked_batches(b: Bench) -> Seen:
    """F8 Three of four prompts fill the context, so that whole batches have no trained token"""
    return b.trained(None, data=b.c.setting.folder / "mostly.jsonl", max_tokens=128)


def masked_data(b: Bench) -> Seen:
    """F8 No row has a trained token left"""
    return b.trained(None, data=b.c.setting.folder / "all.jsonl", max_tokens=128)


# Faults around saving


def ended(b: Bench, name: str = "straight", **settings: Any) -> str:
    """The bits at the end of an undisturbed run with these settings."""
    folder = b.fresh(name)
    b.c.run(folder, **settings)
    return digest(b.c.adapter(folder))


def resumed(b: Bench, folder: Path, straight: str, **settings: Any) -> tuple[str, Seen]:
    """Resume, and one word for how it went."""
    answer = b.c.run(folder, resume=True, **settings)
    seen = b.look(folder, answer)
    if seen["exit"] != 0:
        return "refused" if seen["exit"] != "hung" else "hung", seen
    if digest(b.c.adapter(folder)) == straight:
        return "same bits", seen
    return ("other bits, warned" if seen["said"] else "other bits, silent"), seen


def kill_in_save(b: Bench) -> Seen:
    """F9 SIGKILL at operation k of a save, then resume"""
    straight, words, last = ended(b, steps=18), Counter(), {}
    counted = b.c.run(b.fresh("count"), fault={"kind": "io", "at_step": 12, "operation": 10**9, "mode": 1}, steps=18)
    number, syncs = (counted["notes"][name] for name in ("operations", "syncs"))
    points = sorted({1 + round(i * (number - 1) / max(1, KILLS - 1)) for i in range(KILLS)})
    for k in points:
        folder = b.fresh("kill")
        fault = {"kind": "io", "at_step": 12, "operation": k, "mode": 1}
        assert b.c.run(folder, fault=fault, steps=18)["exit"] == -9, "it was not killed"
        word, seen = resumed(b, folder, straight, steps=18)
        words[word] += 1
        last.setdefault(word, {"operation": k, "said": seen["said"][-2:]})
        shutil.rmtree(folder)
    return {
        "operations_of_a_save": number,
        "syncs_of_a_save": syncs,
        "kills": len(points),
        "resumes": dict(words),
        "first_of_each": last,
    }


def sigterm(b: Bench) -> Seen:
    """F11 SIGTERM within step 16, ten steps after the last save, then resume"""
    straight, folder = ended(b, save_steps=10), b.fresh("term")
    answer = b.c.run(folder, fault={"kind": "signal", "signal": "SIGTERM", "steps": [16]}, save_steps=10)
    newest = b.c.checkpoints(folder)
    word, _ = resumed(b, folder, straight, save_steps=10)
    return {
        "exit": answer["exit"], "seconds_to_exit": round(answer["ended_at"] - answer["notes"]["signal_at"], 1),
        "newest_checkpoint": newest[0].name if newest else "", "resume": word,
    }  # fmt: skip


def disk_full(b: Bench) -> Seen:
    """F12 The disk is full at a save for 8 s, then has space again; then resume if needed"""
    straight, disk = ended(b, steps=18), b.fresh("disk")
    disk.mkdir(parents=True)
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(disk)], capture_output=True)
    tmpfs = mount.returncode == 0
    folder = disk / "run"
    try:
        if tmpfs:
            fault = {"kind": "fill", "at_step": 12, "filler": str(disk / "filler"), "free_after": 8}
        else:
            fault = {"kind": "io", "at_step": 12, "operation": 4, "mode": 2}
        first = b.look(folder, b.c.run(folder, fault=fault, steps=18))
        word = "not needed" if first["exit"] == 0 else resumed(b, folder, straight, steps=18)[0]
        same = digest(b.c.adapter(folder)) == straight
    finally:
        if tmpfs:
            subprocess.run(["umount", str(disk)], check=True)
    return {"disk": "tmpfs" if tmpfs else "write layer", **first, "resume": word, "same_bits_in_the_end": same}


def damage(b: Bench) -> Seen:
    """F15-F17 A file of the newest checkpoint is cut, emptied, deleted, or has one bit flipped, then resume"""
    settings = {"steps": 18, "dropout": 0.1}
    straight, folder = ended(b, **settings), b.fresh("crashed")
    b.c.run(folder, fault={"kind": "die", "at_step": 15}, **settings)
    words: dict[str, dict[str, str]] = {}
    for file in sorted(path.name for path in b.c.checkpoints(folder)[0].iterdir()):
        words[file] = {}
        for harm, does in HARMS.items():
            hurt = copy(folder, b.fresh("hurt"))
            does(b.c.checkpoints(hurt)[0] / file)
            words[file][harm] = resumed(b, hurt, straight, **settings)[0]
            shutil.rmtree(hurt)
    every = copy(folder, b.fresh("hurt"))
    for checkpoint in b.c.checkpoints(every):
        HARMS["half"](checkpoint / "adapter_model.safetensors")
    word, seen = resumed(b, every, straight, **settings)
    total = Counter(word for harms in words.values() for word in harms.values())
    return {"total": dict(total), "files": words, "all_checkpoints_cut": word, "said": seen["said"][-2:]}


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x40
    file.write_bytes(data)


HARMS: dict[str, Callable[[Path], Any]] = {
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
    "one bit": _flip,
}


def changed(b: Bench) -> Seen:
    """F20 Resume after the rows, the base model's weights or the LoRA rank have changed"""
    words, crashed = {}, b.fresh("crashed")
    setting = b.c.setting
    b.c.run(crashed, fault={"kind": "die", "at_step": 15}, steps=18)
    kept = {path: path.read_bytes() for path in [setting.data, *setting.folder.glob("talks.*.512.json")]}
    weights = setting.model / "model.safetensors"
    bits = weights.read_bytes()
    try:
        write_lines(setting.data, conversations(seed=1))
        setting.tokenise(setting.data)
        words["rows"] = resumed(b, copy(crashed, b.fresh("changed")), "", steps=18)[0]
        for path, data in kept.items():
            path.write_bytes(data)
        _flip(weights)
        words["base weights"] = resumed(b, copy(crashed, b.fresh("changed")), "", steps=18)[0]
        weights.write_bytes(bits)
        folder = copy(crashed, b.fresh("changed"))
        recipe = folder / "recipe.yaml"
        if recipe.exists():
            recipe.write_text(recipe.read_text().replace("lora_r: 4", "lora_r: 8"))
        words["rank"] = resumed(b, folder, "", steps=18, rank=8)[0]
    finally:
        weights.write_bytes(bits)
        for path, data in kept.items():
            path.write_bytes(data)
    return {"resume_with_changed": words}


def every_step(b: Bench) -> Seen:
    """F21 Killed after each step of 12, with dropout and a save a step; are the resumed bits the straight run's?"""
    settings = {"steps": 12, "save_steps": 1, "dropout": 0.1}
    straight, words = ended(b, **settings), {}
    for step in range(2, 13):
        folder = b.fresh("step")
        b.c.run(folder, fault={"kind": "die", "at_step": step}, **settings)
        words[step] = resumed(b, folder, straight, **settings)[0]
        shutil.rmtree(folder)
    return {"resumes": dict(Counter(words.values())), "steps": words}


def two_runs(b: Bench) -> Seen:
    """F23 A second run is started in the folder of one that is running"""
    folder, root = b.fresh("shared"), b.fresh("flags")
    root.mkdir(parents=True)
    alone = {seed: ended(b, seed=seed) for seed in (0, 1)}
    hold = {"kind": "hold", "at_step": 8, "reached": str(root / "reached"), "until": str(root / "done")}
    first, second = b.c.job(
        {"folder": folder, "settings": b.c.settings(seed=0), "fault": hold},
        {"folder": folder, "settings": b.c.settings(seed=1), "wait_for": str(root / "reached"),
         "when_done": str(root / "done")},
    )  # fmt: skip
    names = {alone[0]: "the first run's", alone[1]: "the second run's", "": "none"}
    return {
        "first_exit": first["exit"], "second_exit": second["exit"],
        "said": [line for line in b.c.said(second) if _shape(line) not in b.usual][-2:],
        "adapter_in_the_folder": names.get(digest(b.c.adapter(folder)), "neither's"),
    }  # fmt: skip


def evaluation(b: Bench) -> Seen:
    """Is the reported held-out loss the mean over tokens?"""
    folder = b.fresh("run")
    answer = b.c.run(folder, evaluate=True) if b.c.kind == "trainer" else b.c.run(folder)
    if b.c.kind == "trainer":
        reported = answer["notes"]["eval_loss"]
    else:
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        reported = [event["loss"] for event in events if event["event"] == "validation"][-1]
    return {"reported": reported, "token_weighted": b.judged(b.c.adapter(folder))}


SCENARIOS = (
    nan_once, inf_gradient, nan_4_of_100, nan_always, rate_x1000, masked_batches, masked_data, kill_in_save, sigterm,
    disk_full, damage, changed, every_step, two_runs, evaluation,
)  # fmt: skip
WITH_OPTIONS = {nan_once, inf_gradient, nan_4_of_100, nan_always, rate_x1000, masked_batches, sigterm}
KILLS = 24


# Words


def in_words(name: str, seen: Seen) -> str:
    """One cell of the table."""
    if name == "kill_in_save":
        return f"{seen['kills']} kills: {_counts(seen['resumes'])}; {seen['syncs_of_a_save']} syncs a save"
    if name == "sigterm":
        return (f"exit {seen['exit']} after {seen['seconds_to_exit']} s, newest checkpoint "
                f"{seen['newest_checkpoint']}, resume: {seen['resume']}")  # fmt: skip
    if name == "disk_full":
        same = "the straight run's bits" if seen["same_bits_in_the_end"] else "not the straight run's bits"
        return f"exit {seen['exit']}; resume: {seen['resume']}; in the end {same}"
    if name == "damage":
        return _counts(seen["total"]) + f"; all checkpoints cut: {seen['all_checkpoints_cut']}"
    if name == "changed":
        return ", ".join(f"{what}: {word}" for what, word in seen["resume_with_changed"].items())
    if name == "every_step":
        return _counts(seen["resumes"])
    if name == "two_runs":
        return (f"first exit {seen['first_exit']}, second exit {seen['second_exit']}; in the folder: "
                f"{seen['adapter_in_the_folder']}")  # fmt: skip
    if name == "evaluation":
        return f"reported {seen['reported']:.4f}, mean over tokens {seen['token_weighted']:.4f}"
    if not seen["published"]:
        text = f"exit {seen['exit']}, nothing published"
    else:
        text = f"exit {seen['exit']}, {seen['not_finite']:.0%} of the weights not finite"
        if seen["loss"] is not None and seen["loss"] == seen["loss"]:
            text += f", held-out loss {seen['loss'] - seen['clean_loss']:+.3f} against the clean run"
    if bad := [share for share in seen["checkpoints_not_finite"] if share]:
        text += f", {len(bad)} of {len(seen['checkpoints_not_finite'])} checkpoints hold NaN"
    return text + ("; said: " + seen["said"][0][:110] if seen["said"] else "; said nothing")


def _counts(words: dict[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(words.items(), key=lambda pair: -pair[1]))


def table(results: dict[str, Seen], names: list[str]) -> str:
    """The results in Markdown."""
    lines = ["| fault | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for function in SCENARIOS:
        if function.__name__ in results:
            seen = results[function.__name__]
            cells = [in_words(function.__name__, seen[n]) if n in seen else "–" for n in names]
            lines.append(f"| {function.__doc__} | " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the scenarios, print the table, write the JSON."""
    global KILLS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="Python of the environment with transformers and peft")
    parser.add_argument("--only", nargs="*", choices=[f.__name__ for f in SCENARIOS], default=None)
    parser.add_argument("--kills", type=int, default=KILLS, help="kill points, spread over the operations of a save")
    parser.add_argument("--contenders", nargs="*", default=["Trainer", "Trainer with options", "luthier"])
    parser.add_argument("--keep", type=Path, help="keep everything, in this new folder")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "steady_trainer_faults.json")
    arguments = parser.parse_args()
    KILLS = arguments.kills

    from luthier.core.hardware import cpu

    root = arguments.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    root.mkdir(exist_ok=True)
    library = root / "faulty_io.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faulty_io.c", "-ldl"], check=True)
    setting = Setting(root)
    for name, spared in (("mostly", 4), ("all", 10**6)):
        rows = conversations()
        for row in (row for number, row in enumerate(rows, 1) if number % spared):
            row["messages"][0]["content"] += " Write a short answer." * 30
        setting.tokenise(write_lines(root / f"{name}.jsonl", rows), cut=128)
    judge = Contender("judge", arguments.peer_python, setting, str(library), {})
    results: dict[str, Seen] = {function.__name__: {} for function in SCENARIOS}
    clean: dict[str, Seen] = {}
    for name in arguments.contenders:
        python = sys.executable if name == "luthier" else arguments.peer_python
        options = HELPFUL if name == "Trainer with options" else {}
        contender = Contender(name, python, setting, str(library), options)
        bench = Bench(contender, judge)
        clean[name] = bench.clean
        for function in SCENARIOS:
            wanted = arguments.only is None or function.__name__ in arguments.only
            if wanted and (not options or function in WITH_OPTIONS):
                results[function.__name__][name] = seen = function(bench)
                print(f"{name}: {function.__name__}: {in_words(function.__name__, seen)}", flush=True)
        contender.close()
    judge.close()
    results = {name: seen for name, seen in results.items() if seen}
    written = {
        "benchmark": "steady_trainer_faults",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu().name, "cores": cpu().cores, "system": platform.platform()},
        "versions": {
            "luthier": metadata.version("luthier"), "torch of luthier": metadata.version("torch"),
            **_versions(arguments.peer_python),
        },
        "setting": {"steps": STEPS, "rate": RATE, "kills": KILLS, "options": HELPFUL},
        "clean": clean,
        "faults": {f.__name__: f.__doc__ for f in SCENARIOS},
        "results": results,
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(written, indent=1) + "\n")
    print("\n" + table(results, list(clean)) + f"\n\nwritten to {arguments.out}")
    if arguments.keep is None:
        shutil.rmtree(root)


def _versions(python: str) -> dict[str, str]:
    code = "import json, sys; from importlib.metadata import version; print(json.dumps([*map(version, sys.argv[1:])]))"
    listed = subprocess.run([python, "-c", code, *PACKAGES], capture_output=True, text=True, check=True).stdout
    return dict(zip(PACKAGES, json.loads(listed), strict=True))


if __name__ == "__main__":
    main()
