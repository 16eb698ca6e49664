"""Decoders that run through their own module in `transformers`: the same tests as our families have to pass."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from helpers_adapters import named_gradients, peft_gradients, stirred
from helpers_fallback import make_other
from helpers_numerics import assert_same, assert_within_budget
from luthier.kernels.nf4 import NF4Weight
from luthier.kernels.segments import Segments
from luthier.models.adapter_files import load_adapter, save_adapter
from luthier.models.decoder import Decoder
from luthier.models.fallback import FallbackDecoder, batches
from luthier.models.fallback_spec import FallbackSpec, read_any_spec
from luthier.models.generate import generate_batch
from luthier.models.lora import Adapter, adapter_size
from luthier.models.weights import load_decoder

# PEFT says so of GPT-2's linears, which are stored as (M, N).
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2, Conv1D": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "falcon, alibi": ("falcon", {}),
    "opt, projected embeddings": ("opt", {}),
    "phi, bias on the head": ("phi", {}),
    "olmo2": ("olmo2", {}),
    "granite, scaled logits": ("granite", {}),
    "cohere, scaled logits, tied": ("cohere", {}),
    "bloom, alibi": ("bloom", {}),
    "phimoe": ("phimoe", {}),
    "starcoder2, window": ("starcoder2", {}),
    "mixtral": ("mixtral", {}),
    "qwen2_moe, dense layers between": ("qwen2_moe", {}),
    "gpt_oss, sinks": ("gpt_oss", {}),
    "mamba2": ("mamba2", {}),
    "recurrent_gemma, capped logits": ("recurrent_gemma", {}),
    "jamba": ("jamba", {}),
    "bert as a decoder, other linears of the same names": ("bert", {"is_decoder": True}),
    "llama with plain gelu": ("llama", {"hidden_act": "gelu"}),
    "gemma2 with silu, capped scores and logits": ("gemma2", {"hidden_activation": "silu"}),
}
THOROUGHLY = (
    "gpt2, Conv1D", "olmo2", "cohere, scaled logits, tied", "starcoder2, window", "mixtral", "mamba2",
    "recurrent_gemma, capped logits", "llama with plain gelu", "phi, bias on the head",
)  # fmt: skip
LENGTHS = [5, 23, 1, 17, 16, 21]
TOKENS = torch.randint(3, 160, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
RANK, ALPHA = 4, 8


@dataclass
class Other:
    """A model and where it is saved."""

    folder: Path
    model: Any
    spec: FallbackSpec

    def decoder(self, dtype: torch.dtype = torch.float32) -> FallbackDecoder:
        decoder = load_decoder(self.folder, dtype=dtype)
        assert isinstance(decoder, FallbackDecoder)
        return decoder

    def fresh(self) -> Any:
        """The module as `transformers` loads it."""
        plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
        return AutoModelForCausalLM.from_pretrained(self.folder, **plain).eval()


def make(folder: Path, name: str) -> Other:
    kind, changes = KINDS[name]
    model = make_other(folder, kind, **changes)
    spec = read_any_spec(folder)
    assert isinstance(spec, FallbackSpec)
    return Other(folder, model, spec)


@pytest.fixture(params=KINDS, scope="module")
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Other:
    return make(tmp_path_factory.mktemp("other"), request.param)


@pytest.fixture(params=THOROUGHLY, scope="module")
def some(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Other:
    """A few of them, for what hardly depends on the kind."""
    return make(tmp_path_factory.mktemp("some"), request.param)


def logits_of(decoder: Decoder, tokens: Tensor, adapter: Adapter | None = None) -> Tensor:
    with torch.no_grad():
        return decoder.logits(decoder.hidden(tokens, Segments.of([len(tokens)]), adapter), adapter)


def test_logits_are_those_of_the_module_and_packed_is_alone(other: Other) -> None:
    decoder, segments = other.decoder(), Segments.of(LENGTHS)
    with torch.no_grad():
        packed = decoder.logits(decoder.hidden(TOKENS, segments))
        for start, end in segments.spans:
            theirs = other.model(TOKENS[None, start:end]).logits[0]
            assert_same(packed[start:end], theirs, tolerance=5e-5)
            assert_same(logits_of(decoder, TOKENS[start:end]), theirs, tolerance=5e-5)


def test_packed_is_alone_with_an_adapter(other: Other) -> None:
    decoder, segments = other.decoder(), Segments.of(LENGTHS)
    adapter = stirred(decoder)
    packed = decoder.hidden(TOKENS, segments, adapter)
    for start, end in segments.spans:
        alone = decoder.hidden(TOKENS[start:end], Segments.of([end - start]), adapter)
        assert_same(packed[start:end], alone, tolerance=5e-5)


def test_a_shared_beginning_is_each_row_whole(some: Other) -> None:
    decoder, tokens = some.decoder(), TOKENS[:35]
    adapter, shared = stirred(decoder), Segments.of([9, 12, 14], parents=[None, 0, 0])
    packed = decoder.hidden(tokens, shared, adapter)
    for start, end in shared.spans[1:]:
        whole = decoder.hidden(torch.cat([tokens[:9], tokens[start:end]]), Segments.of([9 + end - start]), adapter)
        assert_same(packed[start:end], whole[9:], tolerance=5e-5)
        assert_same(packed[:9], whole[:9], tolerance=5e-5)


@pytest.mark.parametrize("kind", [{}, {"dora": True, "rslora": True}], ids=["lora", "dora"])
def test_gradients_are_those_of_peft(other: Other, tmp_path: Path, kind: dict[str, Any]) -> None:
    """Over two segments, in float32 against PEFT's float64 with the error of PEFT's float32 as the budget."""
    decoder = other.decoder()
    adapter = stirred(decoder, **kind)
    save_adapter(adapter, tmp_path, base_model=str(other.folder))
    tokens, targets = TOKENS[:30], torch.tensor([1, 2, 9, 15, 16, 29])
    truth, plain = (
        peft_gradients(
            peft.PeftModel.from_pretrained(other.fresh(), tmp_path, is_trainable=True).to(dtype).eval(), tokens, targets
        )
        for dtype in (torch.float64, torch.float32)
    )
    (-decoder.logprobs(tokens, Segments.of([30]), targets, adapter).mean()).backward()
    ours = named_gradients(adapter)
    assert ours.keys() == truth.keys()
    largest = max(gradient.abs().max() for gradient in truth.values())
    for name in truth:
        floor = 2e-5 * largest / max(truth[name].abs().max(), 1e-30)
        assert_within_budget(ours[name], plain[name], truth[name], margin=float(floor), what=name)


def test_layers_that_run_again_give_the_same_bits(some: Other) -> None:
    assert some.spec.recomputes  # else the recipe is refused
    made, runs = [], []
    for again in ((), range(4)):
        decoder = some.decoder()
        decoder.recomputed = again
        adapter = stirred(decoder, dropout=0.2)
        name = f"{some.spec.layers_path}.1.{next(iter(some.spec.linears[1]))}"
        calls: list[int] = []
        decoder.module.get_submodule(name).register_forward_hook(lambda *args, calls=calls: calls.append(1))
        logprobs = decoder.logprobs(TOKENS[:40], Segments.of([25, 15]), torch.tensor([3, 24, 30]), adapter, drop=7)
        (-logprobs.sum()).backward()
        made.append(adapter.grad.clone())
        runs.append(len(calls))
        assert not any(part.training for part in decoder.module.modules())
    assert torch.equal(*made) and made[0].abs().max() > 0
    assert runs[1] == 2 * runs[0] > 0


def test_dropout_acts_where_there_is_a_seed(some: Other) -> None:
    decoder = some.decoder()
    adapter = stirred(decoder, dropout=0.4)
    arguments = TOKENS[:30], Segments.of([17, 13]), torch.tensor([3, 16, 20]), adapter
    plain, seven, again, eight = (decoder.logprobs(*arguments, drop=drop).detach() for drop in (None, 7, 7, 8))
    assert torch.equal(seven, again)
    assert min((seven - plain).abs().max(), (seven - eight).abs().max()) > 1e-3


def test_adapters_both_ways(other: Other, tmp_path: Path) -> None:
    """Ours read by PEFT, and PEFT's read by us, give the same logits."""
    decoder, tokens = other.decoder(), TOKENS[:30]
    base = logits_of(decoder, tokens)
    adapter = stirred(decoder)
    save_adapter(adapter, tmp_path, base_model=str(other.folder))
    theirs = peft.PeftModel.from_pretrained(other.fresh(), tmp_path).eval()
    with torch.no_grad():
        assert_same(logits_of(decoder, tokens, adapter), theirs(tokens[None]).logits[0], tolerance=5e-5)
    assert (logits_of(decoder, tokens, adapter) - base).abs().max() > 0.01 * base.abs().max()

    torch.manual_seed(3)
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, task_type="CAUSAL_LM", use_rslora=True)
    theirs = peft.get_peft_model(other.fresh(), config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs.save_pretrained(tmp_path / "peft")
    read = load_adapter(tmp_path / "peft", decoder.spec, base=decoder)
    with torch.no_grad():
        assert_same(logits_of(decoder, tokens, read), theirs(tokens[None]).logits[0], tolerance=5e-5)


def test_a_fresh_adapter_changes_nothing(some: Other) -> None:
    decoder = some.decoder()
    adapter = Adapter(decoder.spec, RANK, ALPHA)
    assert torch.equal(logits_of(decoder, TOKENS[:20], adapter), logits_of(decoder, TOKENS[:20]))
    assert adapter.num_parameters == adapter_size(decoder.spec, RANK)
    assert {name.rsplit(".", 1)[-1] for pairs in adapter.layers for name in pairs} == set(decoder.spec.targets)


def test_answers_are_those_of_whole_passes(other: Other) -> None:
    decoder = other.decoder()
    adapter = stirred(decoder)
    prompts = [TOKENS[:4].tolist(), TOKENS[10:29].tolist(), TOKENS[30:41].tolist()]
    answers = generate_batch(decoder, prompts, decode=str, stop_ids=frozenset(), max_new_tokens=5, adapter=adapter)
    for prompt, answer in zip(prompts, answers, strict=True):
        whole = list(prompt)
        for token in answer.tokens:
            best = logits_of(decoder, torch.tensor(whole), adapter)[-1]
            assert best[token] >= best.max() - 1e-4 * best.abs().max()
            whole.append(token)
        assert len(answer.tokens) == 5


def test_in_bf16(some: Other) -> None:
    """As exact as the module itself is in bf16."""
    decoder, tokens = some.decoder(torch.bfloat16), TOKENS[:30]
    with torch.no_grad():
        truth = some.model(tokens[None]).logits[0]
        plain = some.fresh().to(torch.bfloat16)(tokens[None]).logits[0]
    ours = logits_of(decoder, tokens)
    assert decoder.dtype == ours.dtype == torch.bfloat16
    errors = [torch.linalg.vector_norm(made.float() - truth) for made in (ours, plain)]
    assert errors[0] <= 2 * errors[1] + 0.01 * torch.linalg.vector_norm(truth)


def test_over_a_base_in_4_bits(some: Other) -> None:
    """The linears are NF4, and what comes out is what their unpacked weights give."""
    decoder, tokens = load_decoder(some.folder, dtype=torch.float32, nf4=True), TOKENS[:30]
    plain, segments = some.decoder(), Segments.of([18, 12])
    names = 0
    for four, full, wanted in zip(decoder.layers, plain.layers, some.spec.linears, strict=True):
        assert vars(four).keys() == wanted.keys()
        for name, linear in vars(four).items():
            assert isinstance(linear.weight, NF4Weight)
            vars(full)[name].weight = type(vars(full)[name].weight)(linear.weight.dense())
            names += 1
    assert names
    adapters = [stirred(decoder), stirred(plain)]
    made = [d.hidden(tokens, segments, a) for d, a in zip((decoder, plain), adapters, strict=True)]
    assert_same(*made, tolerance=5e-5)
    assert (made[0] - some.decoder().hidden(tokens, segments, adapters[0])).abs().max() > 1e-3 * made[0].abs().max()
    made[0].square().mean().backward()
    assert adapters[0].grad.abs().max() > 0


def test_weights_are_counted(other: Other) -> None:
    numbers = {id(parameter): parameter.numel() for parameter in other.model.parameters()}
    assert other.spec.num_parameters == sum(numbers.values())
    inside = [part for layer in other.spec.linears for part in layer.values()]
    assert other.spec.linear_parameters == sum(m * n for m, n in inside)
    assert other.spec.base_bytes(4, nf4=False, nf4_bytes=0.516) == 4 * other.spec.num_parameters


def test_it_says_which_entry_led_here(other: Other) -> None:
    entries = {"llama": "hidden_act: gelu", "gemma2": "hidden_activation: silu"}
    entry = entries.get(other.spec.family, f"model_type: {other.spec.family}")
    assert other.spec.why.startswith(f"no family of ours covers {entry}: ")
    assert f"transformers' own {type(other.model).__name__}, which is the slower path" in other.spec.why


def left_alone(folder: Path, kind: str) -> str:
    make_other(folder, kind)
    return " ".join(read_any_spec(folder).notes)


def test_what_is_left_alone_is_said(tmp_path: Path) -> None:
    assert "mlp.experts.gate_up_proj (61,440)" in left_alone(tmp_path / "mixtral", "mixtral")
    assert "out_proj" in left_alone(tmp_path / "mamba2", "mamba2")
    assert "dropout" in left_alone(tmp_path / "gpt2", "gpt2") and "(resid_pdrop" in left_alone(tmp_path / "g", "gpt2")
    assert left_alone(tmp_path / "olmo2", "olmo2") == ""


def test_names_that_peft_takes_for_experts(tmp_path: Path) -> None:
    """DeepSeek's dense and shared MLPs are called as its experts were; without them PEFT reads the adapter."""
    model = make_other(tmp_path, "deepseek_v3")
    decoder, tokens = load_decoder(tmp_path, dtype=torch.float32), TOKENS[:30]
    assert "PEFT can take down_proj, gate_proj, up_proj" in " ".join(decoder.spec.notes)
    with torch.no_grad():
        assert_same(logits_of(decoder, tokens), model(tokens[None]).logits[0], tolerance=5e-5)
    adapter = stirred(decoder, targets=[name for name in decoder.spec.targets if name[:2] not in ("ga", "up", "do")])
    (tmp_path / "adapter").mkdir()
    save_adapter(adapter, tmp_path / "adapter", base_model=str(tmp_path))
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert_same(logits_of(decoder, tokens, adapter), theirs(tokens[None]).logits[0], tolerance=5e-5)


def test_rectangles_are_at_least_three_quarters_full() -> None:
    assert list(batches([5, 23, 1, 17, 16, 21], None)) == [[1, 5], [3, 4], [0], [2]]
    assert list(batches([5, 23, 1, 17, 16, 21], 16)) == [[1, 5], [3], [4], [0], [2]]
    assert list(batches([5, 23, 1, 18, 17, 21], 17)) == [[1, 5, 3], [4], [0], [2]]
    assert list(batches([], None)) == []


LONG = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "factor": 2.0,
        "original_max_position_embeddings": 16, "short_factor": [1.0, 1.3], "long_factor": [2.0, 9.0]}  # fmt: skip


