"""What can go wrong with a training in stages, and with a result that may not stand: said before it costs anything."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_plans import SHORT, make_plan, write_special
from helpers_runs import events, make_recipe, talk, tensors, write_rows
from luthier import cli
from luthier.core.errors import DataError, LuthierError, RunError
from luthier.core.files import hash_file, read_json, write_text
from luthier.core.plan_files import read_plan
from luthier.models.lora import Adapter
from luthier.recipe import Recipe, dump_recipe, load_recipe
from luthier.serve.chat import load
from luthier.stages import publish, stage
from luthier.stages.check import check
from luthier.stages.result import TrainResult
from luthier.stages.run import resume, train
from luthier.train.optim import PlainAdamW

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_special(tmp_path_factory.mktemp("special") / "special.jsonl")


@pytest.fixture(scope="module")
def finished(
    chat_model: Path, conversations: Path, special: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainResult:
    """A finished training in two stages. To be read, or copied."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        return train(make_plan(chat_model, conversations, special, folder / "run", max_steps=2, eval_steps=2))


def reopened(finished: TrainResult, run_dir: Path) -> Path:
    """A copy of which the second stage has not begun."""
    shutil.copytree(finished.run_dir, run_dir)
    shutil.rmtree(run_dir / "adapter")
    shutil.rmtree(run_dir / "stages/02-special")
    plan = json.loads((run_dir / "plan.json").read_text())
    plan["stages"][1].update(state="waiting", adapter_sha256="", text="", facts={})
    plan.update(status="", published="")
    (run_dir / "plan.json").write_text(json.dumps(plan))
    return run_dir


def rewrite(run_dir: Path, number: int, **fields: Any) -> None:
    """Other settings of a stage in the run's recipe."""
    recipe = load_recipe(run_dir / "recipe.yaml").recipe
    stages = [stage.model_dump() for stage in recipe.stages]
    stages[number] |= fields
    values = {**recipe.model_dump(), "stages": stages}
    write_text(run_dir / "recipe.yaml", dump_recipe(Recipe(**values)))


# Before anything starts


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"datasets": ["absent.jsonl"]}, "absent.jsonl"),
        ({"sequence_len": 16}, "sequence_len 16"),
    ],
)
def test_a_mistake_in_the_last_stage_shows_before_the_first_trains(
    broken: dict[str, Any],
    said: str,
    chat_model: Path,
    conversations: Path,
    special: Path,
    tmp_path: Path,
    home: Path,
) -> None:
    stages = ({"name": "broad", "datasets": [str(conversations)]}, {"name": "special"}, {"name": "third", **broken})
    recipe = make_plan(chat_model, conversations, special, tmp_path / "run", *stages)
    for act in (check, train):
        with pytest.raises(DataError, match="stage third: ") as caught:
            act(recipe)
        assert said in str(caught.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] in ([], [".lock"])


def test_a_gate_that_cannot_be_passed_is_told_before_the_first_stage(
    chat_model: Path, conversations: Path, special: Path, tmp_path: Path, home: Path
) -> None:
    for number, refused in ((7, True), (8, False)):
        few = write_rows(tmp_path / f"{number}.jsonl", [talk(f"How loud is drum {n}?", "Loud.") for n in range(number)])
        stages = ({"name": "broad"}, {"name": "special", "val_datasets": [str(few)], "gate": "better"})
        stages[0]["datasets"] = [str(conversations)]
        recipe = make_plan(chat_model, conversations, special, tmp_path / "run", *stages)
        if not refused:
            check(recipe)
            continue
        for act in (check, train):
            with pytest.raises(DataError, match=r"stage special: gate is better.* from 7 held-out rows: 8 are needed"):
                act(recipe)


def test_what_one_stage_holds_out_no_other_trains_on(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path
) -> None:
    """The second stage holds out more of the same file than the first, which would train on it."""
    stages = ({"name": "broad", "val_set_size": 0.2}, {"name": "special", "val_set_size": 0.5})
    recipe = make_plan(chat_model, conversations, conversations, tmp_path / "run", *stages)
    with pytest.raises(DataError) as caught:
        check(recipe)
    assert "stage broad: " in str(caught.value) and "of what stage special holds out" in str(caught.value)
    assert "stages that share a file hold out the same rows if they have the same val_set_size" in str(caught.value)
    allowed = check(Recipe(**{**recipe.model_dump(exclude_unset=True), "allow_leaks": True}))
    allowed.close()
    notes = allowed.stages[0].prepared.accounts.notes
    assert any("allowed by allow_leaks" in note for note in notes)


