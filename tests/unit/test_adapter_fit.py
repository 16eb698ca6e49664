"""Stored matrices that do not fit an adapter are refused by name, and change nothing."""

import torch

from luthier.models.lora import Adapter, adapter_size
from luthier.models.rope_scaling import RopeScaling
from luthier.models.spec import Spec

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
