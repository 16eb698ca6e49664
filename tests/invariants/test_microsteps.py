"""How a step is cut into microsteps changes neither its loss nor its update, through the real loop."""

from pathlib import Path

from helpers_numerics import assert_same
from helpers_runs import events, make_recipe, tensors
from luthier.stages.run import train


def test_one_microstep_is_many_microsteps(home: Path, chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    losses, adapters = [], []
    for micro in (512, 64):
        recipe = make_recipe(
            chat_model, conversations, tmp_path / str(micro), batch_tokens=512, micro_batch_tokens=micro, max_steps=3
        )
        run_dir = train(recipe).run_dir
        losses.append([(event["loss"], event["grad_norm"]) for event in events(run_dir, "step")])
        adapters.append(tensors(run_dir / "adapter" / "adapter_model.safetensors"))
    for one, many in zip(*losses, strict=True):
        assert all(abs(a - b) < 1e-4 * abs(a) for a, b in zip(one, many, strict=True)), losses
    for name, tensor in adapters[0].items():
        assert_same(adapters[1][name], tensor, tolerance=0.02, what=name)  # Adam magnifies rounding where g is near 0


def test_so_it_is_with_a_gradient_in_bf16(home: Path, chat_model: Path, conversations: Path, tmp_path: Path) -> None:
    """Each microstep rounds what it adds to 1 part in 256; the norm over all weights feels far less of it."""
    seen = []
    for micro in (512, 64):
        fields = {"batch_tokens": 512, "micro_batch_tokens": micro, "max_steps": 3, "adapter_dtype": "bf16"}
        run_dir = train(make_recipe(chat_model, conversations, tmp_path / str(micro), **fields)).run_dir
        seen.append([(event["loss"], event["grad_norm"]) for event in events(run_dir, "step")])
    (one, *_), (many, *_) = seen
    assert abs(one[1] - many[1]) < 1e-3 * one[1], seen
    for one, many in zip(*seen, strict=True):
        assert abs(one[0] - many[0]) < 1e-3 * one[0], seen