def test_stages_that_share_a_file_and_a_share_may_follow_each_other(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path
) -> None:
    recipe = make_plan(chat_model, conversations, conversations, tmp_path / "run", {"name": "a"}, {"name": "b"})
    checked = check(recipe)
    checked.close()
    assert [len(part.prepared.val) for part in checked.stages] == [8, 8]
    assert not (tmp_path / "run").exists()


def test_all_stages_need_room_together(
    chat_model: Path, conversations: Path, special: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_plan(chat_model, conversations, special, tmp_path / "run")
    checked = check(recipe)
    checked.close()
    enough_for_one = checked.stages[0].disk_bytes + 1
    for module in ("check", "plan_check"):
        monkeypatch.setattr(f"luthier.stages.{module}.free_disk", lambda path: enough_for_one)
    with pytest.raises(RunError, match="the stages need"):
        check(recipe)


# What changed in between


def test_a_stage_to_come_may_be_changed(finished: TrainResult, tmp_path: Path, home: Path) -> None:
    run_dir = reopened(finished, tmp_path / "run")
    rewrite(run_dir, 1, learning_rate=5e-3, name="other")
    assert resume(run_dir).status == "finished"
    assert events(run_dir / "stages/02-other", "start")[0]["recipe"]["learning_rate"] == 5e-3
    assert hash_file(run_dir / WEIGHTS) != hash_file(finished.run_dir / WEIGHTS)


def test_a_stage_that_is_behind_may_not_and_says_what_changed(
    finished: TrainResult, tmp_path: Path, home: Path
) -> None:
    run_dir = reopened(finished, tmp_path / "run")
    rewrite(run_dir, 0, learning_rate=5e-3, warmup_ratio=0.5)
    before = (run_dir / "events.jsonl").read_bytes()
    with pytest.raises(RunError) as caught:
        resume(run_dir)
    text = str(caught.value)
    assert "stage broad: the run cannot go on as it was: 2 things have changed" in text
    assert "learning_rate was 0.01 and is 0.005: put it back, or go on with --accept learning_rate" in text
    assert "warmup_ratio was 0.05 and is 0.5" in text
    assert (run_dir / "events.jsonl").read_bytes() == before
    with pytest.raises(RunError, match="warmup_ratio was"):
        resume(run_dir, accept=["learning_rate"])
    assert resume(run_dir, accept=["learning_rate", "warmup_ratio"]).status == "finished"
    told = [event["text"] for event in events(run_dir, "warning")]
    assert sum("stage broad: since the checkpoint was written, " in text for text in told) == 2
    assert hash_file(run_dir / WEIGHTS) == hash_file(finished.run_dir / WEIGHTS)
    facts = read_plan(run_dir).stages[0].facts
    assert (facts["learning_rate"], facts["warmup_ratio"]) == (5e-3, 0.5), "it would have to be accepted again"


def test_a_stage_is_not_resumed_without_the_others(finished: TrainResult) -> None:
    with pytest.raises(
        RunError, match=rf"this is a stage of a training\n  → luthier train --resume {finished.run_dir}"
    ):
        resume(finished.run_dir / "stages/02-special")


def test_the_gate_of_a_stage_that_is_behind_is_what_it_was(finished: TrainResult, tmp_path: Path, home: Path) -> None:
    run_dir = reopened(finished, tmp_path / "run")
    rewrite(run_dir, 0, gate="better")
    with pytest.raises(RunError, match="gate was not worse and is better"):
        resume(run_dir)


def test_stages_that_began_keep_their_places(finished: TrainResult, tmp_path: Path, home: Path) -> None:
    run_dir = reopened(finished, tmp_path / "run")
    rewrite(run_dir, 0, name="wide")
    with pytest.raises(RunError, match="began with the stages broad, and its recipe has wide, special"):
        resume(run_dir)
    recipe = load_recipe(run_dir / "recipe.yaml").recipe
    write_text(run_dir / "recipe.yaml", dump_recipe(recipe.model_copy(update={"stages": []})))
    with pytest.raises(RunError, match="began with the stages broad, and its recipe has none"):
        resume(run_dir)


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_an_accepted_adapter_that_is_not_what_it_was_is_not_built_upon(
    how: str, finished: TrainResult, tmp_path: Path, home: Path
) -> None:
    run_dir = reopened(finished, tmp_path / "run")
    file = run_dir / "stages/01-broad" / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    if how == "missing":
        file.unlink()
    with pytest.raises(RunError, match=f"the adapter of stage broad (has )?{'is ' if how == 'missing' else ''}{how}"):
        resume(run_dir)
    assert not (run_dir / "adapter").exists()


def test_a_finished_training_says_so(finished: TrainResult, home: Path) -> None:
    with pytest.raises(RunError, match=r"this training is finished: finished\n  → start another"):
        resume(finished.run_dir)
    with pytest.raises(RunError, match="holds a run already"):
        train(load_recipe(finished.run_dir / "recipe.yaml").recipe)


@pytest.mark.parametrize("text", ["{", '{"format": 9, "today": ""}', '{"format": 1}'])
def test_a_damaged_plan_is_told(text: str, finished: TrainResult, tmp_path: Path, home: Path) -> None:
    run_dir = reopened(finished, tmp_path / "run")
    (run_dir / "plan.json").write_text(text)
    with pytest.raises(RunError, match="newer version" if "9" in text else "damaged"):
        resume(run_dir)


# Changes that are accepted by name, in a run without stages


def interrupted(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    fit = stage.fit
    with monkeypatch.context() as patch:
        patch.setattr(stage, "fit", lambda *args, **kwargs: fit(*args, **{**kwargs, "should_stop": Asked(2)}))
        assert train(recipe).status == "interrupted"
    return Path(recipe.output_dir)


class Asked:
    """Says stop at the n-th question."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_what_is_accepted_by_name_acts_from_there_on(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(chat_model, conversations, tmp_path / "run", **{**SHORT, "lr_scheduler": "constant"})
    run_dir = interrupted(recipe, monkeypatch)
    done = len(events(run_dir, "step"))
    assert 0 < done < 3
    changed = recipe.model_copy(update={"learning_rate": 5e-3})
    write_text(run_dir / "recipe.yaml", dump_recipe(changed))
    with pytest.raises(RunError, match=r"learning_rate was 0\.01 and is 0\.005"):
        resume(run_dir)
    with pytest.raises(RunError, match="nonsense cannot be accepted"):
        resume(run_dir, accept=["nonsense"])
    assert resume(run_dir, accept=["learning_rate"]).status == "finished"
    assert [event["learning_rate"] for event in events(run_dir, "step")] == [1e-2] * done + [5e-3] * (3 - done)
    assert any("learning_rate was 0.01" in event["text"] for event in events(run_dir, "warning"))


# Results that may not stand


def ends_with(monkeypatch: pytest.MonkeyPatch, status: str, *, wreck: bool = False) -> None:
    """The loop says that it ended like this; with `wreck` nothing has become better before."""
    fit = stage.fit

    def fitted(*args: Any, **kwargs: Any) -> str:
        fit(*args, **kwargs)
        if wreck:
            kwargs["progress"].best_loss = 1e9
        return status

    monkeypatch.setattr(stage, "fit", fitted)


@pytest.fixture
def recipe(chat_model: Path, conversations: Path, tmp_path: Path, home: Path) -> Recipe:
    return make_recipe(chat_model, conversations, tmp_path / "run", **SHORT)


def test_after_a_divergence_the_best_is_kept_and_not_published(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with(monkeypatch, "diverged")
    result = train(recipe)
    assert (result.status, result.adapter_dir) == ("diverged", None)
    assert result.rejected_dir == result.run_dir / "rejected" and "diverged" in result.text
    best = result.run_dir / "checkpoints/step-000003/adapter_model.safetensors"
    kept = tensors(result.rejected_dir / "adapter_model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors(best).items())
    with pytest.raises(RunError, match="this run is finished: the training diverged"):
        resume(result.run_dir)
    with pytest.raises(RunError, match=r"was not accepted: the training diverged\n  → luthier chat .*rejected"):
        load(result.run_dir)
    model = load(result.rejected_dir)
    assert model.note == "this result was not accepted: the training diverged"
    assert model.adapter is not None and isinstance(model.answer("Hi", max_new_tokens=2), str)
    model.close()


def test_a_divergence_before_anything_got_better_keeps_nothing(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with(monkeypatch, "diverged", wreck=True)
    result = train(recipe)
    assert (result.status, result.adapter_dir, result.rejected_dir) == ("diverged", None, None)
    assert "nothing is kept" in result.text
    assert not (result.run_dir / "adapter").exists() and not (result.run_dir / "rejected").exists()
    with pytest.raises(RunError, match="nothing is kept"):
        load(result.run_dir)
    with pytest.raises(RunError, match="this run is finished"):
        resume(result.run_dir)


def test_a_divergence_without_validation_keeps_the_newest_checkpoint_if_it_learned(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(monkeypatch, "diverged")
    result = train(make_recipe(chat_model, conversations, tmp_path / "run", **{**SHORT, "val_set_size": 0.0}))
    assert result.status == "diverged" and result.rejected_dir is not None and result.comparison is None


def test_stopped_for_forgetting_is_published_only_if_it_is_clearly_better(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(monkeypatch, "forgetting")
    result = train(recipe)
    assert result.comparison is not None and result.comparison.verdict == "clearly better"
    assert (result.status, result.adapter_dir) == ("forgetting", result.run_dir / "adapter")
    other = recipe.model_copy(update={"output_dir": str(tmp_path / "other"), "val_set_size": 0.0})
    result = train(other)
    assert (result.status, result.adapter_dir) == ("not accepted", None)
    assert "stopped for forgetting" in result.text


def test_an_adapter_of_the_embedding_alone_is_published(recipe: Recipe) -> None:
    result = train(recipe.model_copy(update={"lora_targets": ["embed_tokens"], "learning_rate": 1e-2}))
    assert result.status == "finished" and result.adapter_dir is not None
    names = tensors(result.adapter_dir / "adapter_model.safetensors")
    assert names and all("embed_tokens" in name for name in names)


def test_an_adapter_that_changes_nothing_is_not_published(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainAdamW, "step", lambda self, rate, shrink: None)
    result = train(recipe)
    assert result.status == "not accepted" and "it changes nothing" in result.text


def test_numbers_that_are_not_finite_are_never_published(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = stage.fit

    def broken(*args: Any, **kwargs: Any) -> str:
        status = fit(*args, **kwargs)
        with torch.no_grad():
            args[1].flat[7] = float("nan")
        return status

    monkeypatch.setattr(stage, "fit", broken)
    result = train(recipe)
    assert result.status == "not accepted" and "not finite" in result.text and result.adapter_dir is None


def test_what_does_not_read_back_is_not_published(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(folder: Path, spec: Any, **options: Any) -> Adapter:
        adapter = read(folder, spec, **options)
        with torch.no_grad():
            adapter.flat.add_(0.5)
        return adapter

    read = publish.load_adapter
    monkeypatch.setattr(publish, "load_adapter", shifted)
    result = train(recipe)
    assert result.status == "not accepted" and "nats a token off" in result.text
    assert not (result.run_dir / "adapter").exists() and result.rejected_dir is None


def test_bits_that_differ_and_mean_the_same_are_published(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def nudged(folder: Path, spec: Any, **options: Any) -> Adapter:
        adapter = read(folder, spec, **options)
        with torch.no_grad():
            adapter.flat.mul_(1 + 1e-6)
        return adapter

    read = publish.load_adapter
    monkeypatch.setattr(publish, "load_adapter", nudged)
    assert train(recipe).status == "finished"


def test_a_stage_that_diverges_ends_the_training(
    chat_model: Path, conversations: Path, special: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(monkeypatch, "diverged", wreck=True)
    result = train(make_plan(chat_model, conversations, special, tmp_path / "run"))
    assert (result.status, result.adapter_dir, result.rejected_dir) == ("diverged", None, None)
    assert [part.state for part in read_plan(result.run_dir).stages] == ["rejected", "waiting"]
    (gate,) = events(result.run_dir, "gate")
    assert gate["status"] == "diverged" and not gate["passed"] and "nothing is kept" in gate["text"]


@pytest.mark.parametrize(
    ("status", "code"),
    [("finished", 0), ("early stop", 0), ("overfitting", 0), ("diverged", 3), ("forgetting", 4)],
)
def test_the_exit_code_says_how_it_ended(
    status: str,
    code: int,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ends_with(monkeypatch, status)
    write_text(tmp_path / "recipe.yaml", dump_recipe(recipe))
    monkeypatch.setattr(sys, "argv", ["luthier", "train", str(tmp_path / "recipe.yaml")])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    printed = capsys.readouterr()
    assert leaving.value.code == code, printed
    assert ("rejected" in printed.out) == (status == "diverged")
    if code:
        assert status in printed.err
    assert events(Path(recipe.output_dir), "end")[-1]["status"] == status


def test_accept_is_for_runs_that_go_on(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match="--accept is for a run that goes on"):
        cli.train.train(None, recipe=tmp_path / "recipe.yaml", accept=["seed"])  # type: ignore[arg-type]


def test_manifest_of_a_stage_names_its_parent(finished: TrainResult) -> None:
    first, second = (
        read_json(finished.run_dir / f"stages/{name}/manifest.json") for name in ("01-broad", "02-special")
    )
    assert "parent" not in first and second["parent"]["name"] == "broad"
