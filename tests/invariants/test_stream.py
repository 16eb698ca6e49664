"""What must not change the result: packing, the cut into microsteps, an adapter that is off or fresh."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers_models import decoder_of, full_adapter, make_twin
from helpers_numerics import assert_same
from luthier.data.collate import collate
from luthier.data.render import Row
from luthier.kernels.frozen_linear import FrozenWeight
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.models.weights import load_decoder

LENGTHS = [5, 1, 23, 300, 2, 40]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = tmp_path_factory.mktemp("model")
    make_twin(folder, "llama", max_position_embeddings=512)
    return decoder_of(folder)


def stream() -> tuple[torch.Tensor, Segments]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 160, (sum(LENGTHS),), generator=generator), Segments.of(LENGTHS)


class Counted:
    """A weight that notes each x Wᵀ."""

    def __init__(self, weight: FrozenWeight, products: list[int]) -> None:
        self._weight, self._products, self.shape = weight, products, weight.shape
        self.backward, self.dense = weight.backward, weight.dense

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        self._products.append(len(x))
        return self._weight.forward(x, bias)


@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["v_proj"]])
def test_layers_that_run_again_give_the_same_bits(tmp_path: Path, nf4: bool, targets: list[str]) -> None:
    make_twin(tmp_path, "qwen3", head_dim=16)
    tokens, segments, made = torch.arange(40) * 7 % 150, Segments.of([25, 15]), []
    products: list[int] = []
    for again in ((), range(2), [1]):
        decoder = load_decoder(tmp_path, dtype=torch.float32, nf4=nf4)
        decoder.recomputed = again
        for layer in decoder.layers:
            for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
                linear.weight = Counted(linear.weight, products)
        adapter = full_adapter(decoder, targets=targets)
        logprobs = decoder.logprobs(tokens, segments, torch.tensor([3, 9, 30, 31, 39]), adapter)
        (-logprobs.sum()).backward()
        made.append((logprobs.detach(), adapter.grad.clone(), len(products)))
        products.clear()
    for logprobs, grad, _ in made[1:]:
        assert torch.equal(logprobs, made[0][0]) and torch.equal(grad, made[0][1])
    assert made[0][1].abs().max() > 0
    # Four products a layer, and in the second run three: the last one's output is not needed.
    assert [number for *_, number in made] == [8, 8 + 2 * 3, 8 + 3]


def test_packed_is_alone(decoder: Decoder) -> None:
    tokens, segments = stream()
    adapter = full_adapter(decoder)
    packed = decoder.hidden(tokens, segments, adapter)
    for start, end in segments.spans:
        alone = decoder.hidden(tokens[start:end], Segments.of([end - start]), adapter)
        assert_same(packed[start:end], alone, tolerance=1e-5)


def test_a_segment_does_not_see_its_neighbours(decoder: Decoder) -> None:
    tokens, segments = stream()
    changed = tokens.clone()
    changed[: LENGTHS[0]] = 7
    before, after = decoder.hidden(tokens, segments), decoder.hidden(changed, segments)
    assert torch.equal(before[LENGTHS[0] :], after[LENGTHS[0] :])
    assert not torch.equal(before[: LENGTHS[0]], after[: LENGTHS[0]])


def test_one_times_all_is_all_times_one(decoder: Decoder) -> None:
    """The gradient of a step does not depend on how it is cut; not even its mean drifts."""
    tokens, segments = stream()
    targets = [torch.arange(s + (e - s) // 3 + 1, e) for s, e in segments.spans]
    number = sum(len(t) for t in targets)
    whole, parts = full_adapter(decoder), full_adapter(decoder)
    (-decoder.logprobs(tokens, segments, torch.cat(targets), whole).sum() / number).backward()
    for (start, end), target in zip(segments.spans, targets, strict=True):
        if len(target):
            single = Segments.of([end - start])
            (-decoder.logprobs(tokens[start:end], single, target - start, parts).sum() / number).backward()
    assert_same(parts.grad, whole.grad, tolerance=1e-5)
    assert abs((parts.grad - whole.grad).mean()) < 1e-7 * whole.grad.abs().mean() * 100


def test_a_fresh_adapter_is_the_base_bit_for_bit(decoder: Decoder) -> None:
    tokens, segments = stream()
    fresh = Adapter(decoder.spec, 4, 8)
    assert torch.equal(decoder.hidden(tokens, segments, fresh), decoder.hidden(tokens, segments))


def test_a_fresh_adapter_is_the_base_in_bf16(tmp_path: Path) -> None:
    make_twin(tmp_path, "qwen2")
    decoder = decoder_of(tmp_path, torch.bfloat16)
    tokens = torch.arange(3, 50)
    segments = Segments.of([20, 27])
    assert torch.equal(decoder.hidden(tokens, segments, Adapter(decoder.spec, 4, 8)), decoder.hidden(tokens, segments))


def test_gradients_accumulate_in_the_flat_buffer(decoder: Decoder) -> None:
    tokens, segments = stream()
    adapter = full_adapter(decoder)
    target = torch.tensor([2, 50, 100])
    (-decoder.logprobs(tokens, segments, target, adapter).sum()).backward()
    once = adapter.grad.clone()
    (-decoder.logprobs(tokens, segments, target, adapter).sum()).backward()
    assert_same(adapter.grad, 2 * once, tolerance=1e-6)
    assert adapter.flat.grad is adapter.grad


def test_a_shared_beginning_changes_nothing(decoder: Decoder) -> None:
    """Rows that begin alike, once: the same log-probabilities and the same gradient as each row by itself."""
    generator = torch.Generator().manual_seed(2)
    common = torch.randint(3, 160, (30,), generator=generator).tolist()
    rows = []
    for length in (5, 1, 290, 12):
        tokens = np.array([*common, *torch.randint(3, 160, (length,), generator=generator).tolist()], np.int32)
        mask = np.zeros(len(tokens), bool)
        mask[29:] = True  # the first target is shared, and so is the token that predicts the second
        rows.append(Row(tokens, mask, "", "", ""))
    together, alone = full_adapter(decoder), full_adapter(decoder)
    stream = collate(rows)
    assert len(stream.tokens) == 30 + 5 + 1 + 290 + 12
    segments = Segments.of(stream.lengths, parents=stream.parents)
    shared = decoder.logprobs(stream.tokens, segments, stream.targets, together)
    (-shared.sum()).backward()
    for index, row in enumerate(rows):
        tokens = torch.from_numpy(row.ids).long()
        single = decoder.logprobs(tokens, Segments.of([len(tokens)]), torch.from_numpy(row.mask).nonzero()[:, 0], alone)
        (-single.sum()).backward()
        assert_same(shared[stream.target_rows == index], single, tolerance=1e-5)
    assert_same(together.grad, alone.grad, tolerance=1e-5)
