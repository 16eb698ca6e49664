"""Tiny model folders and .gguf files for the tests of the model store, written without our own code."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "12 3"]
TOKENS = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
SIZES: dict[str, int] = {"width": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "layers": 2, "head_dim": 16}
VOCAB = len(TOKENS) + 2  # two rows of padding


def twin(kind: str, *, tied: bool = False, **extra: Any) -> Any:
    """A tiny random transformers model whose weights are exact in float16 and bfloat16."""
    import transformers

    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    config = getattr(transformers, f"{names[kind]}Config")(
        vocab_size=VOCAB,
        hidden_size=SIZES["width"],
        intermediate_size=SIZES["ffn"],
        num_hidden_layers=SIZES["layers"],
        num_attention_heads=SIZES["heads"],
        num_key_value_heads=SIZES["kv_heads"],
        head_dim=SIZES["head_dim"],
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        **extra,
    )
    model = getattr(transformers, f"{names[kind]}ForCausalLM")(config).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-64, 65, parameter.shape, generator=draw) / 256)
    return model


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(
    path: Path,
    kind: str = "llama",
    model: Any = None,
    type_: Type = Type.F16,
    *,
    meta: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    tokenizer: str = "smollm",
) -> Path:
    """A .gguf as llama.cpp's converter writes it. `meta` replaces metadata, None removes it; `tensors` adds some."""
    model = model or twin(kind, tied=True)
    config = model.config
    writer = gguf.GGUFWriter(path, kind)
    values: dict[str, Any] = {
        "general.license": "mit",
        f"{kind}.block_count": config.num_hidden_layers,
        f"{kind}.context_length": config.max_position_embeddings,
        f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.feed_forward_length": config.intermediate_size,
        f"{kind}.attention.head_count": config.num_attention_heads,
        f"{kind}.attention.head_count_kv": config.num_key_value_heads,
        f"{kind}.attention.key_length": config.head_dim,
        f"{kind}.attention.value_length": config.head_dim,
        f"{kind}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{kind}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        **tokenizer_meta(tokenizer),
        **(meta or {}),
    }
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None
        array = weight.numpy().astype(np.float32)
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = permute(array, heads)
        add_tensor(writer, theirs, array, type_ if array.ndim == 2 else Type.F32)
    for name, array in (tensors or {}).items():
        add_tensor(writer, name, array, Type.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensor(writer: Any, name: str, array: np.ndarray, type_: Type) -> None:
    """One tensor, quantised to `type_`."""
    writer.add_tensor(name, quantize(array, type_), raw_dtype=type_)


def tokenizer_meta(kind: str) -> dict[str, Any]:
    """Metadata of a byte-level tokenizer with the pre-tokenizer `kind`, or of a SentencePiece one ("llama")."""
    if kind == "llama":
        return sentencepiece_meta()
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": [*TOKENS, "[PAD266]"],
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(TOKENS) - 3) + [5],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


# piece -> score; SentencePiece merges the pair with the best score first
PIECES = {"▁": -20.0, "a": -21.0, "b": -22.0, "c": -23.0, "ab": -2.0, "bc": -1.0, "▁a": -3.0, "▁ab": -4.0, "abc": -5.0}


def sentencepiece_meta() -> dict[str, Any]:
    """Metadata of a small SentencePiece vocabulary: unknown, bos, eos, the 256 bytes, `PIECES`."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + list(PIECES.values()),
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def write_folder(path: Path, *, shards: int = 1) -> Path:
    """A Hugging Face folder with two small tensors a shard, a tokenizer and a model card."""
    path.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}
    (path / "config.json").write_text(json.dumps(config))
    (path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    tokenizer = Tokenizer(models.BPE({token: id_ for id_, token in enumerate(TOKENS)}, []))
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text("{}")
    index: dict[str, str] = {}
    for shard in range(1, shards + 1):
        name = "model.safetensors" if shards == 1 else f"model-{shard:05}-of-{shards:05}.safetensors"
        tensors = {
            f"w{shard}": torch.ones(4, 8, dtype=torch.bfloat16),
            f"b{shard}": torch.zeros(4, dtype=torch.float32),
        }
        save_file(tensors, path / name, {"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    if shards > 1:
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return path
