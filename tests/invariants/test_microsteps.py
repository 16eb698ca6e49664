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
