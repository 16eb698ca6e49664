"""config.json and the tensor names of a Hugging Face folder, from the metadata of a .gguf file."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.quants import dequantize

from luthier.core.errors import ModelError
from luthier.models.gguf_file import GgufFile

HEAD = "output.weight"
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    HEAD: "lm_head.weight",
}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_BIASES = {f"attn_{letter}.bias": f"self_attn.{letter}_proj.bias" for letter in "qkv"}
_HEAD_NORMS = {f"attn_{letter}_norm.weight": f"self_attn.{letter}_norm.weight" for letter in "qk"}
# Llama 3.1, 3.2 and 3.3 all use these; only the factor (8 or 32) differs and is read from the file.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class Architecture:
    """How one `general.architecture` is written: Hugging Face class, extra tensors of a layer, order of q/k rows."""

    class_name: str
    layer: dict[str, str]
    rotated_rows: bool  # llama.cpp's converter reorders the rows of q and k; only for "llama"


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", _LAYER, True),  # Mistral and SmolLM2 as well
    "qwen2": Architecture("Qwen2ForCausalLM", _LAYER | _BIASES, False),
    "qwen3": Architecture("Qwen3ForCausalLM", _LAYER | _HEAD_NORMS, False),
}


def architecture(file: GgufFile) -> Architecture:
    """The architecture of the file.

    Raises:
        ModelError: it is not one of `ARCHITECTURES`, a mixture of experts, or one part of a split file.
    """
    name = need(file, "general.architecture", str)
    if name not in ARCHITECTURES:
        raise unsupported(file, f"the architecture {name!r}; supported are {', '.join(ARCHITECTURES)}")
    if file.metadata.get("split.count", 1) not in (0, 1):
        what = f"one of {file.metadata['split.count']} parts of a split model"
        raise ModelError(
            what, where=str(file.path), fix="join the parts: llama-gguf-split --merge FIRST_PART WHOLE.gguf"
        )
    if file.metadata.get(f"{name}.expert_count", 0):
        raise unsupported(file, "a mixture of experts")
    return ARCHITECTURES[name]


def tensor_names(file: GgufFile, layers: int) -> dict[str, str]:
    """GGUF tensor name → Hugging Face name, for every tensor, in the model's order.

    Raises:
        ModelError: a tensor is missing, or there is one that this architecture does not have.
    """
    names = {name: _OUTER[name] for name in ("token_embd.weight",)}
    for layer in range(layers):
        for theirs, ours in architecture(file).layer.items():
            names[f"blk.{layer}.{theirs}"] = f"model.layers.{layer}.{ours}"
    names["output_norm.weight"] = _OUTER["output_norm.weight"]
    if HEAD in file.tensors:
        names[HEAD] = _OUTER[HEAD]
    missing = [name for name in names if name not in file.tensors]
    if missing:
        fix = "fetch or convert the file again"
        raise ModelError(f"the tensor {missing[0]} is missing", where=str(file.path), fix=fix)
    unknown = [name for name in file.tensors if name not in names and name != "rope_freqs.weight"]
    if unknown:
        raise unsupported(file, f"the tensor {unknown[0]} in the architecture {file.metadata['general.architecture']}")
    return names


def model_config(file: GgufFile) -> dict[str, Any]:
    """config.json of the model, without token ids.

    Raises:
        ModelError: a needed key is missing or has the wrong kind, or the model uses what we do not run.
    """
    arch = architecture(file)
    name = file.metadata["general.architecture"]
    width, heads = need(file, f"{name}.embedding_length", int), need(file, f"{name}.attention.head_count", int)
    kv_heads = optional(file, f"{name}.attention.head_count_kv", int, heads)
    head_size = optional(file, f"{name}.attention.key_length", int, width // max(heads, 1))
    context = need(file, f"{name}.context_length", int)
    layers, hidden = need(file, f"{name}.block_count", int), need(file, f"{name}.feed_forward_length", int)
    if min(width, heads, kv_heads, head_size, context, layers, hidden) < 1 or heads % kv_heads or head_size % 2:
        raise ModelError(
            "its metadata gives impossible sizes", where=str(file.path), fix="fetch or convert the file again"
        )
    if optional(file, f"{name}.attention.value_length", int, head_size) != head_size:
        raise unsupported(file, "a value size that differs from the key size")
    if optional(file, f"{name}.rope.dimension_count", int, head_size) != head_size:
        raise unsupported(file, "rotation of only a part of each head")
    if 0 < optional(file, f"{name}.attention.sliding_window", int, 0) < context:
        raise unsupported(file, "sliding-window attention")
    embedding = file.tensors.get("token_embd.weight")
    config = {
        "architectures": [arch.class_name],
        "model_type": name,
        "vocab_size": embedding.shape[0] if embedding else 0,  # tensor_names names a missing embedding
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_size,
        "hidden_act": "silu",
        "rms_norm_eps": need(file, f"{name}.attention.layer_norm_rms_epsilon", float),
        "rope_theta": optional(file, f"{name}.rope.freq_base", float, 10000.0),
        "max_position_embeddings": context,
        "tie_word_embeddings": HEAD not in file.tensors,
        "attention_bias": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
    }
    if name == "llama":
        config["mlp_bias"] = False
    # Metadata holds float32; 1e-5 must not become 9.999999747378752e-06.
    config |= {
        key: float(np.format_float_positional(np.float32(config[key]))) for key in ("rms_norm_eps", "rope_theta")
    }
    scaling = _rope_scaling(file, name, config)
    return config | ({"rope_scaling": scaling} if scaling else {})


def expected_shapes(config: dict[str, Any], names: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Hugging Face tensor name → the shape that the config asks for (out, in)."""
    width, hidden, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    by_end = {
        "embed_tokens.weight": (config["vocab_size"], width),
        "lm_head.weight": (config["vocab_size"], width),
        "norm.weight": (width,),
        "layernorm.weight": (width,),
        "q_proj.weight": (q, width),
        "k_proj.weight": (kv, width),
        "v_proj.weight": (kv, width),
        "o_proj.weight": (width, q),
        "q_proj.bias": (q,),
        "k_proj.bias": (kv,),
        "v_proj.bias": (kv,),
        "q_norm.weight": (size,),
        "k_norm.weight": (size,),
        "gate_proj.weight": (hidden, width),
        "up_proj.weight": (hidden, width),
        "down_proj.weight": (width, hidden),
    }
    return {
        name: next(shape for end, shape in reversed(by_end.items()) if name.endswith(end)) for name in names.values()
    }


