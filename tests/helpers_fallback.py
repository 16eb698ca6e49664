"""Tiny random models of types that no family of ours covers, as `transformers` makes and saves them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from helpers_models import SMALL, make_twin
from helpers_tokenizers import model_folder
from luthier.data.tokenizer import Tokenizer

# What a tiny model of the kind needs beside `SMALL`, so that nothing of it is idle.
OWN: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.25},
    "bloom": {"n_head": 6},
    "deepseek_v3": {"num_key_value_heads": 6, "first_k_dense_replace": 1, "n_routed_experts": 8, "n_group": 2,
                    "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
                    "qk_nope_head_dim": 8, "v_head_dim": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "falcon": {"alibi": True, "new_decoder_architecture": False, "multi_query": True},
    "gemma": {"head_dim": 8},
    "gpt2": {"n_head": 6, "n_inner": 80},
    "gpt_neox": {"rotary_pct": 0.5},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 7,
                "layer_types": ["sliding_attention", "full_attention"]},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0,
                "attention_multiplier": 0.3},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
              "num_experts": 4, "num_experts_per_tok": 2, "mamba_d_state": 8, "mamba_dt_rank": 6},
    "mamba2": {"num_heads": 12, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2, "chunk_size": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "opt": {"ffn_dim": 80, "word_embed_proj_dim": 40},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi": {"partial_rotary_factor": 0.5},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 2,
                  "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "recurrent_gemma": {"lru_width": 48, "attention_window_size": 9, "logits_soft_cap": 2.0,
                        "block_types": ["recurrent", "attention"], "head_dim": 8},
    "starcoder2": {"use_bias": True, "sliding_window": 7},
}  # fmt: skip


def make_other(folder: Path, kind: str, *, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
    """A random model of type `kind`, saved to `folder` in float32; biases and norms are random too."""
    if kind in ("llama", "gemma2"):
        return make_twin(folder, kind, seed=seed, **changes)
    torch.manual_seed(seed)
    config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **OWN.get(kind, {}), **changes})
    config._attn_implementation = "eager"
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("A_log", ".D", "dt_bias", "recurrent_param", "conv1d.weight")):
                continue
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif "norm" in name or "ln_" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            else:
                parameter.mul_(4)  # the usual start is nearly the same for all tokens, which would hide mistakes
    model.save_pretrained(folder)
    return model


def make_other_chat(folder: Path, kind: str, *, style: str = "chatml", **changes: Any) -> Path:
    """Such a model with a tokenizer and a template."""
    vocab_size = Tokenizer(model_folder(folder, style)).vocab_size
    make_other(folder, kind, **{"vocab_size": vocab_size, "max_position_embeddings": 512, **changes})
    model_folder(folder, style)  # save_pretrained wrote a generation_config.json over the tokenizer's
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Write other values into config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
