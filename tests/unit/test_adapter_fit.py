"""Stored matrices that do not fit an adapter are refused by name, and change nothing."""

import pytest
import torch

from luthier.models.lora import Adapter, adapter_size
from luthier.models.rope_scaling import RopeScaling
from luthier.models.spec import Spec
from luthier.stages.check import activation_bytes, held_bytes

SPEC = Spec(
    family="llama",
    num_layers=2,
    hidden_size=12,
    num_heads=3,
    num_kv_heads=1,
    head_size=4,
    ffn_size=20,
    vocab_size=30,
    norm_eps=1e-5,
    rope=RopeScaling("default", 1e4, 4),
    max_positions=64,
    tied=True,
)


def test_size_is_the_sum_of_the_matrices() -> None:
    adapter = Adapter(SPEC, 3, 6)
    assert adapter_size(SPEC, 3) == adapter.flat.numel() == sum(t.numel() for t in adapter.named().values())


@pytest.mark.parametrize("rank", [1, 3, 256])
@pytest.mark.parametrize(
    ("targets", "dora"),
    [
        (["lm_head"], False),
        (["embed_tokens"], False),
        (["q_proj", "lm_head", "embed_tokens"], False),
        (["q_proj"], True),
    ],
)
def test_size_with_tables_and_magnitudes(targets: list[str], dora: bool, rank: int) -> None:
    adapter = Adapter(SPEC, rank, 6, targets=targets, dora=dora)
    size = adapter_size(SPEC, rank, targets, dora=dora)
    assert size == adapter.flat.numel() == sum(t.numel() for t in adapter.named().values())
    tables = rank * (12 + 30) * len({"lm_head", "embed_tokens"} & set(targets))
    assert size == tables + ("q_proj" in targets) * 2 * (rank * (12 + 12) + dora * 12)


def test_names_and_shapes_are_those_of_peft() -> None:
    adapter = Adapter(SPEC, 3, 6, targets=["v_proj", "lm_head", "embed_tokens"])
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.named().items()}
    model = "base_model.model.model"
    assert shapes == {
        **{f"{model}.layers.{i}.self_attn.v_proj.lora_A.weight": (3, 12) for i in (0, 1)},
        **{f"{model}.layers.{i}.self_attn.v_proj.lora_B.weight": (4, 3) for i in (0, 1)},
        "base_model.model.lm_head.lora_A.weight": (3, 12),
        "base_model.model.lm_head.lora_B.weight": (30, 3),
        f"{model}.embed_tokens.lora_embedding_A": (3, 30),
        f"{model}.embed_tokens.lora_embedding_B": (12, 3),
    }
    other = Adapter(SPEC, 3, 6, targets=["v_proj", "lm_head", "embed_tokens"], seed=1)
    assert other.fill(adapter.named()) == "" and torch.equal(other.flat, adapter.flat)
    magnitudes = [t for name, t in Adapter(SPEC, 3, 6, dora=True).named().items() if name.endswith("magnitude_vector")]
    assert [tuple(t.shape) for t in magnitudes[:7]] == [(12,), (4,), (4,), (12,), (20,), (20,), (12,)]


def test_memory_that_the_options_take() -> None:
    outs = (12 + 4 + 4) + 12 + (20 + 20) + 12
    assert activation_bytes(SPEC, 2, dora=True) - activation_bytes(SPEC, 2) == 2 * 2 * outs
    assert activation_bytes(SPEC, 2, dora=True, recompute=True) - activation_bytes(SPEC, 2, recompute=True) == 2 * outs
    assert held_bytes(SPEC, 2) == 2 * (12 * 20 + 12 * 12 + 20 * 12)  # all but gate|up


def test_what_fits_is_taken_over_bit_for_bit() -> None:
    one, other = Adapter(SPEC, 3, 6, seed=1), Adapter(SPEC, 3, 6, seed=2)
    assert not torch.equal(one.flat, other.flat)
    assert one.fill(other.named()) == ""
    assert torch.equal(one.flat, other.flat)


def test_what_does_not_fit_is_named_and_changes_nothing() -> None:
    adapter = Adapter(SPEC, 3, 6)
    before = adapter.flat.clone()
    stored = {name: torch.ones_like(tensor) for name, tensor in adapter.named().items()}
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    assert name in adapter.fill({key: value for key, value in stored.items() if key != name})
    assert "lm_head" in adapter.fill({**stored, "base_model.model.lm_head.lora_A.weight": torch.ones(3, 12)})
    assert f"{name} is (12, 4), not (12, 3)" in adapter.fill({**stored, name: torch.ones(12, 4)})
    assert torch.equal(adapter.flat, before)
