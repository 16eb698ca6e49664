"""What a person can get wrong around a run: one clear error, exit code 1, nothing half made in the way."""

import json
import sys
from pathlib import Path

import pytest
import torch

from helpers_runs import events, make_recipe, rows_of, talk, tensors, write_rows
from luthier import cli
from luthier.core.errors import LuthierError, ModelError, RunError
from luthier.stages import session
from luthier.stages.check import check
from luthier.stages.run import resume, train
from luthier.train import step


def refused(recipe_values: dict[str, object], *expected: str) -> None:
    """Both check and train refuse with all the expected words, and the output folder does not block another try."""
    recipe = make_recipe(**recipe_values)
    for act in (lambda: check(recipe), lambda: train(recipe)):
        with pytest.raises(LuthierError) as caught:
            act()
        for words in expected:
            assert words in str(caught.value), str(caught.value)
    left = Path(recipe.output_dir)
    assert not left.exists() or [path.name for path in left.iterdir()] in ([], [".lock"])


@pytest.fixture
def parts(home: Path, model_copy: Path, conversations: Path, tmp_path: Path) -> dict[str, object]:
    return {"model": model_copy, "data": conversations, "output_dir": tmp_path / "run"}


def test_model_without_weights(parts: dict[str, object], model_copy: Path) -> None:
    (model_copy / "model.safetensors").unlink()
    refused(parts, str(model_copy), "safetensors")


def test_truncated_weights(parts: dict[str, object], model_copy: Path) -> None:
    file = model_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(parts, "model.safetensors")


def test_unsupported_architecture_is_named(parts: dict[str, object], model_copy: Path) -> None:
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps({**config, "model_type": "newest"}))
    refused(parts, '"newest"', "llama")


def test_model_without_template(parts: dict[str, object], model_copy: Path) -> None:
    (model_copy / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((model_copy / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model_copy / "tokenizer_config.json").write_text(json.dumps(config))
    refused(parts, "no chat template", "chat_template: FILE.jinja")


def test_hub_id_that_is_not_here(parts: dict[str, object]) -> None:
    refused({**parts, "model": "some-org/some-model"}, "luthier model add some-org/some-model")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([*rows_of(), "{broken"], ["rows.jsonl:41"]),
        ([], ["no rows"]),
        ([{"messages": [{"role": "user", "content": "Hi"}]}], ["rows.jsonl:1"]),
        ([{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}], ["rows.jsonl:1"]),
        ([talk("Hi", "Hello", group="one") for _ in range(5)], ["validation set is empty", "val_set_size: 0"]),
    ],
    ids=["broken line", "empty file", "no answer", "roles out of order", "one group"],
)
def test_data(parts: dict[str, object], tmp_path: Path, rows: list[object], expected: list[str]) -> None:
    refused({**parts, "data": write_rows(tmp_path / "rows.jsonl", rows)}, *expected)


def test_all_labels_cut_away(parts: dict[str, object]) -> None:
    refused({**parts, "sequence_len": 16}, "sequence_len 16", "would keep 95 %")


def test_no_space(parts: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.stages.check.free_disk", lambda path: 1_000_000)
    refused(parts, "free", "output_dir")


def test_output_folder_that_is_not_empty(parts: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    for act in (check, train):
        with pytest.raises(RunError, match="not empty"):
            act(make_recipe(**parts))
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"


def test_output_folder_that_holds_a_run(parts: dict[str, object]) -> None:
    recipe = make_recipe(**parts)
    train(recipe)
    with pytest.raises(RunError, match="--resume"):
        train(recipe)


def test_weights_that_fail_late_leave_the_folder_usable(
    parts: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(**parts)

    def fail(*args: object, **kwargs: object) -> None:
        raise ModelError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(session, "load_decoder", fail)
        with pytest.raises(ModelError, match="gone"):
            train(recipe)
    assert train(recipe).status == "finished"


def test_a_loss_that_stays_not_finite_ends_the_run_and_the_best_is_kept(
    parts: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(**{**parts, "max_steps": 30, "save_steps": 1, "eval_steps": 2})
    calls = 0

    def poisoned(logprobs: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return -logprobs.sum() * (float("nan") if calls > 8 else 1)

    monkeypatch.setattr(step, "sft_loss", poisoned)
    result = train(recipe)
    (end,) = events(result.run_dir, "end")
    assert result.status == end["status"] == "diverged" and result.report.is_file()
    assert result.adapter_dir is None and result.rejected_dir is not None
    assert all(
        tensor.isfinite().all() for tensor in tensors(result.rejected_dir / "adapter_model.safetensors").values()
    )
    with pytest.raises(RunError, match="this run is finished: the training diverged"):
        resume(result.run_dir)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base_model: m\ndatasets: [d]\noutput_dir: o\nlora_rnk: 4\n", ["recipe.yaml:4", "lora_r"]),
        ("base_model: m\ndatasets: [d]\noutput_dir: o\nlearning_rate: fast\n", ["recipe.yaml:4", "learning_rate"]),
        ("base_model: [\n", ["recipe.yaml"]),
    ],
)
def test_the_command_line_says_it_in_one_place(
    text: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["luthier", "check", "recipe.yaml"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    printed = capsys.readouterr()
    assert exit_.value.code == 1
    assert all(words in printed.err for words in expected), printed.err
    assert "Traceback" not in printed.err
