"""RoPE frequencies and their scalings: default, linear, llama3, yarn, longrope.

Sources: linear, Chen et al. 2023 (arXiv:2306.15595); llama3, the Llama 3.1 release; yarn, Peng et al. 2023
(arXiv:2309.00071); longrope, Ding et al. 2024 (arXiv:2402.13753). Each is tested against `transformers`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.models.not_covered import NotCovered


@dataclass(frozen=True)
class RopeScaling:
    """How a family's positions become angles.

    Attributes:
        kind: default, linear, llama3, yarn or longrope.
        theta: the base of the frequencies.
        head_size: K, features of a head.
        values: the kind's own numbers from config.json.
        turned: how many features of a head turn, the first ones; None is all of them.
        short, long: longrope's divisors of each frequency, for segments up to the length of `border` and beyond.
        heat: what cos and sin are multiplied by beside the kind's own factor; scores get it squared.
    """

    kind: str
    theta: float
    head_size: int
    values: Mapping[str, float] = field(default_factory=dict)
    turned: int | None = None
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    heat: float = 1.0

    @property
    def border(self) -> int | None:
        """The longest segment that is turned by the short factors; None where there is one set of frequencies."""
        return int(self.values["original_max_position_embeddings"]) if self.kind == "longrope" else None

    def frequencies(self, *, long: bool = False) -> tuple[Tensor, float]:
        """(turned/2,) float32 angles per position, and the kind's factor of cos and sin (1 but in yarn and longrope).

        Args:
            long: those of segments beyond `border`.
        """
        size = self.turned or self.head_size
        exponent = torch.arange(0, size, 2, dtype=torch.int64).float() / size
        base = 1.0 / (self.theta**exponent)
        if self.kind == "linear":
            return base / self.values["factor"], 1.0
        if self.kind == "llama3":
            return self._llama3(base), 1.0
        if self.kind == "yarn":
            return self._yarn(base)
        if self.kind == "longrope":
            return self._longrope(exponent, long)
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

    def _longrope(self, exponent: Tensor, long: bool) -> tuple[Tensor, float]:
        """Each frequency divided by a number of its own, and a hotter attention."""
        v = self.values
        attention = v.get("attention_factor")
        if attention is None:
            factor, length = v["factor"], v["original_max_position_embeddings"]
            attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(length))
        divisors = torch.tensor(self.long if long else self.short, dtype=torch.float32)
        return 1.0 / (divisors * self.theta**exponent), attention

    def cos_sin(self, positions: Tensor, reach: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tables of the angles.

        Args:
            positions: (T,) in the segment.
            reach: (T,) tokens of the whole segment that each position is in; needed where there is a `border`.

        Returns:
            cos and sin, (T, turned/2) float32.
        """
        frequencies, factor = self.frequencies()
        steps = positions.float().unsqueeze(1)
        angles = steps * frequencies.to(positions.device)
        if self.border is not None:
            assert reach is not None
            far = steps * self.frequencies(long=True)[0].to(positions.device)
            angles = torch.where(reach.unsqueeze(1) > self.border, far, angles)
        return angles.cos().mul_(factor * self.heat), angles.sin().mul_(factor * self.heat)


def _yarn_heat(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}


def read_rope(config: Mapping[str, Any]) -> RopeScaling:
    """RoPE from a config: `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    Raises:
        NotCovered: a kind of scaling that is not in `_NEEDED`, or only some of each head turned.
        ModelError: one that lacks its numbers.
    """
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = given.get("rope_type", given.get("type", "default"))
    phi = config.get("model_type") == "phi3"
    if phi and kind in ("su", "yarn"):
        kind = "longrope"  # what the first Phi-3 configs called it
    if kind not in _NEEDED:
        raise NotCovered(
            f'RoPE scaling "{kind}" is not supported (only {", ".join(_NEEDED)})', entry=f"rope_type: {kind}"
        )
    missing = [name for name in _NEEDED[kind] if name not in given]
    if missing:
        raise ModelError(f"RoPE scaling {kind} lacks {', '.join(missing)}", where="config.json")
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    turned = int(size * given.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)))
    if turned != size and not phi:
        entry = f"partial_rotary_factor: {turned / size:g}"
        raise NotCovered("partial rotary embedding is not supported in this family", entry=entry)
    if kind in ("yarn", "longrope"):
        context = config["max_position_embeddings"]
        if kind == "longrope" and config.get("original_max_position_embeddings"):
            given["original_max_position_embeddings"] = config["original_max_position_embeddings"]
        given.setdefault("original_max_position_embeddings", context)
        if given.get("factor") is None:
            given["factor"] = context / given["original_max_position_embeddings"]
    short, long = (tuple(given[name]) if kind == "longrope" else () for name in ("short_factor", "long_factor"))
    if kind == "longrope" and {len(short), len(long)} != {turned // 2}:
        lengths = f"{len(short)} and {len(long)}"
        raise ModelError(f"longrope has {lengths} factors where {turned // 2} frequencies turn", where="config.json")
    theta = given.pop("rope_theta", config.get("rope_theta", 10000.0))
    numbers = {key: value for key, value in given.items() if isinstance(value, int | float)}
    numbers.pop("partial_rotary_factor", None)
    return RopeScaling(kind, float(theta), size, numbers, None if turned == size else turned, short, long)
