"""Trainings in stages: what follows from what, and that an interrupted one ends as a straight one does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers_plans import make_plan, write_special
from helpers_runs import events, same, talk, tensors, write_rows
from luthier.core.files import hash_file, read_json
from luthier.core.plan_files import read_plan
from luthier.evaluate.losses import row_losses
from luthier.models.adapter_files import load_adapter
from luthier.models.weights import load_decoder
from luthier.recipe import load_recipe
from luthier.stages.interrupt import Interrupt
from luthier.stages.result import TrainResult
from luthier.stages.run import resume, train

WEIGHTS = "adapter/adapter_model.safetensors"
BROAD, SPECIAL, POLISH = "stages/01-broad", "stages/02-special", "stages/03-polish"


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_special(tmp_path_factory.mktemp("special") / "special.jsonl")


@pytest.fixture(scope="module")
def straight(
    chat_model: Path, conversations: Path, special: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainResult:
    """A training of two stages that nothing disturbed. To be read, or copied."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        return train(make_plan(chat_model, conversations, special, folder / "run"))


def test_the_folder_and_what_it_says(straight: TrainResult) -> None:
    run_dir = straight.run_dir
    assert (straight.status, straight.adapter_dir, straight.text) == ("finished", run_dir / "adapter", "")
    assert [stage.run_dir for stage in straight.stages] == [run_dir / BROAD, run_dir / SPECIAL]
    assert {path.name for path in run_dir.iterdir() if not path.name.startswith(".")} == {
        *("recipe.yaml", "plan.json", "events.jsonl", "stages", "adapter", "report.html")
    }
    hashes = [hash_file(run_dir / stage / WEIGHTS) for stage in (BROAD, SPECIAL)]
    assert hash_file(run_dir / WEIGHTS) == hashes[1] != hashes[0]
    plan = read_plan(run_dir)
    assert (plan.status, plan.published) == ("finished", "special")
    assert [(stage.state, stage.adapter_sha256) for stage in plan.stages] == [("accepted", h) for h in hashes]
    assert [(stage.parent, stage.parent_sha256) for stage in plan.stages] == [("", ""), ("broad", hashes[0])]
    assert read_json(run_dir / SPECIAL / "manifest.json")["parent"] == {"name": "broad", "sha256": hashes[0]}
    names = [event["event"] for event in events(run_dir)]
    assert names == ["start", "stage", "gate", "stage", "gate", "end"]
    assert load_recipe(run_dir / SPECIAL / "recipe.yaml").recipe.stages == []


def test_a_stage_begins_with_its_parent_and_fresh_moments(straight: TrainResult) -> None:
    first = straight.run_dir / SPECIAL / "checkpoints/step-000000"
    assert same(tensors(first / "adapter_model.safetensors"), tensors(straight.run_dir / BROAD / WEIGHTS))
    assert not any(moment.any() for moment in tensors(first / "optimizer.safetensors").values())


def test_gates_say_what_was_compared_with_what(straight: TrainResult) -> None:
    first, second = events(straight.run_dir, "gate")
    assert first["passed"] and second["passed"] and first["parent"] == first["base"] and first["earlier"] == []
    assert "with the base" in first["text"] and "with stage broad" in second["text"]
    (earlier,) = second["earlier"]
    assert earlier["stage"] == "broad" and earlier["rows"] == first["parent"]["rows"]
    assert earlier["before"] == pytest.approx(first["parent"]["after"])
    assert second["base"]["after"] == second["parent"]["after"]
    assert second["base"]["before"] != second["parent"]["before"]


def test_earlier_stages_are_measured_with_the_present_adapter(straight: TrainResult, home: Path) -> None:
    """The loss on the first stage's held-out rows, made anew from what is on the disk."""
    from luthier.stages.prepare import prepare

    recipe = load_recipe(straight.run_dir / BROAD / "recipe.yaml").recipe
    prepared = prepare(recipe)
    decoder = load_decoder(prepared.model_dir, dtype=prepared.place.dtype)
    adapter = load_adapter(straight.run_dir / "adapter", decoder.spec, base=decoder)
    loss = row_losses(decoder, prepared.val, adapter=adapter, micro_batch_tokens=256).mean
    prepared.close()
    assert events(straight.run_dir, "gate")[1]["earlier"][0]["after"] == pytest.approx(loss, rel=1e-5)


def test_the_first_stage_is_what_it_would_be_alone(
    straight: TrainResult, chat_model: Path, conversations: Path, special: Path, tmp_path: Path, home: Path
) -> None:
    alone = load_recipe(straight.run_dir / BROAD / "recipe.yaml").recipe
    result = train(alone.model_copy(update={"output_dir": str(tmp_path / "alone")}))
    assert same(tensors(result.run_dir / WEIGHTS), tensors(straight.run_dir / BROAD / WEIGHTS))


