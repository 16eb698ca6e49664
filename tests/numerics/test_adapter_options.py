"""Dropout, DoRA, and adapters of the head and the embedding, against PEFT in both directions."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from helpers_adapters import as_peft, our_gradients, peft_gradients, stirred
from helpers_models import decoder_of, make_twin
from helpers_numerics import assert_same, assert_within_budget
from luthier.core.errors import ModelError
from luthier.core.files import read_json, write_json
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.lora_linear.dropout import masked
from luthier.kernels.segments import Segments
from luthier.models.adapter_files import load_adapter, save_adapter
from luthier.models.decoder import Decoder
from luthier.models.generate import generate
from luthier.models.lora import Adapter
from luthier.models.weights import load_decoder

# PEFT says so of tables that the model ties. What it computes is two adapters, as in ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]
TWINS: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("llama", {"tie_word_embeddings": True}),
    "untied, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "scaled embeddings, capped logits": ("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 7}),
}
LINEARS = ["q_proj", "v_proj", "gate_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "dora": {"dora": True},
    "dora, some linears, rslora": {"dora": True, "rslora": True, "targets": LINEARS},
    "head": {"targets": ["lm_head"]},
    "head and linears, rslora": {"targets": [*LINEARS, "lm_head"], "rslora": True},
    "embedding": {"targets": ["embed_tokens"]},
    "embedding, head and linears": {"targets": [*LINEARS, "embed_tokens", "lm_head"]},
}
TOKENS = torch.randint(3, 160, (30,), generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([1, 2, 9, 15, 16, 29])
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(params=TWINS, scope="module")
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    kind, changes = TWINS[request.param]
    folder = tmp_path_factory.mktemp("twin")
    return folder, make_twin(folder, kind, **changes)


def logits_of(decoder: Decoder, adapter: Adapter | None) -> Tensor:
    with torch.no_grad():
        return decoder.logits(decoder.hidden(TOKENS, Segments.of([len(TOKENS)]), adapter), adapter)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_ours_means_the_same_in_peft(twin: tuple[Path, Any], tmp_path: Path, kind: dict[str, Any]) -> None:
    folder, model = twin
    decoder = decoder_of(folder)
    adapter = stirred(decoder, **kind)
    save_adapter(adapter, tmp_path, base_model=str(folder))
    with torch.no_grad():
        theirs = as_peft(model, folder, tmp_path).eval()(TOKENS[None]).logits[0]
    ours, again = (logits_of(decoder, a) for a in (adapter, load_adapter(tmp_path, decoder.spec, base=decoder)))
    assert_same(ours, theirs, tolerance=2e-5)
    assert torch.equal(again, ours)
    base = logits_of(decoder, None)
    assert (base - ours).abs().max() > 0.01 * base.abs().max()
    logprobs = decoder.logprobs(TOKENS, Segments.of([len(TOKENS)]), TARGETS, adapter)
    assert_same(logprobs, theirs.log_softmax(-1)[TARGETS - 1, TOKENS[TARGETS]], tolerance=2e-5)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_peft_writes_means_the_same_here(twin: tuple[Path, Any], tmp_path: Path, kind: dict[str, Any]) -> None:
    folder, model = twin
    torch.manual_seed(3)
    config = peft.LoraConfig(
        r=3, lora_alpha=7, target_modules=kind.get("targets", ALL), use_dora=kind.get("dora", False),
        use_rslora=kind.get("rslora", False), lora_dropout=0.25, task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = peft.get_peft_model(type(model).from_pretrained(folder, attn_implementation="eager"), config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
            elif "lora" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs.save_pretrained(tmp_path)
    decoder = decoder_of(folder)
    adapter = load_adapter(tmp_path, decoder.spec, base=decoder)
    with torch.no_grad():
        assert_same(logits_of(decoder, adapter), theirs(TOKENS[None]).logits[0], tolerance=2e-5)
    said = (adapter.rank, adapter.alpha, adapter.dropout, adapter.dora, adapter.rslora)
    assert said == (3, 7, 0.25, kind.get("dora", False), kind.get("rslora", False))


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_gradients(twin: tuple[Path, Any], tmp_path: Path, kind: dict[str, Any], recomputed: bool) -> None:
    folder, model = twin
    adapter = stirred(decoder_of(folder), **kind)
    save_adapter(adapter, tmp_path, base_model=str(folder))
    peft_model = as_peft(model, folder, tmp_path)
    truth = {name: g.clone() for name, g in peft_gradients(peft_model.double(), TOKENS, TARGETS).items()}
    for dtype, margin in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):  # why 2e-2: test_twins.py
        decoder = decoder_of(folder, dtype)
        decoder.recomputed = range(2) if recomputed else ()
        ours = our_gradients(decoder, adapter, TOKENS, TARGETS)
        plain = peft_gradients(as_peft(model, folder, tmp_path).to(dtype), TOKENS, TARGETS)
        assert ours.keys() == plain.keys() == truth.keys()
        for name in truth:
            assert_within_budget(ours[name], plain[name], truth[name], margin=margin, what=f"{dtype} {name}")


class OurMask(nn.Module):
    """Dropout with the mask that ours draws for one linear, in the rows that ours looks at."""

    def __init__(self, share: float, seed: int, at: Tensor | None, rows: int) -> None:
        super().__init__()
        self.share, self.seed, self.at, self.rows = share, seed, at, rows

    def forward(self, x: Tensor) -> Tensor:
        mask = masked(torch.ones(self.rows, x.shape[-1]), self.share, self.seed).to(x.dtype)
        if self.at is None:
            return x * mask[: x.shape[1]] / (1 - self.share)
        whole = torch.zeros(x.shape[1:], dtype=x.dtype)
        whole[self.at] = mask[: len(self.at)]
        return x * whole / (1 - self.share)


def with_our_masks(model: Any, adapter: Adapter, drop: int) -> Any:
    """PEFT's model with our masks in place of its dropout. Ours fills rows up to 32; its last layer has fewer."""
    last = adapter.spec.num_layers - 1
    for layer in range(adapter.spec.num_layers):
        for merged, pair in adapter.pairs(layer, drop).items():
            for target, seed in zip(pair.names, pair.drop.seeds, strict=True):
                module = model.get_submodule(f"base_model.model.model.layers.{layer}.{target}")
                at = TARGETS - 1 if layer == last and merged != "qkv" else None
                module.lora_dropout["default"] = OurMask(adapter.dropout, seed, at, 32)
    if adapter.head is not None:
        (seed,) = adapter.head_drop(drop).seeds
        model.base_model.model.lm_head.lora_dropout["default"] = OurMask(adapter.dropout, seed, TARGETS - 1, 32)
    return model.train()


