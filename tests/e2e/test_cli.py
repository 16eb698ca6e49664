"""The command line as a person types it: a process of its own for every command, a tiny model, a folder to work in."""

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from helpers_cli import Desk
from helpers_plans import write_special
from helpers_runs import events, talk, write_rows
from luthier.core.files import read_json


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, conversations: Path) -> Desk:
    """One desk for the module: its tests are steps of one piece of work, and each leaves what the next one uses."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    (desk.folder / "talks.jsonl").write_bytes(conversations.read_bytes())
    return desk


UNWATCHED = ("replay_share=0", "max_forgetting=null")  # forgetting is not measured, which takes most of a short run
BRIEF = ("max_new_tokens=4", "num_epochs=40")
FAST = ("lora_r=2", "batch_tokens=256", "val_set_size=0.2", "num_samples=2", *BRIEF, *UNWATCHED)


@pytest.fixture(scope="module")
def stored(desk: Desk, chat_model: Path) -> str:
    """The tiny model in the desk's store, under this name."""
    out, _ = desk.run("model", "add", chat_model, "--name", "tiny")
    assert "tiny: " in out and "llama" in out.lower()
    return "tiny"


@pytest.fixture(scope="module")
def recipe(desk: Desk, stored: str) -> str:
    """A recipe of `luthier init`, as it was written."""
    desk.run("init", "recipe.yaml", "--model", stored, "--data", "talks.jsonl", "--output", "runs/first")
    return "recipe.yaml"


@pytest.fixture(scope="module")
def trained(desk: Desk, recipe: str) -> tuple[Path, str]:
    """A finished run with settings in both spellings, and what its command printed."""
    out, err = desk.run("train", recipe, *FAST, "max_steps=12", "--learning-rate", "1e-2", "--cutoff-len=512")
    assert "warning" not in err and "advice batch_tokens" in err
    return desk.folder / "runs/first", out


def test_init_writes_once(desk: Desk, recipe: str) -> None:
    before = (desk.folder / recipe).read_bytes()
    _, err = desk.run("init", recipe, code=1)
    assert "exists already" in err and "→" in err
    assert (desk.folder / recipe).read_bytes() == before


def test_check_tells_what_will_happen_and_touches_nothing(desk: Desk, recipe: str) -> None:
    out, _ = desk.run("check", recipe, *FAST, "output_dir=runs/checked", "max_steps=7")
    for text in ("40 rows", "32 to train on, 8 held out", "7 of about 256 tokens", "LoRA, rank 2", "Ready"):
        assert text in out
    assert "output_dir=runs/checked max_steps=7" in out.split("Next: luthier train")[1]
    assert not (desk.folder / "runs/checked").exists()


def test_train_follows_both_spellings_and_says_so(trained: tuple[Path, str]) -> None:
    run_dir, out = trained
    (start,) = events(run_dir, "start")
    assert start["recipe"]["learning_rate"] == 1e-2
    assert start["recipe"]["sequence_len"] == 512
    assert start["recipe"]["lora_r"] == start["adapter"]["r"] == 2
    assert len(events(run_dir, "step")) == 12
    assert "cutoff_len: read as sequence_len" in out
    assert "held-out loss" in out and "luthier chat runs/first --compare" in out


