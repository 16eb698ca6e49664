"""Tiny random models, as `transformers` makes and saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging

from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.models.weights import load_decoder

logging.disable_progress_bar()

SMALL: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "smollm3": (transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM),
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    "gemma3_text": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    "gemma3": (transformers.Gemma3Config, transformers.Gemma3ForConditionalGeneration),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
}
# What a tiny model of the kind needs beside `SMALL`, so that nothing of the family is idle.
OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 12, "sliding_window": 7, "attn_logit_softcapping": 3.0,
               "final_logit_softcapping": 4.0},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 12, "sliding_window": 5,
                    "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip
EYE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
       "image_size": 8, "patch_size": 4, "model_type": "siglip_vision_model"}  # fmt: skip


def make_config(kind: str, **changes: Any) -> transformers.PreTrainedConfig:
    """The config of a tiny model; of one with images, `changes` are those of its text part."""
    if kind == "gemma3":
        text = make_config("gemma3_text", **changes)
        return transformers.Gemma3Config(text_config=text.to_dict(), vision_config=EYE, mm_tokens_per_image=4,
                                         tie_word_embeddings=text.tie_word_embeddings)  # fmt: skip
    return KINDS[kind][0](**{**SMALL, **OWN.get(kind, {}), **changes})


def make_twin(folder: Path, kind: str, *, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
    """A random model of `kind`, saved to `folder` in float32; biases and norms are random too, so that none is idle."""
    torch.manual_seed(seed)
    config = make_config(kind, **changes)
    config._attn_implementation = "eager"
    model = KINDS[kind][1](config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
            elif "norm" in name:
                parameter.normal_(0.0 if kind.startswith("gemma") else 1.0, 0.2)  # Gemma's are 1 + w
            else:
                parameter.mul_(4)  # the usual start makes nearly flat attention, which would hide mistakes
    model.save_pretrained(folder)
    return model


def decoder_of(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """The folder's model in ours."""
    return load_decoder(folder, dtype=dtype)


def full_adapter(decoder: Decoder, *, rank: int = 4, alpha: float = 8, seed: int = 5, **kind: Any) -> Adapter:
    """An adapter that changes each of its linears: B is random, not zero."""
    adapter = Adapter(decoder.spec, rank, alpha, seed=seed, **kind)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for pairs in adapter.layers:
            for pair in pairs.values():
                for b in pair.bs:
                    b.copy_(torch.randn(b.shape, generator=generator) * 0.1)
    return adapter
