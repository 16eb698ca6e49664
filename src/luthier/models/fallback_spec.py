"""What is known of a decoder that runs through its own module in `transformers`, before a weight is loaded.

No family of ours covers it, so its facts are not read from the config by us: the module is made on the meta device,
where it takes no memory, and its linears, layers and weights are counted there. Code from a model's folder is never
run: the class is the one that the installed `transformers` has for the config's `model_type`.
"""

import inspect
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.core.errors import ModelError
from luthier.core.files import read_json
from luthier.models.spec import NotCovered, Spec, read_spec

NO_LIMIT = 2**31  # positions of a model that counts none
_CAP_OFF = 2.0**40  # c·tanh(h / c) is h to the last bit for what a hidden state can be
_LAYERS = re.compile(r"\.\d+\.")
_EXPERT_NAMES = {"gate_proj", "up_proj", "down_proj"}
_LINEAR_KINDS = ("Linear", "Conv1D", "FalconLinear")  # Falcon's writes out what nn.Linear does


@dataclass(frozen=True, kw_only=True)
class FallbackSpec:
    """The shape of a decoder that `transformers` runs, as far as anything outside of it has to know.

    Attributes:
        family: the config's `model_type`.
        why: a sentence for people: that this is the slower path, and which entry of the config led to it.
        notes: sentences on what is left alone or left out.
        layers_path: where its layers are, "model.layers".
        linears: of each layer the linears that can be adapted, by their path in it: input and output features M, N.
        linear_parameters: weights of those.
        other_parameters: weights of all else.
        heads: of attention, where there is any, else 0.
        eager: no fused form of attention is tried, so it makes its whole table of scores.
        transposed: the linears are stored as (M, N), as GPT-2 does.
        exact_names: other linears of the model have the same names as those that can be adapted.
        recomputes: its layers can run again in the backward.
        border: tokens beyond which all of a segment's keys turn otherwise (longrope), or None.
        logit_softcap: c, where a logit s counts as c·tanh(s / c).
        cache_numbers: keys and values that a token leaves behind, in all layers; where they cannot be told from the
            names of the linears, as many as without grouped heads.
    """

    family: str
    why: str
    notes: tuple[str, ...]
    layers_path: str
    linears: tuple[Mapping[str, tuple[int, int]], ...]
    linear_parameters: int
    other_parameters: int
    hidden_size: int  # D
    vocab_size: int  # V
    heads: int
    max_positions: int
    tied: bool
    eager: bool
    transposed: bool
    exact_names: bool
    recomputes: bool
    border: int | None
    logit_softcap: float | None
    cache_numbers: int
    nf4: bool = False  # what is stored in 4 bits is for our own decoder
    left_out: tuple[str, ...] = ()
    adapts_tables: bool = False

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return len(self.linears)

    @property
    def num_parameters(self) -> int:
        """Weights of the base model, a tied table counted once."""
        return self.linear_parameters + self.other_parameters

    @property
    def targets(self) -> tuple[str, ...]:
        """What an adapter can be put on, by the last part of its name."""
        return tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for layer in self.linears for name in layer))

    @property
    def peft_prefix(self) -> str:
        """Where PEFT finds the layers' list."""
        return self.layers_path.rpartition(".")[0]

    def layer_linears(self, layer: int) -> dict[str, tuple[int, tuple[tuple[str, int], ...]]]:
        """As `Spec.layer_linears`; no linear here is merged of slices."""
        return {name: (m, ((name, n),)) for name, (m, n) in self.linears[layer].items()}

    def most_tokens(self, prompt: int) -> int:
        """As `Spec.most_tokens`."""
        return self.max_positions if self.border is None or prompt > self.border else self.border

    def base_bytes(self, width: int, *, nf4: bool, nf4_bytes: float) -> int:
        """Memory of the frozen base while it is trained on, in a dtype of `width` bytes."""
        largest = max(m * n for layer in self.linears for m, n in layer.values()) if nf4 else 0
        linears = int(self.linear_parameters * nf4_bytes) if nf4 else self.linear_parameters * width
        return linears + (self.other_parameters + largest) * width

    def activation_bytes(self, width: int, length: int, *, recompute: bool) -> int:
        """Bytes a token that the backward keeps, roughly, in segments of `length` tokens.

        Each linear keeps its input, and what comes out of it is kept by the plain torch op that follows; norms and
        residuals keep four more hidden states a layer; attention that makes its table of scores keeps three rows of
        it, one of them float32.
        """
        scores = self.heads * length * (2 * width + 4) if self.eager else 0
        layers = [
            width * (4 * self.hidden_size + sum(m + n for m, n in layer.values())) + scores for layer in self.linears
        ]
        return max(layers) + self.num_layers * self.hidden_size * width if recompute else sum(layers)


