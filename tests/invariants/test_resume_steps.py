"""A run is the same run wherever it is stopped: at each of its steps, with everything on that draws or counts."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers_runs import events, make_recipe, rows_of, same, talk, tensors, write_rows
from luthier.core.files import read_json
from luthier.stages import stage
from luthier.stages.run import resume, train
from luthier.train.checkpoint import folder_of, load_checkpoint
from luthier.train.loop import fit

STEPS = 40
FIELDS: dict[str, Any] = {
    "max_steps": STEPS,
    "save_steps": 1,
    "keep_checkpoints": STEPS + 1,
    "eval_steps": 7,
    "batch_tokens": 640,
    "num_epochs": 20.0,
    "micro_batch_tokens": 256,  # several rows share a stream, several streams a step
    "replay_share": 0.3,
    "max_forgetting": None,
    "overfitting_patience": 0,
    "lora_dropout": 0.2,
    "adapter_dtype": "bf16",  # rounded at random
    "optim": "adamw_8bit",
}


@pytest.fixture(scope="module")
def straight(
    chat_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[Any, ...], dict[str, Any]]:
    """A run of 40 steps that saved after each, and what the loop was given."""
    folder, given = tmp_path_factory.mktemp("straight"), []

    def note(*parts: Any, **more: Any) -> str:
        given.append((parts, more))
        return fit(*parts, **more)

    write_rows(folder / "talks.jsonl", rows_of())
    general = [talk(f"Say {word} twice.", f"{word} {word}") for word in ("oak", "elm", "ash", "fir", "yew", "box")]
    write_rows(folder / "general.jsonl", general)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setattr(stage, "fit", note)
        recipe = make_recipe(
            chat_model, folder / "talks.jsonl", folder / "run", general_datasets=[folder / "general.jsonl"], **FIELDS
        )
        assert train(recipe).status == "finished"
    ((parts, more),) = given
    return folder / "run", parts, more


def alike(a: Path, b: Path) -> None:
    """Two checkpoints hold the same bits; only the seconds that it took may differ."""
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert same(tensors(a / file), tensors(b / file)), f"{file} of {a.name}"
    states = [{**read_json(folder / "state.json"), "seconds": 0} for folder in (a, b)]
    assert states[0] == states[1]


def test_the_run_has_all_of_it(straight: tuple[Path, tuple[Any, ...], dict[str, Any]]) -> None:
    run_dir, (_, _, _, stream), more = straight
    steps = events(run_dir, "step")
    assert [event["step"] for event in steps] == list(range(1, STEPS + 1))
    assert sum(event["replay_tokens"] for event in steps) > 0 and len({event["epoch"] for event in steps}) > 3
    plans = [step for _, step in more["settings"].steps]
    assert all(len(step) > 1 for step in plans) and any(len(rows) > 1 for step in plans for rows in step)
    assert stream.replay_rows and more["recipe"].lora_dropout
    with pytest.raises(AssertionError):
        alike(folder_of(run_dir, 3), folder_of(run_dir, 4))


def test_f21_from_each_step_the_next_has_the_same_bits(
    straight: tuple[Path, tuple[Any, ...], dict[str, Any]], tmp_path: Path
) -> None:
    """In an order that no run has, so that nothing can be left over from the step before."""
    run_dir, (decoder, adapter, optimizer, stream), more = straight
    order = list(range(STEPS))
    random.Random(0).shuffle(order)
    for step in order:
        progress = load_checkpoint(folder_of(run_dir, step), adapter, optimizer)
        assert progress.step == step
        said: list[tuple[str, int]] = []

        def emit(event: str, said: list[tuple[str, int]] = said, **fields: Any) -> None:
            said.append((event, fields.get("step", -1)))

        def should_stop(said: list[tuple[str, int]] = said, last: int = step + 1) -> bool:
            return ("checkpoint", last) in said

        here = {"run_dir": tmp_path / str(step), "progress": progress, "emit": emit, "should_stop": should_stop}
        here["run_dir"].mkdir()
        status = fit(decoder, adapter, optimizer, stream, **{**more, **here})
        assert status == ("finished" if step + 1 == STEPS else "interrupted")
        alike(folder_of(run_dir, step + 1), folder_of(here["run_dir"], step + 1))


@pytest.mark.parametrize("step", [13, 39])
def test_f21_resumed_to_the_end_it_is_the_straight_run(
    step: int, straight: tuple[Path, tuple[Any, ...], dict[str, Any]], tmp_path: Path, home: Path
) -> None:
    run_dir = Path(shutil.copytree(straight[0], tmp_path / "run"))
    for folder in (run_dir / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    shutil.rmtree(run_dir / "adapter", ignore_errors=True)
    shutil.rmtree(run_dir / "rejected", ignore_errors=True)
    lines = (run_dir / "events.jsonl").read_text().splitlines(keepends=True)
    at = {json.loads(line)["event"]: number for number, line in enumerate(lines) if f'"step": {step},' in line}
    (run_dir / "events.jsonl").write_text("".join(lines[: at["checkpoint"] + 1]))
    assert resume(run_dir).status in ("finished", "not accepted")
    assert [event["step"] for event in events(run_dir, "resume")] == [step]
    for after in range(step, STEPS + 1):
        alike(folder_of(straight[0], after), folder_of(run_dir, after))
    validations = [[(e["step"], e["loss"]) for e in events(run, "validation")] for run in (straight[0], run_dir)]
    assert validations[0] == validations[1]
