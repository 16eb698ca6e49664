"""What a decoder is made of, read from a Hugging Face `config.json`.

A family is a small function from its config to a `Spec`; the one decoder in `decoder.py` runs every spec. What a spec
cannot express is refused by name here, before any weight is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.files import read_json
from luthier.models.prequantised import require_nf4
from luthier.models.rope_scaling import RopeScaling, read_rope


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The shape of a Llama-like decoder: pre-norm RMSNorm, RoPE attention with grouped keys, SwiGLU."""

    family: str
    num_layers: int
    hidden_size: int  # D
    num_heads: int  # H
    num_kv_heads: int  # G
    head_size: int  # K
    ffn_size: int  # F
    vocab_size: int  # V
    norm_eps: float
    rope: RopeScaling
    max_positions: int
    tied: bool  # the output head is the embedding table
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    nf4: bool = False  # the linears are stored as NF4
    head_norms: bool = False  # each head of q and k passes an RMSNorm before RoPE
    windows: tuple[int | None, ...] = ()  # one a layer; empty: every layer sees the whole segment
    unturned: frozenset[int] = frozenset()  # layers without RoPE

    def window(self, layer: int) -> int | None:
        """Tokens that layer `layer` looks back over, itself included; None is all."""
        return self.windows[layer] if self.windows else None

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Output features of q, k and v."""
        return self.num_heads * self.head_size, *(2 * (self.num_kv_heads * self.head_size,))

    @property
    def num_linear_parameters(self) -> int:
        """Weights of the layers' linears, which is what a 4-bit base quantises."""
        d, f, (q, k, v) = self.hidden_size, self.ffn_size, self.qkv_sizes
        return self.num_layers * (d * (q + k + v) + q * d + 3 * d * f)

    @property
    def num_parameters(self) -> int:
        """Weights of the base model, the tied table counted once."""
        d, f, (q, k, v) = self.hidden_size, self.ffn_size, self.qkv_sizes
        biases = self.qkv_bias * (q + k + v) + self.o_bias * d + self.mlp_bias * (2 * f + d)
        norms = 2 * d + 2 * self.head_size * self.head_norms
        layer = d * (q + k + v) + q * d + 3 * d * f + norms + biases
        return self.num_layers * layer + d + (1 if self.tied else 2) * self.vocab_size * d


def _common(config: Mapping[str, Any]) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    return {
        "num_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "head_size": config.get("head_dim") or config["hidden_size"] // heads,
        "ffn_size": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "norm_eps": config["rms_norm_eps"],
        "max_positions": config["max_position_embeddings"],
        "tied": config.get("tie_word_embeddings", False),
        "rope": read_rope(config),
    }


def _llama(config: Mapping[str, Any]) -> Spec:
    bias = config.get("attention_bias", False)
    mlp_bias = config.get("mlp_bias", False)
    return Spec(family="llama", **_common(config), qkv_bias=bias, o_bias=bias, mlp_bias=mlp_bias)


def _mistral(config: Mapping[str, Any]) -> Spec:
    window = config.get("sliding_window")
    windows = (window,) * config["num_hidden_layers"] if window else ()
    return Spec(family="mistral", **_common(config), windows=windows)


def _some_windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Windows of models that use them in some layers only."""
    if not (config.get("use_sliding_window") and config.get("sliding_window")):
        return ()
    full = config.get("max_window_layers", config["num_hidden_layers"])
    kinds = config.get("layer_types") or [
        "full_attention" if layer < full else "sliding_attention" for layer in range(config["num_hidden_layers"])
    ]
    return tuple(config["sliding_window"] if kind == "sliding_attention" else None for kind in kinds)


def _qwen2(config: Mapping[str, Any]) -> Spec:
    return Spec(family="qwen2", **_common(config), qkv_bias=True, windows=_some_windows(config))


def _qwen3(config: Mapping[str, Any]) -> Spec:
    bias = config.get("attention_bias", False)
    windows = _some_windows(config)
    return Spec(family="qwen3", **_common(config), qkv_bias=bias, o_bias=bias, head_norms=True, windows=windows)


def _smollm3(config: Mapping[str, Any]) -> Spec:
    interval = config.get("no_rope_layer_interval") or 4  # the last of every four has none where nothing is said
    turned = config.get("no_rope_layers") or [(i + 1) % interval != 0 for i in range(config["num_hidden_layers"])]
    unturned = frozenset(layer for layer, turns in enumerate(turned) if not turns)
    return replace(_llama(config), family="smollm3", windows=_some_windows(config), unturned=unturned)


FAMILIES: dict[str, Callable[[Mapping[str, Any]], Spec]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
}


def read_spec(folder: Path) -> Spec:
    """The spec of the model in `folder`.

    Raises:
        ModelError: an architecture, activation or RoPE scaling that the decoder does not run, or a config without a
            field it needs.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError("no config.json, so this is not a model folder", where=str(folder))
    return spec_from_config(read_json(path), where=str(path))


def spec_from_config(config: Mapping[str, Any], *, where: str = "config.json") -> Spec:
    """As `read_spec`, from the parsed config; `where` names it in errors."""
    kind = config.get("model_type", "unknown")
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f'architecture "{kind}" is not supported in this version',
            where=where,
            fix=f"choose a model of one of these model types: {known} (SmolLM2 is llama, Qwen 2.5 is qwen2)",
        )
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ModelError(f'activation "{activation}" is not supported in this version (only silu)', where=where)
    if config.get("quantization_config"):
        require_nf4(config["quantization_config"], where)
    try:
        return replace(FAMILIES[kind](config), nf4=bool(config.get("quantization_config")))
    except KeyError as error:
        raise ModelError(f"the field {error} is missing", where=where) from None
