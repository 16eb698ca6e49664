"""The command line as a person types it: a process of its own for every command, a tiny model, a folder to work in."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from helpers_cli import Desk
from helpers_runs import events
from luthier.core.files import read_json


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, conversations: Path) -> Desk:
    """One desk for the module: its tests are steps of one piece of work, and each leaves what the next one uses."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    (desk.folder / "talks.jsonl").write_bytes(conversations.read_bytes())
    return desk


FAST = ("lora_r=2", "batch_tokens=256", "val_set_size=0.2", "num_samples=2", "max_new_tokens=4", "num_epochs=40")


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
    assert err == ""
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
    for text in ("processor", "memory", "GFLOP/s", "GB/s", "tokens/s", "SmolLM2-135M"):
        assert text in out


def test_the_adapter_names_its_base(desk: Desk, trained: tuple[Path, str]) -> None:
    base = read_json(trained[0] / "adapter/adapter_config.json")["base_model_name_or_path"]
    assert Path(base) == desk.home / ".luthier/models/tiny"


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