AnySpec = Spec | FallbackSpec


def needs_family(field: str, spec: FallbackSpec) -> str:
    """Why a field of the recipe is refused."""
    return f"{field} is for our own families, and a model of type {spec.family} runs through transformers"


def read_any_spec(folder: Path) -> AnySpec:
    """The spec of the model in `folder`: of our decoder, or of its own module in `transformers`.

    Raises:
        ModelError: neither runs it, or the config is damaged.
    """
    try:
        return read_spec(folder)
    except NotCovered as error:
        return _fallback_spec(folder, error)


def read_class(folder: Path, refusal: NotCovered | None = None) -> tuple[type, Any, tuple[str, ...]]:
    """The module's class, its config, and the names of the dropouts that were set to zero in it.

    Args:
        refusal: why our own decoder does not run the model.

    Raises:
        ModelError: `transformers` has no decoder for it, or one that cannot be trained here.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    path = folder / "config.json"
    stored = read_json(path)
    kind = stored.get("model_type", "unknown")
    where = str(path)
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        if refusal is not None and stored.get("auto_map"):
            raise ModelError(
                f"{refusal.what}, and transformers does not know it either: the folder brings code of its own, which "
                "is never run", where=where, fix=refusal.fix,
            )  # fmt: skip
        raise refusal or ModelError(f'transformers has no decoder of type "{kind}"', where=where)
    _refuse(folder, stored, where)
    try:
        config = CONFIG_MAPPING[kind].from_pretrained(folder, local_files_only=True)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"transformers cannot read it: {error}", where=where) from None
    if config.is_encoder_decoder or config.get_text_config() is not config:
        what = "has an encoder" if config.is_encoder_decoder else "also reads images or sound"
        raise ModelError(f'a model of type "{kind}" {what}, which is not supported in this version', where=where)
    made = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]]
    cls = made[0] if isinstance(made, tuple) else made
    if not cls.__module__.startswith("transformers."):
        raise ModelError(f"{cls.__name__} comes from {cls.__module__}, not from transformers", where=where)
    dropped = []
    for key, value in list(vars(config).items()):
        chance = any(part in key for part in ("dropout", "pdrop", "layerdrop"))
        if chance and isinstance(value, float) and value > 0:
            setattr(config, key, 0.0)
            dropped.append(key)
    return cls, config, tuple(dropped)


def _refuse(folder: Path, stored: Mapping[str, Any], where: str) -> None:
    """What `transformers` would run, but not so that training by packed segments is right."""
    rope = stored.get("rope_parameters") or stored.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    if kind == "dynamic":
        raise ModelError(
            'RoPE scaling "dynamic" is not supported: its angles depend on what else is in the batch', where=where
        )
    if stored.get("use_bidirectional_attention"):
        raise ModelError("attention to later tokens (use_bidirectional_attention: true) is not supported", where=where)
    if stored.get("quantization_config"):
        method = stored["quantization_config"].get("quant_method", "an unknown method")
        raise ModelError(
            f"the weights are already quantised ({method}), which is supported for our own families only",
            where=where, fix="choose the bf16 version of the model; adapter: qlora holds it in 4 bits",
        )  # fmt: skip
    if (folder / "adapter_config.json").is_file():
        raise ModelError("an adapter is in the folder too, and transformers would add it", where=str(folder))


def take_softcap(config: Any) -> float | None:
    """The cap on the logits; it is taken out of the config, because ours is applied."""
    for key, value in list(vars(config).items()):
        if "logit" in key and "cap" in key and not any(part in key for part in ("att", "router")) and value:
            setattr(config, key, _CAP_OFF)
            return float(value)
    return None


def wants_eager(config: Any) -> bool:
    """Whether only the plain form of attention computes what the config says: fused ones know no cap on scores."""
    return any("att" in key and "cap" in key and value for key, value in vars(config).items())


def adaptable(module: nn.Module, layers_path: str) -> dict[str, nn.Module]:
    """The linears of the layers that take an adapter, by full name: nn.Linear, and Conv1D, which is one transposed.

    Kinds derived from nn.Linear may compute something else, and of some linears the module around them reads the
    weights itself (Mamba's output projection), past any adapter, as in PEFT: both are left alone.
    """
    found = {}
    for name, part in module.named_modules():
        if name.startswith(layers_path + ".") and type(part).__name__ in _LINEAR_KINDS:
            around, _, last = name.rpartition(".")
            source = inspect.getsource(type(module.get_submodule(around)))
            if getattr(module.config, "pretraining_tp", 2) == 1 and "pretraining_tp" in source:
                source = ""  # it reads them only where the config asks for slices
            if not re.search(rf"self\.{last}\.(weight|bias)(?!\.(dtype|device))", source):
                found[name] = part
    return found


def linear_shape(part: nn.Module) -> tuple[int, int]:
    """Input and output features."""
    return (part.in_features, part.out_features) if isinstance(part, nn.Linear) else (part.nx, part.nf)


def find_layers(module: nn.Module, number: int, where: str) -> str:
    """The path of the list of the decoder's layers.

    Raises:
        ModelError: there is none, or more than one could be it.
    """
    lists = [name for name, part in module.named_modules() if isinstance(part, nn.ModuleList) and len(part) == number]
    depth = min((name.count(".") for name in lists), default=0)
    lists = [name for name in lists if name.count(".") == depth]
    if len(lists) != 1:
        raise ModelError(f"{type(module).__name__} has {len(lists)} lists of {number} layers, not one", where=where)
    return lists[0]


def _fallback_spec(folder: Path, refusal: NotCovered) -> FallbackSpec:
    from transformers.modeling_layers import GradientCheckpointingLayer

    cls, config, dropped = read_class(folder, refusal)
    where = str(folder / "config.json")
    softcap, eager = take_softcap(config), wants_eager(config) or not cls._supports_sdpa
    with torch.device("meta"):
        module = cls(config)
    head = module.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ModelError(f"the output head of {cls.__name__} is not a plain linear", where=where)
    layers_path = find_layers(module, config.num_hidden_layers, where)
    ours = adaptable(module, layers_path)
    if not ours:
        raise ModelError(f"{cls.__name__} has no linear in its layers that could be adapted", where=where)
    linears: list[dict[str, tuple[int, int]]] = [{} for _ in range(config.num_hidden_layers)]
    for name, part in ours.items():
        index, _, inner = name.removeprefix(layers_path + ".").partition(".")
        linears[int(index)][inner] = linear_shape(part)
    numbers = sum(m * n for layer in linears for m, n in layer.values())
    tied = bool(config.tie_word_embeddings)
    total = sum(parameter.numel() for parameter in module.parameters())
    if tied and head.weight is not module.get_input_embeddings().weight:
        total -= head.weight.numel()
    names = {name.rsplit(".", 1)[-1] for name in ours}
    others = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and name not in ours]
    rope = getattr(config, "rope_parameters", None) or {}
    keys = [n for layer in linears for name, (_, n) in layer.items() if name.endswith(("k_proj", "v_proj"))]
    border = rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None
    return FallbackSpec(
        family=config.model_type,
        why=f"no family of ours covers {refusal.entry}: the model runs through transformers' own {cls.__name__}, which "
        "is the slower path",
        notes=_notes(module, layers_path, ours, dropped),
        layers_path=layers_path,
        linears=tuple(linears),
        linear_parameters=numbers,
        other_parameters=total - numbers,
        hidden_size=head.in_features,
        vocab_size=head.out_features,
        heads=getattr(config, "num_attention_heads", None) or 0,
        max_positions=getattr(config, "max_position_embeddings", None) or NO_LIMIT,
        tied=tied,
        eager=eager,
        transposed=not any(isinstance(part, nn.Linear) for part in ours.values()),
        exact_names=any(name.rsplit(".", 1)[-1] in names for name in others),
        recomputes=all(isinstance(layer, GradientCheckpointingLayer) for layer in module.get_submodule(layers_path)),
        border=border,
        logit_softcap=softcap,
        cache_numbers=sum(keys) or 2 * config.num_hidden_layers * config.hidden_size,
    )


def _notes(
    module: nn.Module, layers_path: str, ours: Mapping[str, nn.Module], dropped: tuple[str, ...]
) -> tuple[str, ...]:
    """What of the layers gets no adapter, and what of the config is not done."""
    held = {f"{name}.{own}" for name, part in ours.items() for own, _ in part.named_parameters()}
    left: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        if name.startswith(layers_path + ".") and name not in held and parameter.dim() > 1 and min(parameter.shape) > 1:
            left[_LAYERS.sub(".", name.removeprefix(layers_path), count=1).removeprefix(".")] += parameter.numel()
    notes = []
    if left:
        named = ", ".join(f"{name} ({number:,})" for name, number in left.most_common(4))
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        notes.append(f"no plain linears, so left as they are, without an adapter and not in 4 bits: {named}{more}")
    names = {name.rsplit(".", 1)[-1] for name in ours}
    if any(".experts." in f".{name}" for name in left) and (both := sorted(names & _EXPERT_NAMES)):
        notes.append(
            f"PEFT can take {', '.join(both)} of a model like this for its experts: name others in lora_targets if the "
            "adapter is for PEFT"
        )
    if dropped:
        notes.append(f"dropout within the base is not applied ({', '.join(dropped)})")
    return tuple(notes)
