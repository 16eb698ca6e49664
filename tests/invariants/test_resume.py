"""A run that was stopped or that crashed ends with the same bits as one that ran straight through."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_runs import events, make_recipe, rows_of, same, tensors, write_rows
from luthier.core.errors import RunError
from luthier.core.files import read_json, write_text
from luthier.recipe import Recipe, dump_recipe
from luthier.stages.interrupt import Interrupt
from luthier.stages.run import resume, train
from luthier.train.checkpoint import facts_of, newest_good

STEPS = 8
FIELDS = {"max_steps": STEPS, "eval_steps": 3, "save_steps": 2, "keep_checkpoints": 3, "num_samples": 1}


@pytest.fixture(scope="module")
def straight(chat_model: Path, conversations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps that nothing disturbed. To be read, or copied."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        result = train(make_recipe(chat_model, conversations, folder / "run", **FIELDS))
    assert result.status == "finished"
    return result.run_dir


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> Any:
    """A listener that presses Ctrl-C once `step` steps are done."""
    pressed: list[Interrupt] = []
    enter = Interrupt.__enter__

    def remember(self: Interrupt) -> Interrupt:
        pressed.append(self)
        return enter(self)

    monkeypatch.setattr(Interrupt, "__enter__", remember)

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            pressed[-1].asked = True

    return listen


def crash_after(run_dir: Path, step: int, *, keep: int = 0) -> None:
    """Make a finished run look as if its process had died after `step`: no adapter, no end, a torn last line."""
    shutil.rmtree(run_dir / "adapter")
    (run_dir / "report.html").unlink()
    for folder in (run_dir / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    lines = (run_dir / "events.jsonl").read_text().splitlines(keepends=True)
    died = next(i for i, line in enumerate(lines) if f'"step": {step + 1}' in line and '"event": "step"' in line)
    (run_dir / "events.jsonl").write_text("".join(lines[:died]) + lines[died][:40])


def losses(run_dir: Path) -> dict[int, float]:
    """Validation loss by step; the last word counts."""
    return {event["step"]: event["loss"] for event in events(run_dir, "validation")}


def ends_alike(a: Path, b: Path) -> None:
    """The two runs have the same adapter, moments, counters, losses and comparison, bit for bit."""
    assert same(tensors(a / "adapter/adapter_model.safetensors"), tensors(b / "adapter/adapter_model.safetensors"))
    last = f"checkpoints/step-{STEPS:06d}"
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert same(tensors(a / last / file), tensors(b / last / file)), file
    states = [{**read_json(run / last / "state.json"), "seconds": 0} for run in (a, b)]
    assert states[0] == states[1]
    assert losses(a) == losses(b)
    for step in losses(a):
        name = f"validation/step-{step:06d}.json"
        assert read_json(a / name) == read_json(b / name)
    for name in ("heldout", "sample"):
        kept = [[{**event, "time": ""} for event in events(run, name)] for run in (a, b)]
        assert kept[0] == kept[1]
    steps = [
        {e["step"]: (e["loss"], e["grad_norm"], e["learning_rate"]) for e in events(run, "step")} for run in (a, b)
    ]
    assert steps[0] == steps[1] and len(steps[0]) == STEPS


def test_the_comparison_of_runs_can_fail(
    straight: Path, chat_model: Path, conversations: Path, tmp_path: Path, home: Path
) -> None:
    other = train(make_recipe(chat_model, conversations, tmp_path / "run", **FIELDS, weight_decay=0.1)).run_dir
    with pytest.raises(AssertionError):
        ends_alike(straight, other)


def test_a_second_run_has_the_same_bits(
    straight: Path, chat_model: Path, conversations: Path, tmp_path: Path, home: Path
) -> None:
    ends_alike(straight, train(make_recipe(chat_model, conversations, tmp_path / "run", **FIELDS)).run_dir)


@pytest.mark.parametrize("step", [1, 3, 4])  # 3 is validated, 4 is saved anyway
def test_stopped_and_resumed_is_straight(
    step: int,
    straight: Path,
    chat_model: Path,
    conversations: Path,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = make_recipe(chat_model, conversations, tmp_path / "run", **FIELDS)
    stopped = train(recipe, listen=stop_after(monkeypatch, step))
    assert (stopped.status, stopped.adapter_dir, stopped.comparison) == ("interrupted", None, None)
    assert [event["step"] for event in events(stopped.run_dir, "interrupted")] == [step]
    assert stopped.report.is_file()
    assert resume(stopped.run_dir).status == "finished"
    assert [event["step"] for event in events(stopped.run_dir, "resume")] == [step]
    ends_alike(straight, stopped.run_dir)


@pytest.mark.parametrize(
    "mode", [{"optim": "adamw_8bit"}, {"adapter_dtype": "bf16"}, {"optim": "adamw_8bit", "adapter_dtype": "bf16"}]
)
def test_stopped_and_resumed_is_straight_in_less_memory(
    mode: dict[str, str],
    straight: Path,
    chat_model: Path,
    conversations: Path,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = train(make_recipe(chat_model, conversations, tmp_path / "whole", **FIELDS, **mode)).run_dir
    recipe = make_recipe(chat_model, conversations, tmp_path / "run", **FIELDS, **mode)
    assert train(recipe, listen=stop_after(monkeypatch, 3)).status == "interrupted"
    assert resume(tmp_path / "run").status == "finished"
    ends_alike(whole, tmp_path / "run")
    assert losses(whole)[STEPS] == pytest.approx(losses(straight)[STEPS], rel=0.01)
    (weight, *_) = tensors(whole / "adapter/adapter_model.safetensors").values()
    assert (weight.dtype == torch.bfloat16) == ("adapter_dtype" in mode)


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ({}, {"optim": "adamw_8bit"}, "optim was adamw and is adamw_8bit"),
        ({}, {"adapter_dtype": "bf16"}, "adapter_dtype was fp32 and is bf16"),
        ({"lora_alpha": 8}, {"lora_alpha": 64}, "lora_alpha was 8 and is 64"),
        ({}, {"lora_r": 4}, "lora_r was 2 and is 4"),
        ({}, {"rslora": True}, "rslora was false and is true"),
    ],
)
def test_f20_a_recipe_that_the_state_does_not_fit_is_refused(
    was: dict[str, Any],
    now: dict[str, Any],
    said: str,
    chat_model: Path,
    conversations: Path,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, run_dir = interrupted(chat_model, conversations, tmp_path / "run", monkeypatch, **was)
    write_text(run_dir / "recipe.yaml", dump_recipe(recipe.model_copy(update=now)))
    with pytest.raises(RunError, match=f"{said}: put it back, the saved state does not fit anything else"):
        resume(run_dir)
    with pytest.raises(RunError, match="cannot be accepted"):
        resume(run_dir, accept=list(now))
    write_text(run_dir / "recipe.yaml", dump_recipe(recipe))
    assert resume(run_dir).status == "finished"


def test_f20_what_the_state_fits_can_be_accepted_by_name(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run_dir = interrupted(chat_model, conversations, tmp_path / "run", monkeypatch, lora_dropout=0.5)
    changed = recipe.model_copy(update={"lora_dropout": 0.25, "learning_rate": 1e-3})
    write_text(run_dir / "recipe.yaml", dump_recipe(changed))
    with pytest.raises(RunError, match="2 things have changed") as caught:
        resume(run_dir, accept=["seed"])
    assert "--accept lora_dropout" in str(caught.value) and "--accept learning_rate" in str(caught.value)
    with pytest.raises(RunError, match="one thing has changed"):
        resume(run_dir, accept=["lora_dropout"])
    assert resume(run_dir, accept=["lora_dropout", "learning_rate"]).status == "finished"
    told = [event["text"] for event in events(run_dir, "warning")]
    assert "since the checkpoint was written, lora_dropout was 0.5 and is 0.25" in told
    newest = max((run_dir / "checkpoints").glob("step-*"))
    assert facts_of(newest)["lora_dropout"] == 0.25


def test_f22_a_resume_with_other_microsteps_trains_on_the_same_rows(
    straight: Path, chat_model: Path, conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The split of a step into microsteps changes no more than the last bits."""
    recipe = make_recipe(chat_model, conversations, tmp_path / "run", **FIELDS)
    assert train(recipe, listen=stop_after(monkeypatch, 4)).status == "interrupted"
    run_dir = tmp_path / "run"
    write_text(run_dir / "recipe.yaml", dump_recipe(recipe.model_copy(update={"micro_batch_tokens": 256})))
    with pytest.raises(RunError, match="micro_batch_tokens was 128 and is 256: put it back, or go on with --accept"):
        resume(run_dir)
    assert resume(run_dir, accept=["micro_batch_tokens"]).status == "finished"
    steps = [{e["step"]: e for e in events(folder, "step")} for folder in (straight, run_dir)]
    for step in range(1, STEPS + 1):
        one, other = steps[0][step], steps[1][step]
        assert (one["tokens"], one["label_tokens"]) == (other["tokens"], other["label_tokens"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_stopped_twice_is_straight(
    straight: Path, chat_model: Path, conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(chat_model, conversations, tmp_path / "run", **FIELDS)
    train(recipe, listen=stop_after(monkeypatch, 2))
    assert resume(tmp_path / "run", listen=stop_after(monkeypatch, 5)).status == "interrupted"
    assert resume(tmp_path / "run").status == "finished"
    ends_alike(straight, tmp_path / "run")


def test_crashed_is_straight(straight: Path, tmp_path: Path, home: Path) -> None:
    run_dir = Path(shutil.copytree(straight, tmp_path / "run"))
    crash_after(run_dir, 6)
    assert resume(run_dir).status == "finished"
    assert [event["step"] for event in events(run_dir, "resume")] == [6]
    ends_alike(straight, run_dir)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no manifest", "torn manifest", "missing file"])
def test_a_damaged_checkpoint_is_passed_over_and_written_anew(
    damage: str, straight: Path, tmp_path: Path, home: Path
) -> None:
    run_dir = Path(shutil.copytree(straight, tmp_path / "run"))
    crash_after(run_dir, 6)
    newest = run_dir / "checkpoints/step-000006"
    weights, manifest = newest / "adapter_model.safetensors", newest / "manifest.json"
    data = bytearray(weights.read_bytes())
    if damage == "truncated":
        weights.write_bytes(data[:-100])
    elif damage == "flipped":
        data[-100] ^= 1
        weights.write_bytes(data)
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "torn manifest":
        manifest.write_bytes(manifest.read_bytes()[:50])
    else:
        (newest / "optimizer.safetensors").unlink()
    resume(run_dir)
    assert [event["step"] for event in events(run_dir, "resume")] == [4]
    told = [event["text"] for event in events(run_dir, "warning")]
    assert sum("step-000006 is passed over" in text for text in told) == 1
    ends_alike(straight, run_dir)
    assert newest_good(run_dir)[0] == run_dir / "checkpoints/step-000008"
    whole = tensors(straight / "checkpoints/step-000006/adapter_model.safetensors")
    assert same(tensors(newest / "adapter_model.safetensors"), whole)
    assert (newest.parent / "step-000006.corrupt").is_dir()


def test_f18_without_any_good_checkpoint_it_is_refused(straight: Path, tmp_path: Path, home: Path) -> None:
    run_dir = Path(shutil.copytree(straight, tmp_path / "run"))
    crash_after(run_dir, 6)
    for folder in (run_dir / "checkpoints").iterdir():
        (folder / "state.json").unlink()
    before = (run_dir / "events.jsonl").read_bytes()
    for _ in range(2):
        with pytest.raises(RunError, match="none of its checkpoints can be used"):
            resume(run_dir)
    assert (run_dir / "events.jsonl").read_bytes() == before


def test_a_run_that_died_before_its_first_event_begins_anew(straight: Path, tmp_path: Path, home: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("recipe.yaml", "manifest.json"):
        shutil.copy(straight / name, run_dir)
    (run_dir / "events.jsonl").touch()
    assert resume(run_dir).status == "finished"
    assert events(run_dir)[0]["event"] == "start"
    ends_alike(straight, run_dir)


def test_a_run_that_died_after_its_last_step_is_finished(straight: Path, tmp_path: Path, home: Path) -> None:
    run_dir = Path(shutil.copytree(straight, tmp_path / "run"))
    shutil.rmtree(run_dir / "adapter")
    lines = (run_dir / "events.jsonl").read_text().splitlines(keepends=True)
    before = [line for line in lines if json.loads(line)["event"] not in ("heldout", "end")]
    (run_dir / "events.jsonl").write_text("".join(line for line in before if '"when": "after"' not in line))
    assert resume(run_dir).status == "finished"
    ends_alike(straight, run_dir)


def test_an_early_stop_takes_no_further_step_when_resumed(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path
) -> None:
    fields = {"max_steps": 20, "eval_steps": 1, "early_stopping_patience": 1, "learning_rate": 1.0}
    result = train(make_recipe(chat_model, conversations, tmp_path / "run", **fields))
    assert result.status == "early stop"
    steps = len(events(result.run_dir, "step"))
    assert steps < 20
    assert result.adapter_dir is not None
    adapter = tensors(result.adapter_dir / "adapter_model.safetensors")
    shutil.rmtree(result.adapter_dir)
    assert resume(result.run_dir).status == "early stop"
    assert len(events(result.run_dir, "step")) == steps
    assert same(adapter, tensors(result.adapter_dir / "adapter_model.safetensors"))


def test_a_finished_run_is_not_resumed(straight: Path, home: Path) -> None:
    before = (straight / "events.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"this run is finished.*\n  → start another"):
        resume(straight)
    assert (straight / "events.jsonl").read_bytes() == before


def test_what_is_no_run_is_not_resumed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunError, match="not a run folder"):
            resume(folder)


def interrupted(
    model: Path, data: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any
) -> tuple[Recipe, Path]:
    recipe = make_recipe(model, data, run_dir, **{"max_steps": 4, **fields})
    assert train(recipe, listen=stop_after(monkeypatch, 1)).status == "interrupted"
    return recipe, run_dir


def test_f20_changed_data_or_model_is_refused_with_the_reason(
    model_copy: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "talks.jsonl", rows_of())
    run_dir = tmp_path / "run"
    interrupted(model_copy, data, run_dir, monkeypatch)
    events_before = (run_dir / "events.jsonl").read_bytes()

    write_rows(data, rows_of()[:-1])
    with pytest.raises(RunError, match=r"one thing has changed\n  → data was .*training rows 32 and is .*rows 31"):
        resume(run_dir)
    write_rows(data, rows_of())

    config = json.loads((model_copy / "tokenizer_config.json").read_text())
    template = config["chat_template"]
    config["chat_template"] = template.replace("SmolLM", "Luthier")
    (model_copy / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"chat_template was .* and is .*: put it back"):
        resume(run_dir)
    (model_copy / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))

    weights = model_copy / "model.safetensors"
    bits = bytearray(weights.read_bytes())
    bits[-1] ^= 1
    weights.write_bytes(bits)
    with pytest.raises(RunError, match=r"base_model was model\.safetensors .* and is"):
        resume(run_dir)
    bits[-1] ^= 1
    weights.write_bytes(bits)

    assert (run_dir / "events.jsonl").read_bytes() == events_before
    assert resume(run_dir).status == "finished"


def test_a_moved_run_folder_is_resumed_where_it_is(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_dir = interrupted(chat_model, conversations, tmp_path / "run", monkeypatch)
    run_dir.rename(tmp_path / "moved")
    assert resume(tmp_path / "moved").adapter_dir == tmp_path / "moved" / "adapter"
    assert not run_dir.exists()


HOLD = """
import sys
from pathlib import Path
from luthier.core.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_f23_a_folder_in_use_names_the_process(
    straight: Path, chat_model: Path, conversations: Path, tmp_path: Path, home: Path
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, run_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "held\n"
        in_use = rf"in use by another run \(process {other.pid}, since 2"
        with pytest.raises(RunError, match=in_use):
            train(make_recipe(chat_model, conversations, run_dir))
        shutil.copytree(straight, run_dir, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock", "adapter"))
        with pytest.raises(RunError, match=in_use):
            resume(run_dir)
        other.stdin.close()
    assert resume(run_dir).status == "finished"


def test_a_damaged_best_checkpoint_is_told_and_not_published(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path
) -> None:
    fields = {"max_steps": 20, "eval_steps": 1, "early_stopping_patience": 1, "learning_rate": 1.0}
    result = train(make_recipe(chat_model, conversations, tmp_path / "run", **fields))
    (end,) = events(result.run_dir, "end")
    assert result.status == "early stop" and end["best_step"] == end["step"] - 1
    assert result.adapter_dir is not None
    shutil.rmtree(result.adapter_dir)
    best, last = (result.run_dir / "checkpoints" / f"step-{end[name]:06d}" for name in ("best_step", "step"))
    (best / "adapter_model.safetensors").write_bytes(b"")
    resume(result.run_dir)
    told = [event["text"] for event in events(result.run_dir, "warning")]
    assert sum("was the best checkpoint" in text for text in told) == 1
    assert same(*(tensors(folder / "adapter_model.safetensors") for folder in (result.adapter_dir, last)))
    assert events(result.run_dir, "outcome")[-1]["step"] == end["step"]
