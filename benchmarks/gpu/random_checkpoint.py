"""A checkpoint of random weights in the shape of a known model, written tensor by tensor.

Time and memory of a training step do not depend on what the weights are, so nothing has to be downloaded.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
    },
}
SPECIALS = ("<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>")


def write_checkpoint(folder: Path, shape: str) -> None:
    """config.json, a shard a layer with its index, and a tokenizer of single bytes; 16 GB for 8B, about 2 GB of memory.

    Args:
        folder: made here.
        shape: a name in SHAPES.
    """
    config = SHAPES[shape]
    folder.mkdir(parents=True)
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q, kv = (config[name] * config["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    layer = {
        "self_attn.q_proj": (q, d),
        "self_attn.k_proj": (kv, d),
        "self_attn.v_proj": (kv, d),
        "self_attn.o_proj": (d, q),
        "mlp.gate_proj": (f, d),
        "mlp.up_proj": (f, d),
        "mlp.down_proj": (d, f),
        "input_layernorm": (d,),
        "post_attention_layernorm": (d,),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    index: dict[str, str] = {}

    def shard(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
        tensors = {}
        for key, size in shapes.items():
            tensor = torch.ones(size, dtype=torch.bfloat16, device=device)
            if len(size) == 2:
                tensor.normal_(0.0, 0.02, generator=generator)
            tensors[f"{key}.weight"] = tensor.cpu()
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    shard("model-embed.safetensors", {"model.embed_tokens": (v, d)})
    for i in range(config["num_hidden_layers"]):
        shard(f"model-layer-{i:02}.safetensors", {f"model.layers.{i}.{key}": size for key, size in layer.items()})
    shard("model-head.safetensors", {"model.norm": (d,), "lm_head": (v, d)})
    total = 2 * (2 * v * d + d + config["num_hidden_layers"] * sum(torch.Size(size).numel() for size in layer.values()))
    fixed = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "torch_dtype": "bfloat16",
    }
    _write(folder / "config.json", {**fixed, **config})
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})
    _tokenizer(folder)


def _tokenizer(folder: Path) -> None:
    """256 bytes and three special tokens; the peers' loaders want one, the rows are ids already."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("bos_token", "eos_token", "pad_token"), SPECIALS, strict=True))
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n")
