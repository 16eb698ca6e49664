"""What every family must keep: a row alone and among others, layers run twice, adapters from PEFT, refusals by name."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers_models import decoder_of, full_adapter, make_config, make_twin
from helpers_numerics import assert_same
from luthier.core.errors import ModelError
from luthier.kernels.segments import Segments
from luthier.models.adapter_files import load_adapter
from luthier.models.generate import generate_batch
from luthier.models.spec import read_spec, spec_from_config

LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.3, 2.0], "long_factor": [2.0, 4.0, 9.0]}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
    "mistral": ("mistral", {"sliding_window": 7}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3_text", {}),
    "gemma3 with images": ("gemma3", {}),
    "phi3": ("phi3", {"sliding_window": 7}),
    "phi4": (
        "phi3",
        {"rope_parameters": LONGROPE | {"rope_theta": 1e4, "partial_rotary_factor": 0.75},
         "original_max_position_embeddings": 16},
    ),
}  # fmt: skip
LENGTHS = [5, 23, 1, 17, 16]


@pytest.fixture(params=FAMILIES, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, changes = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("family")
    make_twin(folder, kind, **changes)
    return folder


def tokens_of(length: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 160, (length,), generator=torch.Generator().manual_seed(seed))


def test_packed_is_alone(folder: Path) -> None:
    """Segments are longer than the windows, and on both sides of longrope's border."""
    decoder, segments = decoder_of(folder), Segments.of(LENGTHS)
    tokens, adapter = tokens_of(sum(LENGTHS)), full_adapter(decoder)
    packed = decoder.hidden(tokens, segments, adapter)
    for start, end in segments.spans:
        alone = decoder.hidden(tokens[start:end], Segments.of([end - start]), adapter)
        assert_same(packed[start:end], alone, tolerance=2e-5)


def test_a_shared_beginning_is_each_row_whole(folder: Path) -> None:
    decoder, tokens = decoder_of(folder), tokens_of(9 + 12 + 14)
    adapter, shared = full_adapter(decoder), Segments.of([9, 12, 14], parents=[None, 0, 0])
    packed = decoder.hidden(tokens, shared, adapter)
    for start, end in shared.spans[1:]:
        whole = decoder.hidden(torch.cat([tokens[:9], tokens[start:end]]), Segments.of([9 + end - start]), adapter)
        assert_same(packed[start:end], whole[9:], tolerance=2e-5)


def test_layers_that_run_again_give_the_same_bits(folder: Path) -> None:
    made = []
    for again in ((), range(4)):
        decoder = decoder_of(folder)
        decoder.recomputed = again
        adapter = full_adapter(decoder)
        (-decoder.logprobs(tokens_of(40), Segments.of([25, 15]), torch.tensor([3, 24, 30]), adapter).sum()).backward()
        made.append(adapter.grad.clone())
    assert torch.equal(*made) and made[0].abs().max() > 0


def test_answers_with_a_cache_are_those_of_whole_passes(folder: Path) -> None:
    decoder = decoder_of(folder)
    adapter = full_adapter(decoder)
    prompts = [tokens_of(4, 1).tolist(), tokens_of(19, 2).tolist(), tokens_of(11, 3).tolist()]
    answers = generate_batch(
        decoder, prompts, decode=str, stop_ids=frozenset(), max_new_tokens=8, adapter=adapter
    )  # fmt: skip
    for prompt, answer in zip(prompts, answers, strict=True):
        whole = list(prompt)
        for token in answer.tokens:
            hidden = decoder.hidden(torch.tensor(whole), Segments.of([len(whole)]), adapter)[-1:]
            assert int(decoder.logits(hidden).argmax()) == token
            whole.append(token)
        border = decoder.spec.rope.border
        assert len(answer.tokens) == (8 if border is None or len(prompt) > border else min(8, border - len(prompt)))


def test_an_adapter_written_by_peft(folder: Path, tmp_path: Path) -> None:
    """Names of `target_modules` as people give them, or PEFT's "all-linear"; a pattern where there are images."""
    spec, model = read_spec(folder), make_model(folder)
    targets = r".*language_model.*\.(q_proj|down_proj)" if spec.left_out else list(spec.targets)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    wrapped.save_pretrained(tmp_path)
    decoder, tokens = decoder_of(folder), tokens_of(30)
    adapter = load_adapter(tmp_path, decoder.spec)
    with torch.no_grad():
        theirs = wrapped(tokens[None]).logits[0]
        ours = decoder.logits(decoder.hidden(tokens, Segments.of([30]), adapter))
    assert_same(ours, theirs, tolerance=2e-5)


def make_model(folder: Path) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    return getattr(transformers, config.architectures[0]).from_pretrained(folder, attn_implementation="eager")


def test_weights_are_counted(folder: Path) -> None:
    spec = read_spec(folder)
    stored = load_file(folder / "model.safetensors")
    numbers = sum(t.numel() for name, t in stored.items() if not (spec.left_out and name.startswith(spec.left_out)))
    assert spec.num_parameters == numbers