def ends_alike(straight: TrainResult, run_dir: Path) -> None:
    for stage in (BROAD, SPECIAL, "."):
        assert hash_file(run_dir / stage / WEIGHTS) == hash_file(straight.run_dir / stage / WEIGHTS), stage
    for name in ("heldout", "heldout_base", "earlier"):
        kept = [[{**e, "time": ""} for e in events(run / SPECIAL, name)] for run in (straight.run_dir, run_dir)]
        assert kept[0] == kept[1] and kept[0], name
    plans = [[(s.name, s.state, s.adapter_sha256) for s in read_plan(r).stages] for r in (straight.run_dir, run_dir)]
    assert plans[0] == plans[1]
    last = events(run_dir, "end")[-1]
    assert (last["status"], last["published"]) == ("finished", "special")


class Stopper:
    """Presses Ctrl-C once `name` has been heard `count` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
        self.name, self.left, self.pressed = name, count, []
        enter = Interrupt.__enter__

        def remember(interrupt: Interrupt) -> Interrupt:
            self.pressed.append(interrupt)
            return enter(interrupt)

        monkeypatch.setattr(Interrupt, "__enter__", remember)

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == self.name:
            self.left -= 1
            if self.left == 0:
                self.pressed[-1].asked = True


@pytest.mark.parametrize(
    ("name", "count", "stage"),
    [
        ("step", 2, "broad"),
        ("step", 5, "special"),
        ("gate", 1, "special"),  # between the stages
        ("start", 2, "special"),  # before its first step
        ("heldout", 1, "special"),  # the first one is judged, and nothing long is left to do
    ],
)
def test_interrupted_and_resumed_is_straight(
    name: str,
    count: int,
    stage: str,
    straight: TrainResult,
    chat_model: Path,
    conversations: Path,
    special: Path,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = make_plan(chat_model, conversations, special, tmp_path / "run")
    stopped = train(recipe, listen=Stopper(monkeypatch, name, count))
    assert (stopped.status, stopped.adapter_dir) == ("interrupted", None)
    assert events(tmp_path / "run", "interrupted")[-1]["stage"] == stage
    assert not (tmp_path / "run/adapter").exists()
    assert resume(tmp_path / "run").status == "finished"
    ends_alike(straight, tmp_path / "run")


def crashed(straight: TrainResult, run_dir: Path, stage: str, step: int) -> Path:
    """A copy of the straight training as it was when its process died in a stage after `step`."""
    shutil.copytree(straight.run_dir, run_dir)
    for path in (run_dir / "adapter", run_dir / stage / "adapter"):
        shutil.rmtree(path)
    if stage == BROAD:
        shutil.rmtree(run_dir / SPECIAL)
    for folder in (run_dir / stage / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    plan = json.loads((run_dir / "plan.json").read_text())
    names = [BROAD, SPECIAL]
    for part in plan["stages"][names.index(stage) :]:
        part.update(state="begun" if part["path"] == stage else "waiting", adapter_sha256="", text="")
    plan.update(status="", published="")
    (run_dir / "plan.json").write_text(json.dumps(plan))
    for folder, last in ((run_dir, "stage"), (run_dir / stage, "step")):
        lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
        whole = [json.loads(line) for line in lines]
        if last == "step":
            died = next(i for i, e in enumerate(whole) if e["event"] == "step" and e["step"] == step + 1)
        else:
            died = [i for i, e in enumerate(whole) if e["event"] == "stage"][names.index(stage)] + 1
        (folder / "events.jsonl").write_text("".join(lines[:died]) + lines[died][:30])
    return run_dir


@pytest.mark.parametrize(("stage", "step"), [(BROAD, 0), (BROAD, 2), (SPECIAL, 1)])
def test_crashed_is_straight(stage: str, step: int, straight: TrainResult, tmp_path: Path, home: Path) -> None:
    run_dir = crashed(straight, tmp_path / "run", stage, step)
    assert resume(run_dir).status == "finished"
    assert [event["step"] for event in events(run_dir / stage, "resume")] == [step]
    ends_alike(straight, run_dir)


@pytest.mark.parametrize("lost", ["end of the stage", "gate", "publishing", "end"])
def test_a_crash_between_two_things_is_made_good(lost: str, straight: TrainResult, tmp_path: Path, home: Path) -> None:
    """Everything was done but for the last thing or two, which were not written down."""
    run_dir = Path(shutil.copytree(straight.run_dir, tmp_path / "run"))
    plan = json.loads((run_dir / "plan.json").read_text())
    if lost != "end":
        shutil.rmtree(run_dir / "adapter")
        plan["status"] = plan["published"] = ""
    cut = "gate" if lost in ("end of the stage", "gate") else "end"
    if cut == "gate":
        plan["stages"][1].update(state="begun", adapter_sha256="", text="")
    (run_dir / "plan.json").write_text(json.dumps(plan))
    for folder, name in ((run_dir, cut), *(((run_dir / SPECIAL, "end"),) if lost == "end of the stage" else ())):
        lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
        last = max(number for number, line in enumerate(lines) if f'"event": "{name}"' in line)
        (folder / "events.jsonl").write_text("".join(lines[:last]))
    steps = len(events(run_dir / SPECIAL, "step"))
    assert resume(run_dir).status == "finished"
    assert len(events(run_dir / SPECIAL, "step")) == steps, "a finished stage was trained again"
    assert events(run_dir / SPECIAL, "end")[-1]["status"] == "finished"
    assert len(events(run_dir, "gate")) == 2
    ends_alike(straight, run_dir)


def write_unlike(path: Path) -> Path:
    """Rows to validate on that no training on conversations makes better."""
    return write_rows(path, [talk(f"Ж{n}?", "ЩЮЯЦЧ"[n % 5] * 9 + "ЪЫЭ"[n % 3] * 9) for n in range(12)])


def test_a_failed_gate_leaves_the_parent_hash_equal(
    straight: TrainResult, chat_model: Path, conversations: Path, special: Path, tmp_path: Path, home: Path
) -> None:
    unlike = write_unlike(tmp_path / "unlike.jsonl")
    stages = (
        {"name": "broad", "datasets": [str(conversations)]},
        {"name": "special", "val_datasets": [str(unlike)], "gate": "better"},
        {"name": "polish", "datasets": [str(conversations)]},
    )
    seen: list[dict[str, Any]] = []
    recipe = make_plan(chat_model, conversations, special, tmp_path / "run", *stages)
    result = train(recipe, listen=seen.append)
    run_dir = result.run_dir
    assert result.status == "not accepted" and result.adapter_dir == run_dir / "adapter"
    assert hash_file(run_dir / WEIGHTS) == hash_file(run_dir / BROAD / WEIGHTS)
    assert hash_file(run_dir / WEIGHTS) == hash_file(straight.run_dir / BROAD / WEIGHTS)
    assert result.rejected_dir == run_dir / SPECIAL / "rejected"
    assert not (run_dir / SPECIAL / "adapter").exists() and not (run_dir / POLISH).exists()
    assert "stage special did not pass" in result.text and "the gate asks for clearly better" in result.text
    assert [stage.state for stage in read_plan(run_dir).stages] == ["accepted", "rejected", "waiting"]
    (end,) = events(run_dir, "end")
    assert (end["status"], end["stage"], end["published"]) == ("not accepted", "special", "broad")
    assert [event["passed"] for event in seen if event["event"] == "gate"] == [True, False]


def test_a_first_stage_that_fails_publishes_nothing(
    chat_model: Path, conversations: Path, special: Path, tmp_path: Path, home: Path
) -> None:
    unlike = write_unlike(tmp_path / "unlike.jsonl")
    broad = {"name": "broad", "learning_rate": 0.1, "val_datasets": [str(unlike)], "gate": "better"}
    stages = (broad, {"name": "special"})
    stages[1]["datasets"] = [str(conversations)]
    result = train(make_plan(chat_model, conversations, special, tmp_path / "run", *stages))
    assert (result.status, result.adapter_dir) == ("not accepted", None)
    assert "the gate asks for clearly better" in result.text
    assert result.rejected_dir == tmp_path / "run" / BROAD / "rejected"
    assert not (tmp_path / "run/adapter").exists()


def test_what_an_earlier_stage_learned_can_be_protected(
    chat_model: Path, conversations: Path, special: Path, tmp_path: Path, home: Path
) -> None:
    """The second stage unlearns the first one's answers: the gate on its own rows passes, that on the first's not."""
    wild = {"learning_rate": 0.3, "warmup_ratio": 0.0, "num_epochs": 2.0}
    stages = (
        {"name": "broad", "datasets": [str(conversations)]},
        {"name": "special", **wild, "gate": "none", "max_unlearning": 0.0},
    )
    result = train(make_plan(chat_model, conversations, special, tmp_path / "run", *stages))
    assert result.status == "not accepted"
    assert "on what stage broad holds out" in result.text and "may be lost there" in result.text
    assert hash_file(tmp_path / "run" / WEIGHTS) == hash_file(tmp_path / "run" / BROAD / WEIGHTS)


def test_losses_of_an_earlier_stage_that_are_lost_are_measured_again(
    straight: TrainResult, tmp_path: Path, home: Path
) -> None:
    run_dir = crashed(straight, tmp_path / "run", SPECIAL, 1)
    (run_dir / BROAD / "validation/result.json").write_text("{")
    resume(run_dir)
    kept = [events(run, "gate")[1]["earlier"][0]["before"] for run in (straight.run_dir, run_dir)]
    assert kept[0] == pytest.approx(kept[1], rel=1e-6)
