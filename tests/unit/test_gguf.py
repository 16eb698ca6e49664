"""Weights and configs of .gguf files, against the transformers models that they were written from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file

from helpers_store import SIZES, permute, twin, write_gguf
from luthier.core.errors import ModelError
from luthier.models import gguf as convert
from luthier.models.folder import check_model_folder

transformers = pytest.importorskip("transformers")


def imported(path: Path, said: list[str] | None = None) -> Path:
    folder = path.with_suffix("")
    folder.mkdir()
    convert.convert_gguf(path, folder, (said if said is not None else []).append)
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("type_", [Type.F16, Type.BF16, Type.F32])
def test_same_weights_and_logits(tmp_path: Path, kind: str, tied: bool, type_: Type) -> None:
    model = twin(kind, tied=tied)
    folder = imported(write_gguf(tmp_path / "m.gguf", kind, model, type_))
    found = load_file(folder / "model.safetensors")
    wanted = {name: value for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name].float(), value), name
    twin_of_file = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        assert torch.equal(twin_of_file(ids).logits, model(ids).logits)
    facts = check_model_folder(folder)
    assert (facts.architecture, facts.tied, facts.dtype) == (type(model).__name__, tied, "bfloat16")
    assert facts.parameters == sum(value.numel() for value in wanted.values())


@pytest.mark.parametrize("type_", [Type.Q4_0, Type.Q4_1, Type.Q5_1, Type.Q8_0])
def test_quantised_weights_are_the_dequantised_ones(tmp_path: Path, type_: Type) -> None:
    model = twin("llama")
    found = load_file(imported(write_gguf(tmp_path / "m.gguf", "llama", model, type_)) / "model.safetensors")
    for name in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"):
        source = model.state_dict()[name].numpy()
        wanted = torch.from_numpy(dequantize(quantize(source, type_), type_)).bfloat16()
        assert torch.equal(found[name], wanted), name
    name, heads = "model.layers.1.self_attn.k_proj.weight", SIZES["kv_heads"]
    written = dequantize(quantize(permute(model.state_dict()[name].numpy(), heads), type_), type_)
    assert np.array_equal(
        permute(found[name].float().numpy(), heads), torch.from_numpy(written).bfloat16().float().numpy()
    )


def test_bf16_rounds_like_torch() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    edges = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 1, 0x3F808000, 0x3F818000, 0x7F7FFFFF]
    values = np.concatenate([bits, np.array(edges, np.uint32)]).view(np.float32)
    found = torch.from_numpy(convert.to_bf16(values).view(np.int16)).view(torch.bfloat16)
    wanted = torch.from_numpy(values).bfloat16()
    assert torch.equal(found.isnan(), wanted.isnan())
    numbers = ~wanted.isnan()
    assert torch.equal(found.view(torch.int16)[numbers], wanted.view(torch.int16)[numbers])


def test_shards_and_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    whole = load_file(imported(path) / "model.safetensors")
    monkeypatch.setattr(convert, "SHARD_BYTES", 30_000)
    monkeypatch.setattr(convert, "_ELEMENTS_AT_ONCE", 1000)
    folder = imported(path.rename(tmp_path / "again.gguf"))
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 3 and shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert all(shard.stat().st_size < 45_000 for shard in shards)
    found = {name: value for shard in shards for name, value in load_file(shard).items()}
    assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == check_model_folder(folder).bytes


def test_config(tmp_path: Path) -> None:
    said: list[str] = []
    config = config_of(imported(write_gguf(tmp_path / "m.gguf"), said))
    wanted = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "head_dim": 16, "eos_token_id": 2, "bos_token_id": 1}
    assert wanted.items() <= config.items()
    assert "rope_scaling" not in config and "sliding_window" not in config
    assert len(said) == 1 and "bf16" in said[0]


@pytest.mark.parametrize(
    ("meta", "eos"),
    [
        ({}, 2),
        ({"tokenizer.ggml.eot_token_id": 2}, 2),
        ({"tokenizer.ggml.eot_token_id": 0}, [2, 0]),
        ({"tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 1}, [2, 0, 1]),
    ],
)
def test_every_end_token_stops_generation(tmp_path: Path, meta: dict[str, int], eos: int | list[int]) -> None:
    folder = imported(write_gguf(tmp_path / "m.gguf", meta=meta))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == eos


@pytest.mark.parametrize(
    ("meta", "scaling"),
    [
        ({"llama.rope.scaling.type": "none"}, None),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 32,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
    ],
)
def test_rope_scaling(tmp_path: Path, meta: dict[str, Any], scaling: dict[str, Any] | None) -> None:
    assert config_of(imported(write_gguf(tmp_path / "m.gguf", meta=meta))).get("rope_scaling") == scaling


def test_llama3_scaling_is_read_from_its_factors(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    theta = 500000.0
    model = twin("llama", rope_parameters={**scaling, "rope_theta": theta})
    plain = theta ** -(torch.arange(0, 16, 2) / 16)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy()
    assert factors.max() > 7 and factors.min() > 0.999
    folder = imported(write_gguf(tmp_path / "m.gguf", model=model, tensors={"rope_freqs.weight": factors}))
    assert config_of(folder)["rope_scaling"] == scaling
    again = type(model).from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(again.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    ones = {"rope_freqs.weight": np.ones(8, np.float32)}
    assert "rope_scaling" not in config_of(imported(write_gguf(tmp_path / "plain.gguf", model=model, tensors=ones)))


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"general.architecture": "mamba"}, "'mamba'; supported are llama, qwen2, qwen3"),
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"split.count": 3}, "3 parts"),
        ({"llama.attention.sliding_window": 64}, "sliding-window"),
        ({"llama.rope.dimension_count": 8}, "part of each head"),
        ({"llama.rope.scaling.type": "longrope"}, "'longrope'"),
        ({"llama.attention.value_length": 8}, "value size"),
        ({"llama.embedding_length": None}, "llama.embedding_length is missing"),
        ({"llama.embedding_length": 128}, r"shape \[\d+, 64\], its metadata asks for \[\d+, 128\]"),
        ({"llama.attention.head_count": 0}, "impossible sizes"),
        ({"llama.attention.head_count": [4, 4]}, "head_count = .* where one int"),
        ({"llama.block_count": 3}, "tensor blk.2.attn_norm.weight is missing"),
        ({"llama.block_count": 1}, "tensor blk.1."),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_epsilon = nan"),
    ],
)
def test_refused_by_name(tmp_path: Path, meta: dict[str, Any], words: str) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", meta={key: value for key, value in meta.items() if "architecture" not in key}
    )
    if "general.architecture" in meta:
        path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", 1))
    with pytest.raises(ModelError, match=words) as error:
        imported(path)
    assert "m.gguf" in str(error.value) and error.value.fix
    assert not list((tmp_path / "m").glob("*.safetensors"))


def test_unknown_rotation_factors_and_tensors_are_refused(tmp_path: Path) -> None:
    factors = np.linspace(1, 9, 8, dtype=np.float32)
    with pytest.raises(ModelError, match=r"rope_freqs\.weight"):
        imported(write_gguf(tmp_path / "a.gguf", tensors={"rope_freqs.weight": factors}))
    bias = np.zeros(64, np.float32)
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.bias in the architecture llama"):
        imported(write_gguf(tmp_path / "b.gguf", tensors={"blk.0.attn_q.bias": bias}))