DROPPED: dict[str, dict[str, Any]] = {
    "every linear": {},
    "some linears and the head": {"targets": [*LINEARS, "lm_head"]},
    "dora": {"dora": True},
}


@pytest.mark.parametrize("kind", DROPPED.values(), ids=DROPPED)
def test_gradients_with_dropout(twin: tuple[Path, Any], tmp_path: Path, kind: dict[str, Any]) -> None:
    folder, model = twin
    adapter = stirred(decoder_of(folder), dropout=0.3, **kind)
    save_adapter(adapter, tmp_path, base_model=str(folder))
    assert read_json(tmp_path / "adapter_config.json")["lora_dropout"] == 0.3

    def theirs(dtype: torch.dtype) -> dict[str, Tensor]:
        masked_model = with_our_masks(as_peft(model, folder, tmp_path).to(dtype), adapter, 17)
        return peft_gradients(masked_model, TOKENS, TARGETS)

    truth, plain = theirs(torch.float64), theirs(torch.float32)
    decoder = decoder_of(folder)
    ours = our_gradients(decoder, adapter, TOKENS, TARGETS, drop=17)
    for name in truth:
        assert_within_budget(ours[name], plain[name], truth[name], margin=1e-5, what=name)
    decoder.recomputed = range(2)
    again = our_gradients(decoder, adapter, TOKENS, TARGETS, drop=17)
    other = our_gradients(decoder, adapter, TOKENS, TARGETS, drop=18)
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    assert not any(torch.equal(other[name], ours[name]) for name in ours)


def test_dropout_acts_only_where_a_seed_is_given(twin: tuple[Path, Any]) -> None:
    decoder = decoder_of(twin[0])
    plain, dropping = stirred(decoder), stirred(decoder, dropout=0.5)
    assert torch.equal(logits_of(decoder, plain), logits_of(decoder, dropping))
    assert plain.drop_seed(0, 0) is None
    seeds = {dropping.drop_seed(step, microstep) for step in range(3) for microstep in range(3)}
    assert len(seeds) == 9 and dropping.drop_seed(1, 2) == stirred(decoder, dropout=0.1).drop_seed(1, 2)
    assert Adapter(decoder.spec, 2, 4, dropout=0.5, seed=1).drop_seed(1, 2) != dropping.drop_seed(1, 2)
    masks = [pair.drop.seeds for layer in range(2) for pair in dropping.pairs(layer, 3).values()]
    assert len({seed for seeds in masks for seed in seeds}) == 14  # one for each of seven linears in two layers