def _rope_scaling(file: GgufFile, name: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """`rope_scaling` of config.json, or None for plain rotation."""
    kind = optional(file, f"{name}.rope.scaling.type", str, "none")
    factor = optional(
        file, f"{name}.rope.scaling.factor", float, optional(file, f"{name}.rope.scale_linear", float, 0.0)
    )
    if "rope_freqs.weight" in file.tensors:
        if kind != "none":
            raise unsupported(file, f"rope_freqs.weight together with {kind!r} scaling")
        return _llama3_scaling(file, config)
    if kind == "none" and factor in (0.0, 1.0):
        return None
    if kind in ("none", "linear"):
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        context = optional(file, f"{name}.rope.scaling.original_context_length", int, config["max_position_embeddings"])
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": context}
    raise unsupported(file, f"{kind!r} scaling of the rotation")


def _llama3_scaling(file: GgufFile, config: dict[str, Any]) -> dict[str, Any] | None:
    """Llama 3.1 scaling, where the factors that the file holds are exactly the ones that it gives.

    Source of the formula: `_compute_llama3_parameters` in transformers, `rope_freqs` in llama.cpp's converter.
    """
    tensor = file.tensors["rope_freqs.weight"]
    found = dequantize(file.blocks(tensor), tensor.type).reshape(-1).astype(np.float64)
    factor = float(found.max())
    if np.all(found == 1.0):
        return None
    low, high, original = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"], 8192
    half = config["head_dim"] // 2
    wavelengths = 2 * math.pi * config["rope_theta"] ** (np.arange(half) / half)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    if found.shape != (half,) or not np.allclose(1 / ((1 - smooth) / factor + smooth), found, rtol=1e-3):
        raise unsupported(file, "rotation factors (rope_freqs.weight) other than Llama 3.1's")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def need(file: GgufFile, key: str, kind: type) -> Any:
    """The metadata value of `key`, of the kind str, int, float, bool or list.

    Raises:
        ModelError: it is missing or of another kind.
    """
    if key not in file.metadata:
        raise ModelError(
            f"the metadata key {key} is missing", where=str(file.path), fix="fetch or convert the file again"
        )
    value = file.metadata[key]
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise unsupported(file, f"{key} = {str(value)[:40]}, where one {kind.__name__} is expected")
    return value


def optional(file: GgufFile, key: str, kind: type, default: Any) -> Any:
    """`need`, or `default` where the key is absent."""
    return need(file, key, kind) if key in file.metadata else default


def unsupported(file: GgufFile, what: str) -> ModelError:
    """The refusal of something that the file uses and Luthier does not run."""
    return ModelError(
        f"we do not run {what}", where=str(file.path), fix="choose another model, or its Hugging Face folder"
    )
