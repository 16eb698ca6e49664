"""What a decoder is made of, read from a Hugging Face `config.json`.

A family is a small function from its config to a `Spec`; the one decoder in `decoder.py` runs every spec. What a spec
cannot express is refused by name here, before any weight is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import ModelError
from luthier.core.files import read_json
from luthier.models.not_covered import NotCovered as NotCovered
from luthier.models.prequantised import require_nf4
from luthier.models.rope_scaling import RopeScaling, read_rope

# The linears of a layer as the decoder runs them, and what Hugging Face checkpoints and PEFT adapters call their
# slices: most families store each slice by itself, some store them as the decoder has them.
SPLIT: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
MERGED = SPLIT | {"qkv": ("self_attn.qkv_proj",), "gate_up": ("mlp.gate_up_proj",)}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The shape of a Llama-like decoder: pre-norm RMSNorm, RoPE attention with grouped keys, a gated MLP."""

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
    local_rope: RopeScaling | None = None  # RoPE of the layers with a window, where it is another
    activation: Literal["silu", "gelu"] = "silu"  # of the MLP's gate; gelu is the tanh form
    plus_one: bool = False  # norms multiply by 1 + w
    after_norms: bool = False  # attention and MLP are normed again before they join the residual
    embedding_scale: float = 1.0  # embeddings are multiplied by it
    attention_softcap: float | None = None  # c·tanh(score / c)
    logit_softcap: float | None = None  # c·tanh(logit / c)
    merged: bool = False  # q|k|v is one linear in checkpoints and adapters, gate|up as well
    left_out: tuple[str, ...] = ()  # beginnings of tensor names: parts of the model that no text passes through

    def window(self, layer: int) -> int | None:
        """Tokens that layer `layer` looks back over, itself included; None is all."""
        return self.windows[layer] if self.windows else None

    def most_tokens(self, prompt: int) -> int:
        """Tokens that a conversation can come to that began with so many: its keys stay turned as its prompt was."""
        border = self.rope.border
        return self.max_positions if border is None or prompt > border else border

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Output features of q, k and v."""
        return self.num_heads * self.head_size, *(2 * (self.num_kv_heads * self.head_size,))

    @property
    def linear_names(self) -> dict[str, tuple[str, ...]]:
        """Of each linear of a layer: what checkpoints and adapters call its slices."""
        return MERGED if self.merged else SPLIT

    @property
    def linear_shapes(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Of each linear of a layer: input features M, and the output features of its slices."""
        d, f, qkv = self.hidden_size, self.ffn_size, self.qkv_sizes
        gate_up = (f, f)
        if self.merged:
            qkv, gate_up = (sum(qkv),), (2 * f,)
        return {"qkv": (d, qkv), "o": (self.qkv_sizes[0], (d,)), "gate_up": (d, gate_up), "down": (f, (d,))}

    def layer_linears(self, layer: int) -> dict[str, tuple[int, tuple[tuple[str, int], ...]]]:
        """Of each linear of layer `layer`: input features M, and of its slices the names and output features."""
        names = self.linear_names
        return {kind: (m, tuple(zip(names[kind], outs, strict=True))) for kind, (m, outs) in self.linear_shapes.items()}

    @property
    def targets(self) -> tuple[str, ...]:
        """What an adapter can be put on, by the last part of its name."""
        return tuple(name.split(".")[1] for names in self.linear_names.values() for name in names)

    @property
    def biases(self) -> dict[str, bool]:
        """Which linears of a layer have one."""
        return {"qkv": self.qkv_bias, "o": self.o_bias, "gate_up": self.mlp_bias, "down": self.mlp_bias}

    @property
    def peft_prefix(self) -> str:
        """Where PEFT finds the layers in the model that `transformers` makes of the folder."""
        return "model.language_model" if self.left_out else "model"

    @property
    def layers_path(self) -> str:
        """Where PEFT finds the list of them."""
        return f"{self.peft_prefix}.layers"

    @property
    def adapts_tables(self) -> bool:
        """Whether head and embedding can have adapters, too."""
        return True

    @property
    def transposed(self) -> bool:
        """Whether checkpoints hold the linears as (M, N)."""
        return False

    @property
    def border(self) -> int | None:
        """Tokens beyond which all of a segment's keys turn otherwise."""
        return self.rope.border

    @property
    def cache_numbers(self) -> int:
        """Keys and values that a token leaves behind, in all layers."""
        return self.num_layers * 2 * self.qkv_sizes[1]

    @property
    def num_linear_parameters(self) -> int:
        """Weights of the layers' linears, which is what a 4-bit base quantises."""
        return self.num_layers * sum(m * sum(outs) for m, outs in self.linear_shapes.values())

    @property
    def num_parameters(self) -> int:
        """Weights of the base model, the tied table counted once."""
        d = self.hidden_size
        biases = sum(sum(outs) for name, (_, outs) in self.linear_shapes.items() if self.biases[name])
        norms = (4 if self.after_norms else 2) * d + 2 * self.head_size * self.head_norms
        rest = self.num_layers * (norms + biases) + d + (1 if self.tied else 2) * self.vocab_size * d
        return self.num_linear_parameters + rest


