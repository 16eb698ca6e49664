"""Whole runs of models that `transformers` runs: they say so, learn, are resumed to the bit, and can be talked to."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_fallback import make_other_chat
from helpers_runs import events, make_recipe, same, tensors
from luthier.core.errors import RecipeError
from luthier.models.fallback import FallbackDecoder
from luthier.serve.chat import load
from luthier.stages.check import check
from luthier.stages.interrupt import Interrupt
from luthier.stages.run import resume, train

FIELDS: dict[str, Any] = {
    "max_steps": 4, "eval_steps": 4, "save_steps": 2, "num_samples": 1, "batch_tokens": 512,
    "micro_batch_tokens": 256, "learning_rate": 1e-2,
}  # fmt: skip
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("olmo2", {}),
    "gpt2 in 4 bits": ("gpt2", {"adapter": "qlora"}),
    "mixtral with dropout, layers twice": ("mixtral", {"lora_dropout": 0.2, "gradient_checkpointing": True}),
    "mamba2": ("mamba2", {}),
    "cohere with dora": ("cohere", {"dora": True, "lora_targets": ["q_proj", "down_proj"]}),
}


@pytest.fixture(params=RUNS, scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    kind, options = RUNS[request.param]
    return make_other_chat(tmp_path_factory.mktemp("other") / "model", kind), {**FIELDS, **options}


@pytest.fixture(scope="module")
def olmo2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_other_chat(tmp_path_factory.mktemp("other") / "olmo2", "olmo2")


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


def test_stopped_and_resumed_is_straight(
    run: tuple[Path, dict[str, Any]], conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fields = run
    straight = train(make_recipe(model, conversations, tmp_path / "straight", **fields))
    recipe = make_recipe(model, conversations, tmp_path / "stopped", **fields)
    assert train(recipe, listen=stop_after(monkeypatch, 3)).status == "interrupted"
    assert resume(tmp_path / "stopped").status == "finished"
    assert same(weights(straight.run_dir), weights(tmp_path / "stopped"))
    assert straight.comparison is not None and straight.comparison.after < straight.comparison.before

    (start,) = events(straight.run_dir, "start")
    assert any("which is the slower path" in note for note in start["data"]["notes"])
    assert "which is the slower path" in straight.report.read_text(encoding="utf-8")
    talk = load(straight.run_dir)
    assert isinstance(talk.decoder, FallbackDecoder)
    stored, held = weights(straight.run_dir), talk.adapter.named()
    assert stored.keys() == held.keys() and all(torch.equal(stored[name], held[name]) for name in stored)
    assert isinstance(talk.answer("What is a violin?", max_new_tokens=4), str)
    talk.close()


def test_the_loss_falls(olmo2: Path, conversations: Path, tmp_path: Path, home: Path) -> None:
    fields = FIELDS | {"max_steps": 20, "eval_steps": 20, "num_samples": 0}
    held = train(make_recipe(olmo2, conversations, tmp_path / "run", **fields)).comparison
    assert held is not None and held.after < 0.9 * held.before


def test_it_is_cut_into_microsteps_as_one_likes(olmo2: Path, conversations: Path, tmp_path: Path, home: Path) -> None:
    """The first step's loss and gradient do not depend on it."""
    made = []
    for micro in (512, 64):
        fields = FIELDS | {"max_steps": 1, "micro_batch_tokens": micro, "num_samples": 0}
        result = train(make_recipe(olmo2, conversations, tmp_path / str(micro), **fields))
        made.append(events(result.run_dir, "step")[0])
    assert made[0]["loss"] == pytest.approx(made[1]["loss"], rel=1e-5)
    assert made[0]["grad_norm"] == pytest.approx(made[1]["grad_norm"], rel=1e-3)


def test_the_check_says_so_and_estimates(olmo2: Path, conversations: Path, tmp_path: Path, home: Path) -> None:
    costs = {}
    for name, options in {"plain": {}, "again": {"gradient_checkpointing": True}}.items():
        result = check(make_recipe(olmo2, conversations, tmp_path / "run", **FIELDS, **options))
        costs[name] = result.memory_bytes
        notes = result.prepared.accounts.notes
        result.prepared.close()
    assert notes[0].startswith("no family of ours covers model_type: olmo2: ")
    assert "transformers' own Olmo2ForCausalLM, which is the slower path" in notes[0]
    assert any(note.startswith("while it is loaded, host memory holds all of it in fp32") for note in notes)
    assert costs["again"] < costs["plain"]


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "head in 4 bits": ("olmo2", {"adapter": "qlora", "nf4_head": True}, "nf4_head is for our own families"),
    "embedding on the host": ("olmo2", {"embedding_on_host": True}, "embedding_on_host is for our own families"),
    "head": ("olmo2", {"lora_targets": ["q_proj", "lm_head"]}, "the model has no lm_head.*\n.*choose of q_proj"),
    "a linear it has not": ("gpt2", {"lora_targets": ["q_proj"]}, "the model has no q_proj.*\n.*choose of c_attn"),
}


@pytest.mark.parametrize(("kind", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_it_cannot_do_is_refused_before_anything_is_loaded(
    kind: str, options: dict[str, Any], said: str, conversations: Path, tmp_path: Path, home: Path
) -> None:
    model = make_other_chat(tmp_path / "model", kind)
    with pytest.raises(RecipeError, match=said):
        check(make_recipe(model, conversations, tmp_path / "run", **options))


def test_layers_that_cannot_run_twice_are_refused(conversations: Path, tmp_path: Path, home: Path) -> None:
    model = make_other_chat(tmp_path / "model", "gpt_neox_japanese")
    with pytest.raises(RecipeError, match="cannot run twice"):
        check(make_recipe(model, conversations, tmp_path / "run", gradient_checkpointing=True))
