"""The output head in four bits, and the embedding in host memory."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers_models import full_adapter, make_twin
from helpers_numerics import assert_same, randn
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.nf4 import dequantise, quantise
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.nf4_head import NF4Head
from luthier.models.weights import base_bytes, load_decoder

CPU, META = torch.device("cpu"), torch.device("meta")
BLOCKS = {"hidden_size": 192, "intermediate_size": 320, "num_attention_heads": 6, "head_dim": 32}


def meant(weight: Tensor, slab: int) -> Tensor:
    """What slabs of so many rows stand for."""
    return torch.cat([dequantise(quantise(rows), torch.empty(rows.shape)) for rows in weight.split(slab)])


@pytest.mark.parametrize("slab", [64, 50, 160])
def test_slabs_multiply_as_the_whole(monkeypatch: pytest.MonkeyPatch, slab: int) -> None:
    monkeypatch.setattr("luthier.models.nf4_head.SLAB_ROWS", slab)
    weight = randn(160, 64, dtype=torch.float32)
    head, dense = NF4Head(weight, torch.float32, CPU), meant(weight, slab)
    x, dy = randn(7, 64, seed=1, dtype=torch.float32), randn(7, 160, seed=2, dtype=torch.float32)
    assert torch.equal(head.dense(), dense) and head.shape == weight.shape
    assert_same(head.forward(x, None), x @ dense.T, tolerance=1e-6)
    assert_same(head.backward(dy), dy @ dense, tolerance=1e-6)


def test_no_more_than_a_slab_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.models.nf4_head.SLAB_ROWS", 32)
    head, unpacked = NF4Head(randn(160, 64, dtype=torch.float32), torch.float32, CPU), []

    def noted(stored: object, out: Tensor) -> Tensor:
        unpacked.append(out.shape[0])
        return dequantise(stored, out)

    monkeypatch.setattr("luthier.models.nf4_head.dequantise", noted)
    head.backward(head.forward(torch.ones(300, 64), None))
    assert unpacked == [32] * 10


def test_the_sum_over_slabs_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.models.nf4_head.SLAB_ROWS", 16)
    weight, dy = randn(1024, 64, dtype=torch.bfloat16), randn(5, 1024, seed=3, dtype=torch.bfloat16)
    head = NF4Head(weight, torch.bfloat16, CPU)
    truth = dy.double() @ head.dense().double()
    plain, ours = (dy @ head.dense()).double(), head.backward(dy).double()
    assert (ours - truth).abs().max() <= 2 * (plain - truth).abs().max()


@pytest.mark.parametrize(("kind", "tied"), [("qwen3", False), ("qwen3", True), ("gemma2", True)])
def test_a_decoder_with_a_head_in_four_bits(tmp_path: Path, kind: str, tied: bool) -> None:
    """It is the decoder with the rounded head in its place; the embedding is what it was."""
    make_twin(tmp_path, kind, tie_word_embeddings=tied)
    four, plain = (load_decoder(tmp_path, dtype=torch.float32, nf4=True, nf4_head=head) for head in (True, False))
    assert isinstance(four.head, NF4Head) and torch.equal(four.embedding, plain.embedding)
    before = plain.head.dense()
    plain.head = DenseWeight(meant(before, len(before)))
    assert not torch.equal(before, plain.head.dense())
    tokens, made = torch.arange(30) * 7 % 150, []
    for decoder in (four, plain):
        adapter = full_adapter(decoder)
        logprobs = decoder.logprobs(tokens, Segments.of([30]), torch.arange(5, 30), adapter)
        (-logprobs.sum()).backward()
        made.append(torch.cat([logprobs.detach(), adapter.grad]))
    assert_same(made[0], made[1], tolerance=1e-5)


def held(decoder: Decoder, *, nf4: bool, device: torch.device) -> int:
    """Bytes of what the decoder holds on `device`."""
    tensors = {id(t): t for t in (decoder.embedding, decoder.norm)}
    if isinstance(decoder.head, NF4Head):
        parts = [part for slab in decoder.head.slabs for part in (slab.codes, slab.scales, slab.nested, slab.offset)]
    else:
        parts = [decoder.head.dense()]
    for layer in decoder.layers:
        parts += [value for value in vars(layer).values() if isinstance(value, Tensor)]
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            if nf4:
                parts += [t for p in linear.weight.parts for t in (p.codes, p.scales, p.nested, p.offset)]
            else:
                parts.append(linear.weight.dense())
    tensors |= {id(t): t for t in parts}
    return sum(t.nbytes for t in tensors.values() if t.device.type == device.type)


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "phi3"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("nf4_head", [True, False])
def test_memory_is_foretold(tmp_path: Path, kind: str, tied: bool, nf4_head: bool) -> None:
    """In float64, which is never packed, so that every byte can be counted."""
    make_twin(tmp_path, kind, tie_word_embeddings=tied, **(BLOCKS | {"num_key_value_heads": 2}))
    for nf4 in (True, False):
        decoder = load_decoder(tmp_path, dtype=torch.float64, nf4=nf4, nf4_head=nf4_head)
        unpacked = [
            linear.weight.shape.numel() for linear in vars(decoder.layers[0]).values() if hasattr(linear, "weight")
        ]
        largest = max([*(unpacked if nf4 else []), *([decoder.head.shape.numel()] if nf4_head else [0])])
        told = base_bytes(decoder.spec, torch.float64, CPU, nf4=nf4, nf4_head=nf4_head)
        exact = held(decoder, nf4=nf4, device=CPU) + 8 * largest
        assert told == pytest.approx(exact, rel=0.01 if nf4 or nf4_head else 0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("embedding_on_host", [True, False])
def test_an_embedding_on_the_host(tmp_path: Path, tied: bool, embedding_on_host: bool) -> None:
    """On the device that has shapes and no memory, so that what lies elsewhere is seen to, and moved."""
    make_twin(tmp_path, "qwen3", tie_word_embeddings=tied, **BLOCKS)
    decoder = load_decoder(tmp_path, dtype=torch.float32, device=META, embedding_on_host=embedding_on_host)
    elsewhere = embedding_on_host and not tied
    assert decoder.device.type == "meta" and decoder.norm.device.type == "meta"
    assert decoder.embedding.device.type == ("cpu" if elsewhere else "meta")
    assert (decoder.embedding is decoder.head.dense()) == tied  # a tied table is there once
    told = base_bytes(decoder.spec, torch.float32, META, embedding_on_host=embedding_on_host)
    assert told == held(decoder, nf4=False, device=META)
    if elsewhere:
        assert decoder._embed(torch.tensor([3, 4]), None).device.type == "meta"  # looked up here, moved there


def test_embeddings_are_the_same_wherever_they_are(tmp_path: Path) -> None:
    make_twin(tmp_path, "gemma2", tie_word_embeddings=False)
    plain, host = (load_decoder(tmp_path, dtype=torch.bfloat16, embedding_on_host=host) for host in (False, True))
    tokens = torch.arange(20)
    assert torch.equal(plain.hidden(tokens, Segments.of([20])), host.hidden(tokens, Segments.of([20])))