def test_names_as_published_checkpoints_of_gemma_3_have_them(tmp_path: Path) -> None:
    make_twin(tmp_path, "gemma3")
    tensors, tokens = load_file(tmp_path / "model.safetensors"), tokens_of(20)
    before = decoder_of(tmp_path).hidden(tokens, Segments.of([20]))
    names = {
        name: name.replace("model.language_model.", "language_model.model.").removeprefix("model.") for name in tensors
    }
    assert any(name.startswith("vision_tower.") for name in names.values())
    save_file(
        {names[name]: tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    assert torch.equal(decoder_of(tmp_path).hidden(tokens, Segments.of([20])), before)


def test_the_config_of_gemma_3_4b_as_published_is_complete() -> None:
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}  # fmt: skip
    spec = spec_from_config({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    assert (spec.num_heads, spec.num_kv_heads, spec.head_size, spec.vocab_size, spec.tied) == (8, 4, 256, 262_208, True)
    assert spec.windows[:7] == (1024,) * 5 + (None, 1024) and len(spec.windows) == 34
    assert (spec.rope.kind, spec.rope.theta, spec.rope.values["factor"]) == ("linear", 1e6, 8.0)
    assert (spec.local_rope.kind, spec.local_rope.theta) == ("default", 1e4)


def test_older_configs_mean_the_same() -> None:
    """As they were written before `rope_parameters` and `layer_types`, on the hub to this day."""
    gemma = make_config("gemma3_text", num_hidden_layers=12, layer_types=None).to_dict()
    old = {key: value for key, value in gemma.items() if key not in ("rope_parameters", "layer_types")}
    old |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
    assert spec_from_config(old) == spec_from_config(gemma)
    phi = make_config("phi3", rope_parameters=LONGROPE | {"partial_rotary_factor": 0.75}).to_dict()
    old = {key: value for key, value in phi.items() if key != "rope_parameters"}
    factors = {key: LONGROPE[key] for key in ("short_factor", "long_factor")}
    old |= {"rope_theta": 1e4, "partial_rotary_factor": 0.75, "rope_scaling": {"type": "su", **factors}}
    assert spec_from_config(old) == spec_from_config(phi)


def test_llama_2_as_published() -> None:
    config = {"model_type": "llama", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
              "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
              "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": None,
              "tie_word_embeddings": False, "vocab_size": 32000}  # fmt: skip
    spec = spec_from_config(config)
    assert spec.num_parameters == 6_738_415_616 and spec.rope.theta == 10_000 and not spec.tied
    assert spec_from_config({key: value for key, value in config.items() if "key_value" not in key}) == spec


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Phi-4 multimodal": ({"model_type": "phi4mm"}, "phi4mm"),
    "Phi-3 small, sparse attention": ({"model_type": "phi3small"}, "phi3small"),
    "Phi-3.5 MoE": ({"model_type": "phimoe"}, "phimoe"),
    "Gemma 3n": ({"model_type": "gemma3n"}, "gemma3n"),
    "Gemma 1": ({"model_type": "gemma"}, '"gemma"'),
    "Mixtral": ({"model_type": "mixtral"}, "mixtral"),
    "Qwen 3 MoE": ({"model_type": "qwen3_moe"}, "qwen3_moe"),
    "an embedding model": (
        make_config("gemma3_text").to_dict() | {"use_bidirectional_attention": True}, "later tokens"),
    "plain gelu": (make_config("gemma2").to_dict() | {"hidden_activation": "gelu"}, '"gelu"'),
    "gelu in Llama": (make_config("llama").to_dict() | {"hidden_act": "gelu_pytorch_tanh"}, "gelu_pytorch_tanh"),
    "dropout": (make_config("phi3").to_dict() | {"resid_pdrop": 0.1}, "resid_pdrop"),
    "dynamic rope": (
        make_config("llama").to_dict() | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    "partial rotary in Llama": (make_config("llama").to_dict() | {"partial_rotary_factor": 0.5}, "partial rotary"),
    "longrope with too few factors": (
        make_config("phi3").to_dict() | {"rope_parameters": LONGROPE | {"rope_theta": 1e4}}, "3 and 3 factors"),
    "longrope without factors": (
        make_config("phi3").to_dict() | {"rope_parameters": {"rope_type": "longrope"}}, "short_factor"),
    "Gemma 3 without a window": (make_config("gemma3_text").to_dict() | {"sliding_window": None}, "sliding_window"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "named"), REFUSED.values(), ids=REFUSED)
def test_what_a_spec_cannot_express_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        spec_from_config(config)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "phi3", "llama"])
def test_a_tensor_without_a_place_is_refused(tmp_path: Path, kind: str) -> None:
    make_twin(tmp_path, kind)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.input_layernorm.weight"))
    extra = name.replace("input_layernorm", "self_attn.q_extra")
    save_file(tensors | {extra: tensors[name].clone()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors .* no place for.*q_extra"):
        decoder_of(tmp_path)
