"""The adapter put into the linears for answering: the same sums, and nothing else changed."""

from pathlib import Path

import pytest
import torch

from helpers_models import decoder_of, full_adapter, make_twin
from helpers_numerics import assert_same, assert_within_budget, randn
from luthier.kernels.segments import Segments
from luthier.models.answering import AdaptedWeight, put_together
from luthier.models.decoder import Decoder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = tmp_path_factory.mktemp("model")
    make_twin(folder, "qwen2")
    return decoder_of(folder)


@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "v_proj"], ["q_proj", "v_proj"], ["v_proj"]])
def test_an_adapted_weight_is_the_sum(decoder: Decoder, targets: list[str]) -> None:
    adapter = full_adapter(decoder, targets=targets)
    pair, base = adapter.layers[1]["qkv"], decoder.layers[1].qkv.weight
    weight = AdaptedWeight(base, pair, adapter.scale, torch.float32)
    dense = base.dense().double()
    for i, (b, start) in enumerate(zip(pair.bs, pair.starts, strict=True)):
        a = pair.a[i * adapter.rank : (i + 1) * adapter.rank].detach().double()
        dense[start : start + len(b)] += adapter.scale * b.detach().double() @ a
    x, dy, bias = (randn(*shape, dtype=torch.float32) for shape in ((3, 48), (3, len(dense)), (len(dense),)))
    assert weight.shape == base.shape
    assert_same(weight.dense(), dense, tolerance=1e-6)
    assert_same(weight.forward(x, bias), x.double() @ dense.T + bias, tolerance=1e-6)
    assert_same(weight.backward(dy), dy.double() @ dense, tolerance=1e-6)


def test_nothing_else_is_changed(decoder: Decoder) -> None:
    adapter = full_adapter(decoder)
    layers, weights, pairs = list(decoder.layers), [layer.qkv.weight for layer in decoder.layers], list(adapter.layers)
    together, rest = put_together(decoder, adapter)
    assert layers == decoder.layers and weights == [layer.qkv.weight for layer in decoder.layers]
    assert all(ours is theirs for ours, theirs in zip(adapter.layers, pairs, strict=True))
    assert all(not left for left in rest.layers) and all(pairs)
    assert together.embedding is decoder.embedding and together.head is decoder.head


def test_in_bf16_it_is_as_near_as_the_adapter_beside(tmp_path: Path, decoder: Decoder) -> None:
    make_twin(tmp_path, "qwen2")
    tokens, segments = torch.arange(3, 43), Segments.of([25, 15])
    made = {}
    for dtype in (torch.float64, torch.bfloat16):
        narrow = decoder_of(tmp_path, dtype)
        adapter = full_adapter(narrow)
        with torch.no_grad():
            made[dtype] = narrow.hidden(tokens, segments, adapter)
            together, rest = put_together(narrow, adapter)
            made["ours"] = together.hidden(tokens, segments, rest)
    assert_within_budget(made["ours"], made[torch.bfloat16], made[torch.float64], margin=5e-3)