def _common(config: Mapping[str, Any], *, tied: bool = False) -> dict[str, Any]:
    """`tied` is what the family takes a config for that does not say."""
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
        "tied": config.get("tie_word_embeddings", tied),
        "rope": read_rope(config),
    }


def _llama(config: Mapping[str, Any]) -> Spec:
    bias = config.get("attention_bias", False)
    mlp_bias = config.get("mlp_bias", False)
    return Spec(family="llama", **_common(config), qkv_bias=bias, o_bias=bias, mlp_bias=mlp_bias)


def _everywhere(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Windows of models that have the same in every layer."""
    window = config.get("sliding_window")
    return (window,) * config["num_hidden_layers"] if window else ()


def _mistral(config: Mapping[str, Any]) -> Spec:
    return Spec(family="mistral", **_common(config), windows=_everywhere(config))


def _windows(config: Mapping[str, Any], kinds: list[str]) -> tuple[int | None, ...]:
    return tuple(config["sliding_window"] if kind == "sliding_attention" else None for kind in kinds)


def _some_windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Windows of models that use them in some layers only, and only where the config asks."""
    if not (config.get("use_sliding_window") and config.get("sliding_window")):
        return ()
    full = config.get("max_window_layers", config["num_hidden_layers"])
    kinds = config.get("layer_types") or [
        "full_attention" if layer < full else "sliding_attention" for layer in range(config["num_hidden_layers"])
    ]
    return _windows(config, kinds)


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
    tied = config.get("tie_word_embeddings", True)
    return replace(_llama(config), family="smollm3", windows=_some_windows(config), unturned=unturned, tied=tied)


def _phi3(config: Mapping[str, Any]) -> Spec:
    """Phi-3, Phi-3.5 and Phi-4, but not their kinds with experts, images or sparse attention."""
    return Spec(family="phi3", **_common(config), merged=True, windows=_everywhere(config))


def _gemma(config: Mapping[str, Any], rope: RopeScaling, every: int) -> dict[str, Any]:
    """What Gemma 2 and 3 share; the last of `every` layers has no window where the config does not say which."""
    layers = range(config["num_hidden_layers"])
    kinds = config.get("layer_types") or [
        "sliding_attention" if (layer + 1) % every else "full_attention" for layer in layers
    ]
    # Scores are scaled by 1/√query_pre_attn_scalar, not 1/√K. Attention does the latter; RoPE's tables do the rest, as
    # q and k both pass through them.
    heat = (rope.head_size / config["query_pre_attn_scalar"]) ** 0.25
    bias = config.get("attention_bias", False)
    return _common(config, tied=True) | {
        "rope": replace(rope, heat=heat),
        "windows": _windows(config, kinds),
        "qkv_bias": bias,
        "o_bias": bias,
        "activation": "gelu",
        "plus_one": True,
        "after_norms": True,
        "embedding_scale": config["hidden_size"] ** 0.5,
        "logit_softcap": config.get("final_logit_softcapping"),
    }


def _gemma2(config: Mapping[str, Any]) -> Spec:
    softcap = config.get("attn_logit_softcapping")
    return Spec(family="gemma2", **_gemma(config, read_rope(config), 2), attention_softcap=softcap)


# Published configs of Gemma 3 with images hold only what differs from these.
_GEMMA3_DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262_208,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}


