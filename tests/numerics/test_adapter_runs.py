"""Whole runs with the adapter's options: resumed to the bit, the same with layers that run twice, and talked to."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_runs import events, make_recipe, same, tensors
from luthier.core.files import read_json
from luthier.serve.chat import load
from luthier.stages.interrupt import Interrupt
from luthier.stages.run import resume, train

FIELDS: dict[str, Any] = {
    "max_steps": 4, "eval_steps": 4, "save_steps": 2, "num_samples": 0, "batch_tokens": 512,
    "micro_batch_tokens": 256, "learning_rate": 1e-2,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "dropout": {"lora_dropout": 0.3, "gradient_checkpointing": True},
    "dora with dropout": {"dora": True, "lora_dropout": 0.1},
    "head and embedding with dropout": {"lora_targets": ["up_proj", "lm_head", "embed_tokens"], "lora_dropout": 0.3},
}


def weights(run_dir: Path) -> dict[str, Any]:
    return tensors(run_dir / "adapter/adapter_model.safetensors")


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


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_stopped_and_resumed_is_straight(
    options: dict[str, Any],
    chat_model: Path,
    conversations: Path,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = {**FIELDS, **options}
    straight = train(make_recipe(chat_model, conversations, tmp_path / "straight", **fields)).run_dir
    recipe = make_recipe(chat_model, conversations, tmp_path / "stopped", **fields)
    assert train(recipe, listen=stop_after(monkeypatch, 3)).status == "interrupted"
    assert resume(tmp_path / "stopped").status == "finished"
    assert same(weights(straight), weights(tmp_path / "stopped"))
    config = read_json(straight / "adapter/adapter_config.json")
    assert config["lora_dropout"] == options["lora_dropout"] and config["use_dora"] == options.get("dora", False)
    talk = load(straight)
    stored, held = weights(straight), talk.adapter.named()
    assert stored.keys() == held.keys() and all(torch.equal(stored[name], held[name]) for name in stored)


def test_dropout_is_the_same_when_layers_run_twice_and_off_in_validation(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path
) -> None:
    plain, dropped, again = (
        train(make_recipe(chat_model, conversations, tmp_path / str(i), **FIELDS, **options)).run_dir
        for i, options in enumerate(({}, {"lora_dropout": 0.3}, {"lora_dropout": 0.3, "gradient_checkpointing": True}))
    )
    assert same(weights(dropped), weights(again)) and not same(weights(plain), weights(dropped))
    # After one step the losses of training differ; before it, with B zero, all are the base's.
    assert events(plain, "validation")[0]["loss"] == events(dropped, "validation")[0]["loss"]
    losses = [[event["loss"] for event in events(run, "step")] for run in (plain, dropped)]
    assert losses[0][0] == losses[1][0] and losses[0][1:] != losses[1][1:]


def test_a_run_with_dora_starts_at_the_base(chat_model: Path, conversations: Path, tmp_path: Path, home: Path) -> None:
    first = [
        events(train(make_recipe(chat_model, conversations, tmp_path / str(dora), **FIELDS, dora=dora)).run_dir, "step")
        for dora in (False, True)
    ]
    assert first[1][0]["loss"] == pytest.approx(first[0][0]["loss"], rel=1e-6)
    assert first[1][1]["loss"] != first[0][1]["loss"]
