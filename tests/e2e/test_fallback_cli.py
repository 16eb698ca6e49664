"""A model that `transformers` runs, through the real command line: check, train and chat each say so or just work."""

from pathlib import Path

import pytest

from helpers_cli import Desk
from helpers_fallback import change_config, make_other_chat
from helpers_runs import events


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, conversations: Path) -> Desk:
    """One desk for the module; its tests are steps of one piece of work."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    (desk.folder / "talks.jsonl").write_bytes(conversations.read_bytes())
    make_other_chat(desk.folder / "model", "qwen2_moe")
    desk.run("init", "recipe.yaml", "--model", "model", "--data", "talks.jsonl", "--output", "run")
    return desk


FAST = ("lora_r=2", "batch_tokens=256", "val_set_size=0.2", "num_samples=1", "max_new_tokens=3", "num_epochs=40",
        "dtype=fp32", "lora_targets=[q_proj, o_proj, up_proj]", "replay_share=0", "max_forgetting=null")  # fmt: skip


def test_check_train_and_chat(desk: Desk) -> None:
    out, err = desk.run("check", "recipe.yaml", *FAST)
    said = " ".join(out.split())
    assert "no family of ours covers model_type: qwen2_moe" in said and "which is the slower path" in said
    assert "mlp.experts.gate_up_proj" in said and "warning" not in err
    out, err = desk.run("train", "recipe.yaml", *FAST, "max_steps=12", "learning_rate=2e-2")
    assert "which is the slower path" in " ".join(out.split()) and "warning" not in err
    (held,) = events(desk.folder / "run", "heldout")
    assert held["after"] < held["before"]
    out, _ = desk.run("chat", "run", "--prompt", "What is a violin?", "--compare", "--max-new-tokens", "4")
    assert "base" in out and "tuned" in out


def test_a_type_that_nobody_knows_is_refused_by_name(desk: Desk) -> None:
    change_config(desk.folder / "model", model_type="phi3small")
    _, err = desk.run("check", "recipe.yaml", "output_dir=other", code=1)
    assert 'architecture "phi3small" is not supported' in " ".join(err.split())
