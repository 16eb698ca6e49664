"""Whole runs that learn their rows by heart: the alarm, the end after it, what is kept, and a resume in the middle."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers_runs import WORDS, events, make_chat_model, make_recipe, same, talk, tensors, write_rows
from luthier.evaluate.summary import read_summary
from luthier.recipe import Recipe
from luthier.stages.run import resume, train
from luthier.stages.validate import losses_file


def chance(path: Path, *, seed: int) -> Path:
    """20 questions whose answers are drawn: what is learned of them by heart is wrong for another seed's."""
    draw = random.Random(seed)
    asks = [f"{ask} {word}?" for ask in ("Code", "Name") for word in WORDS]
    return write_rows(path, [talk(ask, " ".join(draw.choices(WORDS, k=2)), group=ask) for ask in asks])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("overfitting")
    model = make_chat_model(folder / "model")
    return model, chance(folder / "train.jsonl", seed=1), chance(folder / "val.jsonl", seed=2)


@pytest.fixture
def recipe(made: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A recipe whose run overfits soon."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    model, data, val = made
    usual = {
        "val_set_size": 0.0, "val_datasets": [val], "allow_leaks": True, "max_steps": 60, "num_epochs": 100.0,
        "batch_tokens": 4096, "micro_batch_tokens": 4096, "lora_r": 16, "learning_rate": 1e-2, "eval_steps": 3,
        "save_steps": 3, "keep_checkpoints": 30, "warmup_ratio": 0.1, "lr_scheduler": "constant",
        "max_forgetting": None, "replay_share": 0.0,
        "lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"],
    }  # fmt: skip

    def made_recipe(name: str, **fields: Any) -> Recipe:
        return make_recipe(model, data, tmp_path / name, **{**usual, **fields})

    return made_recipe


def test_the_alarm_ends_the_run_and_the_best_adapter_is_kept(recipe: Any) -> None:
    result = train(recipe("run", overfitting_patience=2))
    run = result.run_dir
    assert result.status == "overfitting" and events(run, "end")[-1]["status"] == "overfitting"
    alarms = events(run, "overfit")
    assert [alarm["times"] for alarm in alarms if alarm["since"] == alarms[-1]["since"]] == [1, 2, 4]
    last = alarms[-1]
    assert last["stop"] is True and last["val_interval"][0] > 0 > last["probe_interval"][1]
    assert last["val_groups"] == last["probe_groups"] == 20
    course = {event["step"]: event["loss"] for event in events(run, "validation")}
    assert max(course) == last["step"] < 60  # it stopped there
    best = min((step for step in course if step), key=course.__getitem__)
    kept = run / "checkpoints" / f"step-{best:06d}" / "adapter_model.safetensors"
    assert same(tensors(kept), tensors(run / "adapter" / "adapter_model.safetensors"))
    summary = read_summary(run)
    assert summary.status == "overfitting" and summary.best_step == best == summary.heldout_step
    page = (run / "report.html").read_text()
    assert "Stopped for overfitting" in page and "Held-out rows beside training rows" in page


def test_patience_0_warns_and_goes_on(recipe: Any) -> None:
    result = train(recipe("run", overfitting_patience=0, max_steps=39))
    assert result.status == "finished" and max(alarm["times"] for alarm in events(result.run_dir, "overfit")) == 2
    assert not any(alarm["stop"] for alarm in events(result.run_dir, "overfit"))


def said(run: Path) -> list[dict[str, Any]]:
    """Validations and alarms as they stand."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for event in events(run, "validation", "overfit"):
        found[event["event"], event["step"]] = {key: value for key, value in event.items() if key != "time"}
    return [found[key] for key in sorted(found)]


def test_a_resume_between_suspicion_and_end_changes_nothing(recipe: Any, tmp_path: Path) -> None:
    straight = train(recipe("straight", overfitting_patience=1))
    alarms = events(straight.run_dir, "overfit")
    assert straight.status == "overfitting" and len(alarms) >= 3
    suspicion = alarms[-3]["step"]
    cut = shutil.copytree(straight.run_dir, tmp_path / "cut")
    for name in ("adapter", "report.html"):
        shutil.rmtree(cut / name, ignore_errors=True)
    lines = (cut / "events.jsonl").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if json.loads(line).get("step") == suspicion + 1)
    (cut / "events.jsonl").write_text("\n".join(lines[:at]) + "\n")
    for folder in (cut / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > suspicion:
            shutil.rmtree(folder)
    assert (cut / "checkpoints" / f"step-{suspicion:06d}").is_dir()
    again = resume(cut)
    assert again.status == "overfitting" and said(cut) == said(straight.run_dir)
    assert same(
        tensors(cut / "adapter" / "adapter_model.safetensors"),
        tensors(straight.run_dir / "adapter" / "adapter_model.safetensors"),
    )


def test_lost_losses_of_the_best_are_told_and_the_run_ends_well(recipe: Any) -> None:
    """The file is lost while the run is at work: a listener takes it away."""
    asked = recipe("run", overfitting_patience=1)
    run = Path(asked.output_dir)

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "overfit" and event["times"] == 1:
            losses_file(run, event["best_step"]).unlink(missing_ok=True)

    result = train(asked, listen=listen)
    assert any("cannot be compared with" in event["text"] for event in events(run, "warning"))
    assert result.status in ("overfitting", "finished") and result.comparison is not None