def _gemma3_text(config: Mapping[str, Any]) -> Spec:
    config = _GEMMA3_DEFAULTS | {"rope_theta": 1e6} | dict(config)
    if not config["sliding_window"]:
        raise NotCovered("Gemma 3 without sliding_window is not supported", entry="sliding_window: null")
    ropes = config.get("rope_parameters") or {}
    full = {**config, "rope_parameters": ropes.get("full_attention")}
    sliding = ropes.get("sliding_attention") or {"rope_theta": config.get("rope_local_base_freq", 1e4)}
    shared = _gemma(full, read_rope(full), config.get("sliding_window_pattern", 6))
    local = replace(read_rope({**config, "rope_parameters": sliding}), heat=shared["rope"].heat)
    return Spec(family="gemma3", **shared, head_norms=True, local_rope=local)


def _gemma3(config: Mapping[str, Any]) -> Spec:
    """The text part of a model that also reads images."""
    tied = {"tie_word_embeddings": config["tie_word_embeddings"]} if "tie_word_embeddings" in config else {}
    left_out = tuple(
        f"{prefix}{part}." for prefix in ("", "model.") for part in ("vision_tower", "multi_modal_projector")
    )
    return replace(_gemma3_text(dict(config["text_config"]) | tied), left_out=left_out)


FAMILIES: dict[str, Callable[[Mapping[str, Any]], Spec]] = {
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma3_text": _gemma3_text,
    "llama": _llama,
    "mistral": _mistral,
    "phi3": _phi3,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
}
# Where a config names the MLP's activation, and what each family runs.
_ACTIVATIONS = ("hidden_act", "silu"), ("hidden_activation", "gelu_pytorch_tanh")
# What `transformers` would run otherwise, wherever it is found and says something else than this.
_NOT_RUN: dict[str, tuple[Any, str]] = {
    "use_bidirectional_attention": (False, "attention to later tokens"),
    "attention_dropout": (0, "dropout of attention"),
    "resid_pdrop": (0, "dropout of the residual"),
    "embd_pdrop": (0, "dropout of embeddings"),
}


def read_spec(folder: Path) -> Spec:
    """The spec of the model in `folder`, for our own decoder.

    Raises:
        NotCovered: an architecture, activation or RoPE scaling that the decoder does not run.
        ModelError: no config, or one without a field that is needed.
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
        raise NotCovered(
            f'architecture "{kind}" is not supported in this version',
            entry=f"model_type: {kind}",
            where=where,
            fix=f"choose a model of one of these types: {known} (SmolLM2 is llama, Qwen 2.5 is qwen2, Phi-4 is phi3), "
            "or of another that transformers has a decoder for",
        )
    _refuse_what_is_not_run(config.get("text_config") or config, kind, where)
    if config.get("quantization_config"):
        require_nf4(config["quantization_config"], where)
    try:
        return replace(FAMILIES[kind](config), nf4=bool(config.get("quantization_config")))
    except KeyError as error:
        raise ModelError(f"the field {error} is missing", where=where) from None


def _refuse_what_is_not_run(config: Mapping[str, Any], kind: str, where: str) -> None:
    key, runs = _ACTIVATIONS[kind.startswith("gemma")]
    activation = config.get(key) or runs
    if activation != runs:
        what = f'activation "{activation}" is not supported in this version (only {runs})'
        raise NotCovered(what, entry=f"{key}: {activation}", where=where)
    for key, (plain, what) in _NOT_RUN.items():
        if (config.get(key) or plain) != plain:
            entry = f"{key}: {config[key]}"
            raise NotCovered(f"{what} ({entry}) is not supported in this version", entry=entry, where=where)