def test_rows_on_both_sides_of_longropes_border(tmp_path: Path) -> None:
    """Their module turns a whole batch as its longest row wants it."""
    model = make_other(tmp_path, "phi", rope_parameters=LONG, max_position_embeddings=64)
    decoder, segments = load_decoder(tmp_path, dtype=torch.float32), Segments.of([17, 16, 14, 20])
    assert decoder.spec.border == 16 and decoder.spec.most_tokens(9) == 16 and decoder.spec.most_tokens(20) == 64
    packed = decoder.hidden(TOKENS[:67], segments)
    with torch.no_grad():
        for start, end in segments.spans:
            theirs = model(TOKENS[None, start:end]).logits[0]
            assert_same(decoder.logits(packed[start:end]), theirs, tolerance=5e-5)


def test_fused_attention_is_not_taken_where_it_gives_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_other(tmp_path, "olmo2")
    assert load_decoder(tmp_path, dtype=torch.float32).module.config._attn_implementation == "sdpa"
    fused = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", lambda *a, **k: fused(*a, **k) * 0.5)
    decoder = load_decoder(tmp_path, dtype=torch.float32)
    assert decoder.module.config._attn_implementation == "eager"
    with torch.no_grad():
        assert_same(logits_of(decoder, TOKENS[:30]), model(TOKENS[None, :30]).logits[0], tolerance=5e-5)