def test_a_mask_drops_its_share() -> None:
    x = torch.full((400, 250), 3.0)
    for share in (0.05, 0.5, 0.9):
        dropped = masked(x, share, 1)
        assert abs((dropped == 0).float().mean().item() - share) < 0.01
        assert set(dropped.unique().tolist()) == {0.0, 3.0}
        assert torch.equal(dropped, masked(x.T.contiguous().T, share, 1))  # whatever the strides
    assert torch.equal(x, torch.full((400, 250), 3.0))


@pytest.mark.parametrize("kind", [{"dora": True}, {"targets": ["lm_head", "embed_tokens"]}], ids=["dora", "tables"])
def test_a_fresh_adapter_changes_nothing(twin: tuple[Path, Any], kind: dict[str, Any]) -> None:
    decoder = decoder_of(twin[0])
    adapter = Adapter(decoder.spec, 4, 8, **kind)
    adapter.start_magnitudes(decoder.layers)
    assert_same(logits_of(decoder, adapter), logits_of(decoder, None), tolerance=1e-6)


def test_generation_with_head_and_embedding(twin: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = twin
    decoder = decoder_of(folder)
    adapter = stirred(decoder, targets=[*ALL, "lm_head", "embed_tokens"], rslora=True)
    adapter.flat.mul_(3)
    save_adapter(adapter, tmp_path, base_model=str(folder))
    theirs = as_peft(model, folder, tmp_path).eval().generate(
        input_ids=TOKENS[None, :11], max_new_tokens=12, do_sample=False, eos_token_id=None
    )[0, 11:]  # fmt: skip
    prompt = TOKENS[:11].tolist()
    ours = list(generate(decoder, prompt, stop_ids=frozenset(), max_new_tokens=12, adapter=adapter))
    assert ours == theirs.tolist()
    assert ours != list(generate(decoder, prompt, stop_ids=frozenset(), max_new_tokens=12))


def test_dora_over_four_bits(tmp_path: Path) -> None:
    make_twin(tmp_path, "llama")
    decoder = load_decoder(tmp_path, dtype=torch.float32, nf4=True)
    adapter = stirred(decoder, dora=True)
    ours = our_gradients(decoder, adapter, TOKENS, TARGETS)
    for layer in decoder.layers:  # the same model with the unpacked weights
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            dense = linear.weight.dense()
            assert_same(linear.squares, dense.square().sum(1), tolerance=1e-6)
            linear.weight = DenseWeight(dense)
    plain = our_gradients(decoder, adapter, TOKENS, TARGETS)
    for name in ours:
        assert_same(ours[name], plain[name], tolerance=1e-6, what=name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"use_dora": True}, "DoRA on the head or the embedding"),
        ({"target_modules": ["lm_head", "wte"]}, "target_modules"),
    ],
)
def test_what_would_compute_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    make_twin(tmp_path, "llama")
    decoder = decoder_of(tmp_path)
    (tmp_path / "adapter").mkdir()
    save_adapter(stirred(decoder, targets=["q_proj", "lm_head"]), tmp_path / "adapter", base_model="m")
    file = tmp_path / "adapter" / "adapter_config.json"
    write_json(file, read_json(file) | changes)
    with pytest.raises(ModelError, match=said):
        load_adapter(tmp_path / "adapter", decoder.spec, base=decoder)


@pytest.mark.parametrize("table", ["embed_tokens", "lm_head"])
def test_an_adapter_beside_other_tables_is_refused(tmp_path: Path, table: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    model = make_twin(folder, "llama")
    config = peft.LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    decoder = decoder_of(folder)
    load_adapter(tmp_path, decoder.spec, base=decoder)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    (name,) = (name for name in tensors if f"{table}.base_layer" in name)
    tensors[name][7, 7] += 1
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="beside another"):
        load_adapter(tmp_path, decoder.spec, base=decoder)
    tensors[name] = torch.zeros(4, 48)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"\(4, 48\), not \(160, 48\)"):
        load_adapter(tmp_path, decoder.spec, base=decoder)


def test_a_head_in_four_bits_is_adapted_too(tmp_path: Path) -> None:
    make_twin(tmp_path, "llama")
    decoder = load_decoder(tmp_path, dtype=torch.float32, nf4=True, nf4_head=True)
    adapter = stirred(decoder, targets=["lm_head", "up_proj"])
    ours = our_gradients(decoder, adapter, TOKENS, TARGETS)
    decoder.head = DenseWeight(decoder.head.dense())
    plain = our_gradients(decoder, adapter, TOKENS, TARGETS)
    for name in ours:
        assert_same(ours[name], plain[name], tolerance=1e-5, what=name)
