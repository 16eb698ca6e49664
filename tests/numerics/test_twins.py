"""Our decoder against tiny random `transformers` models: logits, LoRA gradients through PEFT, saved adapters."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from helpers_models import decoder_of, full_adapter, make_twin
from helpers_numerics import assert_same, assert_within_budget
from luthier.kernels.segments import Segments
from luthier.models.adapter_files import load_adapter, save_adapter
from luthier.models.generate import generate

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 500000.0,
}
PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}


def longrope(frequencies: int) -> dict[str, Any]:
    """Factors that are all different."""
    short, long = ([1.0 + 0.3 * i for i in range(frequencies)], [2.0 + 1.7 * i for i in range(frequencies)])
    return {"rope_type": "longrope", "short_factor": short, "long_factor": long, "rope_theta": 1e4}


TWINS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama untied, one key head": ("llama", {"num_key_value_heads": 1}),
    "llama, as many key heads": ("llama", {"num_key_value_heads": 6}),
    "llama, head size of its own": ("llama", {"head_dim": 16}),
    "llama, all biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}}),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama, yarn rope": ("llama", {"rope_parameters": YARN}),
    "smollm2 shape": ("llama", {"num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3, biases and a window": (
        "qwen3",
        {
            "head_dim": 8,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
    "smollm3, rope in the first layer only": ("smollm3", {"no_rope_layers": [1, 0], "tie_word_embeddings": False}),
    "qwen2 with a window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "gemma2": ("gemma2", {}),
    "gemma2, biases, nothing capped": (
        "gemma2",
        {"attention_bias": True, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma2, untied": ("gemma2", {"tie_word_embeddings": False, "num_hidden_layers": 3}),
    "gemma3": ("gemma3_text", {}),
    "gemma3, linear rope where all is seen": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
    "gemma3, capped logits": ("gemma3_text", {"final_logit_softcapping": 4.0}),
    "gemma3 with images": ("gemma3", {}),
    "phi3": ("phi3", {"num_key_value_heads": 6}),
    "phi3 with a window": ("phi3", {"sliding_window": 7}),
    "phi4, a part of each head turns": (
        "phi3",
        {"head_dim": 16, "rope_parameters": PARTIAL, "tie_word_embeddings": True},
    ),
    "phi3, longrope, short": ("phi3", {"rope_parameters": longrope(4), "original_max_position_embeddings": 64}),
    "phi3, longrope, long": ("phi3", {"rope_parameters": longrope(4), "original_max_position_embeddings": 8}),
    "phi3, longrope, as long as the border": (
        "phi3",
        {"rope_parameters": longrope(4), "original_max_position_embeddings": 40},
    ),
    "phi4, longrope of a part of each head": (
        "phi3",
        {"rope_parameters": longrope(3) | {"partial_rotary_factor": 0.75}, "original_max_position_embeddings": 8},
    ),
}


@pytest.fixture(params=TWINS, scope="module")
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    kind, changes = TWINS[request.param]
    folder = tmp_path_factory.mktemp("twin")
    return folder, make_twin(folder, kind, **changes)


def tokens_of(length: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 160, (length,), generator=torch.Generator().manual_seed(seed))


def test_logits(twin: tuple[Path, Any]) -> None:
    folder, model = twin
    tokens = tokens_of(40)
    decoder = decoder_of(folder)
    with torch.no_grad():
        plain = model(tokens[None]).logits[0]
        truth = deepcopy(model).double()(tokens[None]).logits[0]
        rough = deepcopy(model).bfloat16()(tokens[None]).logits[0]
        segments = Segments.of([40])
        assert_within_budget(decoder.logits(decoder.hidden(tokens, segments)), plain, truth, margin=1e-6)
        narrow = decoder_of(folder, torch.bfloat16)
        assert_within_budget(narrow.logits(narrow.hidden(tokens, segments)), rough, truth, margin=2e-3)


def as_peft(model: Any, folder: Path, adapter_dir: Path) -> Any:
    """The twin with the saved adapter, as PEFT loads it."""
    fresh = type(model).from_pretrained(folder, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(fresh, adapter_dir, is_trainable=True)


KINDS_OF_ADAPTER: dict[str, dict[str, Any]] = {
    "every linear": {},
    "some of merged linears, none of others": {"targets": ["k_proj", "v_proj", "gate_proj", "gate_up_proj"]},
    "scaled by the root of the rank": {"rslora": True},
}


@pytest.mark.parametrize("kind", KINDS_OF_ADAPTER.values(), ids=KINDS_OF_ADAPTER)
def test_saved_adapter_means_the_same_in_peft(twin: tuple[Path, Any], tmp_path: Path, kind: dict[str, Any]) -> None:
    folder, model = twin
    decoder = decoder_of(folder)
    adapter = full_adapter(decoder, **kind)
    save_adapter(adapter, tmp_path, base_model=str(folder))
    tokens = tokens_of(30)
    with torch.no_grad():
        theirs = as_peft(model, folder, tmp_path)(tokens[None]).logits[0]
        ours = decoder.logits(decoder.hidden(tokens, Segments.of([30]), adapter))
        again = decoder.logits(decoder.hidden(tokens, Segments.of([30]), load_adapter(tmp_path, decoder.spec)))
        base = decoder.logits(decoder.hidden(tokens, Segments.of([30])))
    assert_same(ours, theirs, tolerance=2e-5)
    assert torch.equal(again, ours)
    assert (base - ours).abs().max() > 0.01 * base.abs().max()  # the adapter does something


@pytest.mark.parametrize("kind", KINDS_OF_ADAPTER.values(), ids=KINDS_OF_ADAPTER)
def test_gradients(twin: tuple[Path, Any], tmp_path: Path, kind: dict[str, Any]) -> None:
    folder, model = twin
    decoder = decoder_of(folder)
    adapter = full_adapter(decoder, **kind)
    save_adapter(adapter, tmp_path, base_model=str(folder))
    tokens, targets = tokens_of(30), torch.tensor([1, 2, 9, 15, 16, 29])

    def peft_gradients(dtype: torch.dtype) -> dict[str, Tensor]:
        theirs = as_peft(model, folder, tmp_path).to(dtype)
        logits = theirs(tokens[None]).logits[0][targets - 1]
        torch.nn.functional.cross_entropy(logits, tokens[targets]).backward()
        return {
            name.replace(".default", ""): parameter.grad
            for name, parameter in theirs.named_parameters()
            if parameter.requires_grad
        }

    def our_gradients(dtype: torch.dtype) -> dict[str, Tensor]:
        adapter.grad.zero_()
        narrow = decoder_of(folder, dtype)
        (-narrow.logprobs(tokens, Segments.of([30]), targets, adapter).mean()).backward()
        values = adapter.flat.clone()
        adapter.flat.copy_(adapter.grad)
        gradients = {name: tensor.clone() for name, tensor in adapter.named().items()}
        adapter.flat.copy_(values)
        return gradients

    truth = peft_gradients(torch.float64)
    # The floor in bf16 is for the largest errors of thousands of tensors, of which PEFT's are small by luck at times:
    # over 15 to 30 seeds of five twins, 8 of 2,580 are beyond 2 x PEFT's + 1e-2, while on average ours are the smaller
    # ones in four of the five. What is worse on the whole shows in the mean over tensors, 0.71 to 1.32 of PEFT's here.
    for dtype, margin in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        ours, plain, errors = our_gradients(dtype), peft_gradients(dtype), []
        assert ours.keys() == plain.keys() == truth.keys()
        for name, true in truth.items():
            assert_within_budget(ours[name], plain[name], true, margin=margin, what=f"{dtype} {name}")
            errors.append([((g[name] - true).square().mean() / true.square().mean()).sqrt() for g in (ours, plain)])
        mine, theirs = torch.tensor(errors).mean(0).tolist()
        assert mine <= 1.5 * theirs + 1e-6, f"{dtype}: mean error {mine:.2e} of the gradients, PEFT's {theirs:.2e}"


def test_greedy_generation(twin: tuple[Path, Any]) -> None:
    folder, model = twin
    prompt = tokens_of(11)
    theirs = model.generate(prompt[None], max_new_tokens=20, do_sample=False, eos_token_id=None)[0, 11:]
    ours = list(generate(decoder_of(folder), prompt.tolist(), stop_ids=frozenset(), max_new_tokens=20))
    assert ours == theirs.tolist()