def test_the_report_holds_the_held_out_numbers(trained: tuple[Path, str]) -> None:
    run_dir, out = trained
    (held,) = events(run_dir, "heldout")
    page = (run_dir / "report.html").read_text()
    for number in (held["before"], held["after"]):
        assert f"{number:.3f}" in page
        assert f"{number:.3f}" in out
    assert f"{abs(held['change_percent']):.1f}" in page
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert {path.name for path in (run_dir / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert list((run_dir / "tensorboard").iterdir())


def test_a_run_is_not_overwritten(desk: Desk, trained: tuple[Path, str], recipe: str) -> None:
    before = (trained[0] / "events.jsonl").read_bytes()
    _, err = desk.run("train", recipe, *FAST, code=1)
    assert "holds a run already" in err and "luthier train --resume runs/first" in err
    assert (trained[0] / "events.jsonl").read_bytes() == before


def test_chat_answers_and_compares(desk: Desk, trained: tuple[Path, str]) -> None:
    out, _ = desk.run("chat", "runs/first", "--prompt", "What is a violin?", "--max-new-tokens", "6")
    assert out.strip()
    both, _ = desk.run("chat", "runs/first", "-p", "What is a violin?", "--compare", "--max-new-tokens", "6")
    assert "base" in both and "tuned" in both
    assert re.sub(r"\s", "", out.split()[0])[:3] in re.sub(r"\s", "", both)


@pytest.fixture(scope="module")
def second(desk: Desk, recipe: str) -> Path:
    """A run that Ctrl-C stopped and `--resume` finished."""
    run_dir = desk.folder / "runs/second"
    settings = (*FAST, "output_dir=runs/second", "max_steps=80", "--lora-alpha", "8")
    with desk.start("train", recipe, *settings) as process:
        wait_for(lambda: len(lines(run_dir / "events.jsonl", '"event": "step"')) >= 5, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert "luthier train --resume runs/second" in err
    assert not (run_dir / "adapter").exists()
    listed, _ = desk.run("runs", "list")
    assert "interrupted" in listed
    out, _ = desk.run("train", "--resume", "runs/second")
    assert f"Going on after step {events(run_dir, 'interrupted')[0]['step']}." in out
    return run_dir


def test_interrupted_training_goes_on_to_its_end(second: Path) -> None:
    (stopped,) = events(second, "interrupted")
    assert 5 <= stopped["step"] < 80
    assert [event["step"] for event in events(second, "step")] == list(range(1, 81))
    assert (second / "adapter/adapter_model.safetensors").is_file()
    assert [event["status"] for event in events(second, "end")] == ["interrupted", "finished"]


def test_runs_are_listed_shown_and_compared(desk: Desk, trained: tuple[Path, str], second: Path) -> None:
    out, _ = desk.run("runs", "list")
    assert "runs/first" in out and "finished" in out and "12/12" in out
    (held,) = events(trained[0], "heldout")
    out, _ = desk.run("runs", "show", "runs/first")
    assert f"{held['before']:.3f} -> {held['after']:.3f}" in out and held["verdict"] in out
    out, _ = desk.run("runs", "compare", "runs/first", "runs/second")
    for field in ("lora_alpha", "max_steps", "learning_rate"):
        assert re.search(rf"^{field}\b", out, re.MULTILINE), out
    assert not re.search(r"^(lora_r|seed|output_dir)\b", out, re.MULTILINE)
    _, err = desk.run("runs", "compare", "runs/first", code=2)
    assert "at least two" in err


def test_data_is_inspected_as_the_model_sees_it(desk: Desk, stored: str) -> None:
    out, _ = desk.run("data", "inspect", "talks.jsonl", "--model", stored, "-n", "1")
    assert "40 rows" in out and "talks.jsonl:1" in out
    assert "A violin is an instrument with strings." in out


def test_models_are_added_listed_verified_and_removed(desk: Desk, chat_model: Path) -> None:
    desk.run("model", "add", chat_model, "--name", "other")
    out, _ = desk.run("model", "list")
    assert "other" in out
    assert "every file is as it was" in desk.run("model", "verify", "other")[0]
    (weights,) = (desk.home / ".luthier/models/other").glob("*.safetensors")
    data = weights.read_bytes()
    weights.unlink()  # the store may share the file with the folder it was added from
    weights.write_bytes(data[:-1] + b"x")
    _, err = desk.run("model", "verify", "other", code=1)
    assert weights.name in err
    desk.run("model", "remove", "other")
    assert not weights.exists()
    assert "other" not in desk.run("model", "list")[0]
    _, err = desk.run("model", "remove", "other", code=1)
    assert "other" in err


def test_doctor_measures_this_machine(desk: Desk) -> None:
    out, _ = desk.run("doctor")
    for text in ("processor", "memory", "GFLOP/s", "GB/s", "tokens/s", "SmolLM2-135M", "through transformers"):
        assert text in out
    assert "norms, gates" in out


def test_the_adapter_names_its_base(desk: Desk, trained: tuple[Path, str]) -> None:
    base = read_json(trained[0] / "adapter/adapter_config.json")["base_model_name_or_path"]
    assert Path(base) == desk.home / ".luthier/models/tiny"


STAGED = """
base_model: tiny
output_dir: runs/staged
lora_r: 2
batch_tokens: 256
learning_rate: 1e-2
num_epochs: 40
eval_steps: 6
save_steps: 1
num_samples: 1
max_new_tokens: 4
replay_share: 0
max_forgetting: null
val_set_size: 0.2
stages:
  - name: broad
    datasets: [talks.jsonl]
    max_steps: 6
  - name: special
    datasets: [special.jsonl]
    lr: 5e-3
    max_steps: 60
    gate: none
"""


@pytest.fixture(scope="module")
def staged(desk: Desk, stored: str) -> Path:
    """A training in two stages that Ctrl-C stopped in the second, and `--resume` finished."""
    run_dir = desk.folder / "runs/staged"
    (desk.folder / "staged.yaml").write_text(STAGED)
    write_special(desk.folder / "special.jsonl")
    out, _ = desk.run("check", "staged.yaml")
    for text in ("stages[1].lr: read as learning_rate", "stage 1 of 2: broad", "stage 2 of 2: special", "All stages"):
        assert text in out
    assert not run_dir.exists()
    events_of_second = run_dir / "stages/02-special/events.jsonl"
    with desk.start("train", "staged.yaml") as process:
        wait_for(lambda: len(lines(events_of_second, '"event": "step"')) >= 3, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "luthier train --resume runs/staged" in err
    out, err = desk.run("chat", "runs/staged", "-p", "Hi", "--max-new-tokens", "2")
    assert "the training is in stage special: the run is not finished" in out
    out, err = desk.run("train", "--resume", "runs/staged")
    assert "stage 01-broad: held-out loss" in out and "stage 02-special: held-out loss" in out, out
    assert "luthier chat runs/staged --compare" in out
    return run_dir


def test_a_training_in_stages_runs_stops_and_goes_on(desk: Desk, staged: Path) -> None:
    assert [event["passed"] for event in events(staged, "gate")] == [True, True]
    assert [event["status"] for event in events(staged, "end")] == ["interrupted", "finished"]
    assert [event["step"] for event in events(staged / "stages/02-special", "step")] == list(range(1, 61))
    assert (staged / "report.html").is_file()
    out, _ = desk.run("runs", "list")
    assert "runs/staged" in out
    _, err = desk.run("train", "--resume", "runs/staged", code=1)
    assert "this training is finished" in err


def test_every_stage_can_be_talked_to(desk: Desk, staged: Path) -> None:
    for what in ("runs/staged", "runs/staged/stages/01-broad", "runs/staged/stages/01-broad/adapter"):
        out, _ = desk.run("chat", what, "-p", "What is a violin?", "--max-new-tokens", "3")
        assert out.strip()


def test_what_changed_is_listed_and_accepted_by_name(desk: Desk, recipe: str) -> None:
    run_dir = desk.folder / "runs/changed"
    with desk.start("train", recipe, *FAST, "output_dir=runs/changed", "max_steps=60", "learning_rate=1e-2") as process:
        wait_for(lambda: len(lines(run_dir / "events.jsonl", '"event": "step"')) >= 2, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    kept = (run_dir / "recipe.yaml").read_text()
    (run_dir / "recipe.yaml").write_text(kept.replace("learning_rate: 0.01", "learning_rate: 0.005"))
    _, err = desk.run("train", "--resume", "runs/changed", code=1)
    assert "learning_rate was 0.01 and is 0.005: put it back, or go on with --accept learning_rate" in err
    _, err = desk.run("train", "--resume", "runs/changed", "--accept", "learning_rate")
    assert "since the checkpoint was written, learning_rate was 0.01 and is 0.005" in err
    assert events(run_dir, "end")[-1]["status"] == "finished"


def test_a_result_that_forgot_too_much_is_not_accepted(desk: Desk, recipe: str) -> None:
    draw = random.Random(0)
    numbers = [f"{draw.randint(1000, 9999)} {draw.randint(1000, 9999)}" for _ in range(60)]
    write_rows(desk.folder / "numbers.jsonl", [talk(f"Say {number}!", number, group=number) for number in numbers])
    settings = (
        "lora_r=2",
        "batch_tokens=256",
        "val_set_size=0.2",
        *BRIEF,
        "general_datasets=[numbers.jsonl]",
        "max_forgetting=0.001",
        "replay_share=0",
    )
    out, err = desk.run(
        "train",
        recipe,
        *settings,
        "output_dir=runs/rejected",
        "max_steps=4",
        "eval_steps=4",
        "learning_rate=5e-2",
        code=5,
    )
    assert "not accepted" in err and "general loss" in err
    assert "luthier chat runs/rejected/rejected --compare" in out
    assert not (desk.folder / "runs/rejected/adapter").exists()
    _, err = desk.run("chat", "runs/rejected", "-p", "Hi", code=1)
    assert "was not accepted" in err and "luthier chat runs/rejected/rejected" in err
    out, _ = desk.run("chat", "runs/rejected/rejected", "-p", "Hi", "--max-new-tokens", "2")
    assert "this result was not accepted" in out


def test_what_is_learned_by_heart_stops_and_the_best_is_published(desk: Desk, recipe: str) -> None:
    draw = random.Random(0)

    def nonsense(*lengths: int) -> str:
        return " ".join("".join(draw.choice("aeioubdgklmnprst") for _ in range(length)) for length in lengths)

    rows = [talk(f"Say {nonsense(5, 4, 6)}.", f"{nonsense(6, 5, 7)}.", group=f"g{index}") for index in range(40)]
    write_rows(desk.folder / "nonsense.jsonl", rows)
    out, _ = desk.run(
        "train", recipe, *BRIEF, *UNWATCHED, "datasets=nonsense.jsonl", "output_dir=runs/by-heart", "val_set_size=0.6",
        "batch_tokens=512", "max_steps=60", "eval_steps=5", "learning_rate=2e-2", "overfitting_patience=1",
        "lora_r=8", "num_samples=0", "dtype=fp32",
    )  # fmt: skip
    run_dir = desk.folder / "runs/by-heart"
    (end,) = events(run_dir, "end")
    assert end["status"] == "overfitting" and 0 < end["best_step"] < end["step"] < 60
    assert (run_dir / "adapter").is_dir() and "luthier chat runs/by-heart --compare" in out


def test_a_model_that_gives_no_numbers_diverges(desk: Desk, recipe: str, chat_model: Path) -> None:
    folder = Path(shutil.copytree(chat_model, desk.folder / "infinite"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = (
        "base_model=infinite",
        "output_dir=runs/diverged",
        "val_set_size=0",
        "num_samples=0",
        "batch_tokens=256",
    )
    out, err = desk.run("train", recipe, *BRIEF, *UNWATCHED, *settings, "learning_rate=1e-3", code=3)
    assert "diverged" in err and "Nothing was kept" in out
    assert not any((desk.folder / "runs/diverged" / name).exists() for name in ("adapter", "rejected"))


def lines(file: Path, holding: str) -> Sequence[str]:
    """The lines of a growing file that hold a text."""
    return [line for line in file.read_text().splitlines() if holding in line] if file.is_file() else []


def wait_for(happened: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 40) -> None:
    """Return once `happened`, fail if the process ends before."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
