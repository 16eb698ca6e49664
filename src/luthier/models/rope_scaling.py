"""RoPE frequencies and their scalings: default, linear, llama3, yarn.

Sources: linear, Chen et al. 2023 (arXiv:2306.15595); llama3, the Llama 3.1 release; yarn, Peng et al. 2023
(arXiv:2309.00071). Each is tested against `transformers`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError


@dataclass(frozen=True)
class RopeScaling:
    """kind is default, linear, llama3 or yarn; values are the kind's own numbers from config.json."""

    kind: str
    theta: float
    head_size: int
    values: Mapping[str, float] = field(default_factory=dict)

    def frequencies(self) -> tuple[Tensor, float]:
        """(K/2,) float32 angles per position, and the factor that cos and sin are multiplied by (1 except in yarn)."""
        exponent = torch.arange(0, self.head_size, 2, dtype=torch.int64).float() / self.head_size
        base = 1.0 / (self.theta**exponent)
        if self.kind == "linear":
            return base / self.values["factor"], 1.0
        if self.kind == "llama3":
            return self._llama3(base), 1.0
        if self.kind == "yarn":
            return self._yarn(base)
        return base, 1.0

    def _llama3(self, base: Tensor) -> Tensor:
        """Long waves are slowed by `factor`, short ones kept, those between blended."""
        v = self.values
        length = v["original_max_position_embeddings"]
        waves = 2 * math.pi / base
        blend = (length / waves - v["low_freq_factor"]) / (v["high_freq_factor"] - v["low_freq_factor"])
        blend = blend.clamp(0, 1)
        return (1 - blend) * base / v["factor"] + blend * base

    def _yarn(self, base: Tensor) -> tuple[Tensor, float]:
        """NTK-by-parts: a ramp over the frequency index between slowed and kept, and a hotter attention."""
        v = self.values
        factor, length = v["factor"], v["original_max_position_embeddings"]

        def index(rotations: float) -> float:
            return self.head_size * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = index(v.get("beta_fast", 32.0)), index(v.get("beta_slow", 1.0))
        if v.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.head_size - 1)
        steps = torch.arange(self.head_size // 2, dtype=torch.float32)
        ramp = ((steps - low) / max(high - low, 0.001)).clamp(0, 1)
        attention = v.get("attention_factor")
        if attention is None:
            scale, scale_all = v.get("mscale"), v.get("mscale_all_dim")
            if scale and scale_all:
                attention = _yarn_heat(factor, scale) / _yarn_heat(factor, scale_all)
            else:
                attention = _yarn_heat(factor, 1.0)
        return base / factor * ramp + base * (1 - ramp), attention

    def cos_sin(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(T,) positions → two (T, K/2) float32 tensors."""
        frequencies, factor = self.frequencies()
        angles = positions.float().unsqueeze(1) * frequencies.to(positions.device)
        return angles.cos().mul_(factor), angles.sin().mul_(factor)


def _yarn_heat(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}


def read_rope(config: Mapping[str, Any]) -> RopeScaling:
    """RoPE from a config: `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    Raises:
        ModelError: a kind of scaling that is not in `_NEEDED`, or one that lacks its numbers.
    """
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in _NEEDED:
        raise ModelError(f'RoPE scaling "{kind}" is not supported (only {", ".join(_NEEDED)})', where="config.json")
    missing = [name for name in _NEEDED[kind] if name not in given]
    if missing:
        raise ModelError(f"RoPE scaling {kind} lacks {', '.join(missing)}", where="config.json")
    if given.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ModelError("partial rotary embedding is not supported", where="config.json")
    if kind == "yarn":
        given.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    theta = given.get("rope_theta", config.get("rope_theta", 10000.0))
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    numbers = {key: value for key, value in given.items() if isinstance(value, int | float)}
    return RopeScaling(kind, float(theta), size, numbers)
