"""NF4: against its naive form, and byte for byte against bitsandbytes."""

import os
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers_models import KINDS, SMALL, full_adapter, make_twin
from helpers_numerics import randn
from luthier.core.errors import ModelError
from luthier.core.files import read_json, write_json
from luthier.kernels.nf4 import NF4, NF4Weight, dequantise, quantise
from luthier.kernels.nf4.naive import dequantise as naive
from luthier.kernels.nf4.tables import dynamic_values, nf4_values
from luthier.kernels.segments import Segments
from luthier.models.weights import base_bytes, load_decoder

# Where a row is no whole number of blocks, bitsandbytes 0.50 unpacks some shapes wrongly on a CPU: none of those.
SHAPES = [(1, 1), (1, 7), (5, 64), (33, 70), (128, 192), (96, 4160), (64, 16384)]
BLOCKS = {"hidden_size": 192, "intermediate_size": 320, "num_attention_heads": 6, "head_dim": 32}
CPU = torch.device("cpu")


def unpacked(stored: NF4, dtype: torch.dtype) -> Tensor:
    return dequantise(stored, torch.full(tuple(stored.shape), float("nan"), dtype=dtype))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bytes_are_those_of_bitsandbytes(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = (randn(*shape) * 0.02).to(dtype)
    weight[:, 1:3] = 0
    codes, theirs = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    ours = quantise(weight)
    assert torch.equal(ours.codes, codes.flatten())
    assert torch.equal(ours.nested, theirs.state2.absmax) and torch.equal(ours.offset, theirs.offset)
    # Its CPU code sometimes stores the second nearest of two numbers; then ours is at least as near.
    nested = ours.nested.repeat_interleave(256)[: len(ours.scales)]
    table, exact = dynamic_values(CPU), weight.float().flatten()
    exact = torch.nn.functional.pad(exact, (0, -len(exact) % 64)).view(-1, 64).abs().amax(1) - ours.offset
    off = [(table[scales.long()] * nested - exact).abs() for scales in (ours.scales, theirs.absmax)]
    assert (off[0] <= off[1] + 1e-9).all() and (ours.scales != theirs.absmax).sum() <= 1 + len(exact) / 100


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("double", [True, False])
def test_unpacking_gives_the_bits_of_bitsandbytes(shape: tuple[int, int], dtype: torch.dtype, double: bool) -> None:
    weight = (randn(*shape) * 0.02).to(dtype)
    codes, theirs = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
    nested, offset = (theirs.state2.absmax, theirs.offset) if double else (None, torch.zeros(()))
    stored = NF4(codes.flatten(), theirs.absmax, nested, offset, weight.shape)
    assert torch.equal(unpacked(stored, dtype), bnb.dequantize_4bit(codes, theirs))


def test_the_tables_are_those_of_bitsandbytes() -> None:
    assert torch.equal(nf4_values(CPU), bnb.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic_values(CPU), bnb.create_dynamic_map())


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1, as in make test")
@pytest.mark.parametrize("shape", SHAPES[:5])
@pytest.mark.parametrize("double", [True, False])
def test_the_kernel_in_the_interpreter(shape: tuple[int, int], double: bool) -> None:
    from luthier.kernels.nf4.triton import dequantise as kernel

    stored = quantise(randn(*shape) * 0.02)
    if not double:
        stored = NF4(
            stored.codes, randn(len(stored.scales), dtype=torch.float32).abs(), None, stored.offset, stored.shape
        )
    guarded = torch.full((stored.shape.numel() + 64,), float("nan"))
    out = guarded[: stored.shape.numel()].view(stored.shape)
    kernel(stored, out)
    assert torch.equal(out, naive(stored, torch.float32)) and guarded[stored.shape.numel() :].isnan().all()
    narrow = torch.empty(stored.shape, dtype=torch.bfloat16)
    kernel(stored, narrow)  # the interpreter cuts bf16 off where a device rounds
    assert torch.allclose(narrow.float(), out, rtol=2**-7, atol=0)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 70), columns=st.integers(1, 200), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
def test_unpacking_is_the_naive_form_and_near_the_weight(rows: int, columns: int, scale: float) -> None:
    weight = randn(rows, columns, seed=rows, dtype=torch.float32) * scale
    stored = quantise(weight)
    made = unpacked(stored, torch.float32)
    assert torch.equal(made, naive(stored, torch.float32))
    # The widest gap between two values is 0.304, so an error is at most 0.152 of its block's largest magnitude, and the
    # scale itself may be a few percent off.
    assert (made - weight).abs().max() <= 0.2 * weight.abs().max()


def test_chunks_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = quantise(randn(40, 70, dtype=torch.float32))
    whole = unpacked(stored, torch.float32)
    monkeypatch.setattr("luthier.kernels.nf4.op.CHUNK", 130)
    assert torch.equal(unpacked(stored, torch.float32), whole)


