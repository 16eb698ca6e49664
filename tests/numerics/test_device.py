"""The same results on every device. The CPU cases prove the tests themselves; `make test-gpu` runs the others."""

from pathlib import Path

import pytest
import torch

from helpers_models import decoder_of, full_adapter, make_twin
from helpers_numerics import assert_same, assert_within_budget, randn
from helpers_runs import events, make_chat_model, make_recipe, write_conversations
from luthier.kernels.attention import attention
from luthier.kernels.attention.naive import attention as attention_naive
from luthier.kernels.nf4 import dequantise, quantise
from luthier.kernels.nf4.naive import dequantise as nf4_naive
from luthier.kernels.segments import Segments
from luthier.models.lora import Adapter
from luthier.models.weights import load_decoder
from luthier.stages.run import train

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
STREAMS = [
    ([3, 1, 70, 300, 2], None),
    ([20, 300, 5, 64, 9], [None, 0, 0, None, 3]),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize(("lengths", "parents"), STREAMS)
def test_attention_on(
    device: str, dtype: torch.dtype, window: int | None, lengths: list[int], parents: list[int | None] | None
) -> None:
    """Forward and gradient within the error that plain PyTorch makes in the same dtype."""
    truth_segments, segments = (Segments.of(lengths, place, parents=parents) for place in ("cpu", device))
    weight = randn(sum(lengths), 6 * 16, seed=1)
    results = []
    for inputs, made, place in (
        (torch.float64, attention_naive, "cpu"), (dtype, attention_naive, device), (dtype, attention, device)
    ):  # fmt: skip
        qkv = randn(sum(lengths), (6 + 2 * 2) * 16).to(place, inputs).requires_grad_()
        out = made(qkv, truth_segments if place == "cpu" else segments, 6, 2, window)
        (out * weight.to(place, inputs)).sum().backward()
        assert qkv.grad is not None
        results.append((out.detach().cpu(), qkv.grad.cpu()))
    truth, plain, ours = results
    for which, name in enumerate(("output", "gradient")):
        assert_within_budget(ours[which], plain[which], truth[which], margin=1e-2 if dtype.itemsize == 2 else 1e-5,
                             what=f"{name} on {device}")  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(33, 70), (128, 192), (96, 4160)])
def test_nf4_on(device: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """The device quantises to the same bytes and unpacks them to the same bits as the naive form."""
    weight = (randn(*shape) * 0.02).to(dtype)
    there, here = quantise(weight.to(device)), quantise(weight)
    assert torch.equal(there.codes.cpu(), here.codes)
    made = dequantise(there, torch.empty(shape, dtype=dtype, device=device))
    assert torch.equal(made, nf4_naive(there, dtype))


@pytest.mark.parametrize("device", DEVICES)
def test_a_model_on(device: str, tmp_path: Path) -> None:
    """Log-probabilities and adapter gradients are those of the CPU."""
    make_twin(tmp_path, "llama")
    tokens = torch.randint(3, 160, (60,), generator=torch.Generator().manual_seed(3))
    targets = torch.tensor([5, 12, 13, 40, 59])
    made = []
    for place in ("cpu", device):
        decoder = load_decoder(tmp_path, dtype=torch.float32, device=torch.device(place))
        adapter = full_adapter(decoder_of(tmp_path))
        if place != "cpu":
            there = Adapter(decoder.spec, 4, 8, device=torch.device(place))
            there.flat.data.copy_(adapter.flat.data)
            adapter = there
        segments = Segments.of([10, 25, 25], place, parents=[None, 0, None])
        logprobs = decoder.logprobs(tokens.to(place), segments, targets.to(place), adapter)
        (-logprobs.sum()).backward()
        made.append((logprobs.detach().cpu(), adapter.grad.cpu()))
    for here, there in zip(*made, strict=True):
        assert_same(there, here, tolerance=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_on(device: str, tmp_path: Path) -> None:
    """The same recipe trains there, in bf16, and its loss falls."""
    recipe = make_recipe(
        make_chat_model(tmp_path / "model"), write_conversations(tmp_path / "rows.jsonl"), tmp_path / "run",
        device=device, dtype="bf16", max_steps=12, learning_rate=5e-3,
    )  # fmt: skip
    result = train(recipe)
    losses = [event["loss"] for event in events(result.run_dir, "step")]
    assert losses[-1] < losses[0]
