"""The time that `luthier check` names: what it counts, and on what it stands."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_runs import make_recipe, rows_of, write_rows
from luthier.models.device import Place
from luthier.stages import estimate
from luthier.stages.check import check
from luthier.stages.estimate import estimated_seconds

QUIET = {"max_forgetting": None, "replay_share": 0.0, "num_samples": 0, "max_steps": 20, "eval_steps": 20}


@pytest.fixture(autouse=True)
def steady_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "matmul_flops", lambda dtype: 1e9)


def seconds(model: Path, data: Path, output_dir: Path, **fields: Any) -> float:
    checked = check(make_recipe(model, data, output_dir, **{**QUIET, **fields}))
    checked.close()
    found = estimated_seconds(checked)
    assert found is not None
    return found


def test_all_that_takes_time_is_counted(chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    general = write_rows(tmp_path / "general.jsonl", rows_of(("oak", "elm", "ash", "fir", "yew", "box", "bay", "fig")))
    run = tmp_path / "run"
    alone = seconds(chat_model, conversations, run)
    for more in (
        {"max_steps": 40, "eval_steps": 40},
        {"eval_steps": 2},
        {"val_set_size": 0.4, "eval_steps": 1},
        {"replay_share": 0.2, "general_datasets": [str(general)]},
        {"replay_share": 0.05},  # the base writes its own
        {"max_forgetting": 0.08},
        {"num_samples": 4},
        {"learning_rate": "auto"},
    ):
        assert seconds(chat_model, conversations, run, **more) > 1.01 * alone, more
    replays = {"replay_share": 0.05, "general_datasets": [str(general)]}
    assert seconds(chat_model, conversations, run, **replays) < seconds(
        chat_model, conversations, run, replay_share=0.05
    ), "texts that are given need not be written"
    watched = {"max_forgetting": 0.08, "general_datasets": [str(general)]}
    assert seconds(chat_model, conversations, run, **watched) < seconds(
        chat_model, conversations, run, max_forgetting=0.08
    )


def test_the_work_of_the_training_alone(chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    """Forward and backward through the frozen weights, at the machine's speed and half as much again."""
    checked = check(make_recipe(chat_model, conversations, tmp_path / "run", **QUIET, val_set_size=0.0))
    checked.close()
    prepared = checked.prepared
    tokens = sum(len(prepared.train[i].ids) for _, step in prepared.settings.steps for micro in step for i in micro)
    tables = (1 if prepared.spec.tied else 2) * prepared.spec.vocab_size * prepared.spec.hidden_size
    weights = prepared.spec.num_parameters - tables
    least, found = 1.5 * 4 * weights * tokens / 1e9, estimated_seconds(checked)
    assert found is not None and least < found < least * 3


def test_an_evaluation_reads_the_rows_of_the_task_four_times(
    chat_model: Path, conversations: Path, tmp_path: Path
) -> None:
    """The tuned model and the base over their own prompts, and two passes for what prompts tell."""
    general = write_rows(tmp_path / "general.jsonl", rows_of(("oak", "elm", "ash", "fir")))
    read = []
    for eval_steps in (20, 10):
        fields = {**QUIET, "max_forgetting": 0.08, "general_datasets": [str(general)], "eval_steps": eval_steps}
        checked = check(make_recipe(chat_model, conversations, tmp_path / "run", **fields))
        checked.close()
        read.append(estimate._watched(checked.prepared))
    assert 4 * 4096 < read[1] - read[0] < 5 * 4096


def test_of_a_gpu_nothing_is_said(chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    checked = check(make_recipe(chat_model, conversations, tmp_path / "run", **QUIET))
    checked.close()
    on_gpu = replace(checked.prepared, place=Place(torch.device("cuda"), torch.bfloat16, ""))
    assert estimated_seconds(replace(checked, prepared=on_gpu)) is None