def test_a_merged_weight_multiplies_as_its_parts() -> None:
    parts = [randn(8, 64, seed=1, dtype=torch.float32), randn(5, 64, seed=2, dtype=torch.float32)]
    weight = NF4Weight([quantise(part) for part in parts], torch.float32)
    dense = torch.cat([unpacked(quantise(part), torch.float32) for part in parts])
    x, dy, bias = (randn(*shape, dtype=torch.float32) for shape in ((3, 64), (3, 13), (13,)))
    assert torch.equal(weight.dense(), dense)
    torch.testing.assert_close(weight.forward(x, bias), torch.nn.functional.linear(x, dense, bias))
    assert torch.equal(weight.backward(dy), dy @ dense)


def test_four_bits_a_weight() -> None:
    stored = quantise(torch.zeros(512, 512))
    assert stored.nbytes * 8 / 512**2 == pytest.approx(4.127, abs=0.01)


def prequantised(folder: Path, *, double: bool = True, **changes: object) -> dict[str, Tensor]:
    """Turn the model in `folder` into what bitsandbytes saves; returns the weights it stands for."""
    tensors, meant = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if "_proj.weight" in name]:
        weight = tensors.pop(name)
        codes, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
        tensors[name] = codes
        tensors |= {f"{name}.{key}": value.clone() for key, value in state.as_dict(packed=True).items()}
        meant[name] = bnb.dequantize_4bit(codes, state)
    save_file(tensors, folder / "model.safetensors")
    config = read_json(folder / "config.json")
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} | changes
    write_json(folder / "config.json", config | {"quantization_config": settings})
    return meant


@pytest.mark.parametrize("double", [True, False])
def test_a_checkpoint_of_bitsandbytes_loads_as_it_is(tmp_path: Path, double: bool) -> None:
    make_twin(tmp_path, "llama", **BLOCKS)
    meant = prequantised(tmp_path, double=double)
    decoder = load_decoder(tmp_path, dtype=torch.float32)
    for index, layer in enumerate(decoder.layers):
        prefix = f"model.layers.{index}"
        for linear, names in (
            (layer.qkv, ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            (layer.down, ["mlp.down_proj"]),
        ):
            assert isinstance(linear.weight, NF4Weight)
            assert torch.equal(linear.weight.dense(), torch.cat([meant[f"{prefix}.{name}.weight"] for name in names]))


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_quantised_model_is_the_model_of_its_unpacked_weights(tmp_path: Path, kind: str) -> None:
    make_twin(tmp_path / "plain", kind)
    four_bit = load_decoder(tmp_path / "plain", dtype=torch.float32, nf4=True)
    make_twin(tmp_path / "rounded", kind)
    tensors = load_file(tmp_path / "rounded" / "model.safetensors")
    for name in tensors:
        if "_proj.weight" in name:
            tensors[name] = unpacked(quantise(tensors[name]), torch.float32)
    save_file(tensors, tmp_path / "rounded" / "model.safetensors")
    rounded = load_decoder(tmp_path / "rounded", dtype=torch.float32)
    tokens, segments = torch.arange(30) * 7 % SMALL["vocab_size"], Segments.of([30])
    grads, adapters = [], [full_adapter(four_bit), full_adapter(rounded)]
    for decoder, adapter in zip((four_bit, rounded), adapters, strict=True):
        logprobs = decoder.logprobs(tokens, segments, torch.arange(5, 30), adapter)
        (-logprobs.sum()).backward()
        grads.append(torch.cat([logprobs.detach(), adapter.grad]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)
    assert adapters[0].grad.abs().max() > 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("nf4", [True, False])
def test_memory_of_a_base_is_foretold(tmp_path: Path, tied: bool, nf4: bool) -> None:
    """In float64, which is never packed, so that every byte can be counted."""
    make_twin(tmp_path, "qwen3", tie_word_embeddings=tied, **BLOCKS)
    decoder = load_decoder(tmp_path, dtype=torch.float64, nf4=nf4)
    tensors = [decoder.embedding, decoder.norm, *([] if tied else [decoder.head.dense()])]
    held, largest = sum(tensor.nbytes for tensor in tensors), 0
    for layer in decoder.layers:
        held += sum(x.nbytes for x in (layer.attention_norm, layer.mlp_norm, layer.q_norm, layer.k_norm))
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            parts = linear.weight.parts if nf4 else [linear.weight.dense()]
            held += sum(part.nbytes for part in parts)
            largest = max(largest, linear.weight.dense().nbytes)
    told = base_bytes(decoder.spec, torch.float64, CPU, nf4=nf4)
    assert told == pytest.approx(held + largest * nf4, rel=0.01 if nf4 else 0)


def test_other_quantisations_are_refused_by_name(tmp_path: Path) -> None:
    make_twin(tmp_path, "llama")
    prequantised(tmp_path, bnb_4bit_quant_type="fp4")
    with pytest.raises(ModelError, match="bitsandbytes fp4"):
        load_decoder(tmp_path, dtype=torch.float32)


def test_parts_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    make_twin(tmp_path, "llama")
    prequantised(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight.absmax"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"up_proj\.weight do not fit together"):
        load_decoder(tmp_path, dtype=torch.float32)
