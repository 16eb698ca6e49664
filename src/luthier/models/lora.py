"""LoRA (Hu et al. 2021, arXiv:2106.09685), all of it in one flat float32 buffer.

The optimizer sees a single tensor: its update is one fused call, the gradient norm one reduction, a checkpoint one
slice. Each matrix is a view of the buffer whose `.grad` is the same view of the gradient buffer, so autograd
accumulates into it in place, in float32 over any number of microsteps.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from luthier.core.seeds import stream_seed
from luthier.models.spec import Spec


@dataclass
class Pair:
    """The adapters of n slices of one merged linear.

    a: (n·R, M).
    bs: n tensors (Nᵢ, R).
    starts: n, the first column of each slice in the linear's output.
    """

    a: Tensor
    bs: list[Tensor]
    starts: list[int]


# The merged linears of a layer, and the names their slices have in Hugging Face checkpoints and PEFT adapters.
TARGETS: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


# What can be adapted, by the last part of its name.
ALL_TARGETS = tuple(name.split(".")[1] for names in TARGETS.values() for name in names)


def named_targets(targets: str | Sequence[str]) -> tuple[str, ...]:
    """The recipe's `lora_targets`: "all", or names."""
    return ALL_TARGETS if isinstance(targets, str) else tuple(targets)


def linear_shapes(spec: Spec) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Of each merged linear: input features M, and the output features of its slices."""
    d, f = spec.hidden_size, spec.ffn_size
    return {"qkv": (d, spec.qkv_sizes), "o": (spec.qkv_sizes[0], (d,)), "gate_up": (d, (f, f)), "down": (f, (d,))}


def _chosen(name: str, outs: tuple[int, ...], targets: Collection[str]) -> list[tuple[str, int, int]]:
    """Of the slices of a merged linear that have an adapter: name, first column, width."""
    firsts = accumulate((0, *outs[:-1]))
    slices = zip(TARGETS[name], firsts, outs, strict=True)
    return [(target, first, out) for target, first, out in slices if target.split(".")[1] in targets]


def adapter_size(spec: Spec, rank: int, targets: Collection[str] = ALL_TARGETS) -> int:
    """Weights of a rank-R adapter on the linears named in `targets`."""
    shapes = linear_shapes(spec).items()
    return spec.num_layers * sum(
        rank * (m + out) for name, (m, outs) in shapes for _, _, out in _chosen(name, outs, targets)
    )


class Adapter:
    """Rank-R adapters of the linears of a decoder.

    Fresh: A uniform in ±1/√M (PEFT's Kaiming start), B zero, so the adapted model is the base itself.

    Attributes:
        flat: (P,) float32, the weights; what the optimizer updates.
        grad: (P,) float32, the accumulated gradient; also `flat.grad`.
        layers: for each layer, the pair of each merged linear that has one, as views of `flat`.
        targets: which linears are adapted.
        scale: alpha / R, or alpha / √R where `rslora` (Kalajdzievski 2023, arXiv:2312.03732).
    """

    def __init__(
        self,
        spec: Spec,
        rank: int,
        alpha: float,
        *,
        targets: Collection[str] = ALL_TARGETS,
        rslora: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.spec, self.rank, self.alpha, self.rslora = spec, rank, alpha, rslora
        self.targets = [target for target in ALL_TARGETS if target in targets]
        self.scale = alpha / (rank**0.5 if rslora else rank)
        self.num_parameters = adapter_size(spec, rank, targets)
        self.flat = torch.zeros(self.num_parameters, device=device)
        self.grad = torch.zeros_like(self.flat)
        self.flat.grad = self.grad
        self.layers: list[dict[str, Pair]] = []
        generator = torch.Generator().manual_seed(stream_seed(seed, "adapter"))
        offset = 0

        def view(rows: int, columns: int) -> Tensor:
            nonlocal offset
            span = slice(offset, offset + rows * columns)
            offset = span.stop
            leaf = self.flat[span].view(rows, columns).detach().requires_grad_()
            leaf.grad = self.grad[span].view(rows, columns)
            return leaf

        for _ in range(spec.num_layers):
            pairs = {}
            for name, (m, outs) in linear_shapes(spec).items():
                slices = _chosen(name, outs, targets)
                if not slices:
                    continue
                a, bs = view(len(slices) * rank, m), [view(out, rank) for _, _, out in slices]
                pair = Pair(a, bs, [first for _, first, _ in slices])
                start = torch.empty(pair.a.shape).uniform_(-(m**-0.5), m**-0.5, generator=generator)
                with torch.no_grad():
                    pair.a.copy_(start)
                pairs[name] = pair
            self.layers.append(pairs)
        assert offset == self.num_parameters

    def leaves(self, layer: int) -> list[Tensor]:
        """The trained matrices of one layer."""
        return [tensor for pair in self.layers[layer].values() for tensor in (pair.a, *pair.bs)]

    def named(self) -> dict[str, Tensor]:
        """Every matrix under its PEFT name, as views: `…layers.0.self_attn.q_proj.lora_A.weight` (R, M) and so on."""
        tensors, shapes = {}, linear_shapes(self.spec)
        for index, pairs in enumerate(self.layers):
            for name, pair in pairs.items():
                for i, (target, _, _) in enumerate(_chosen(name, shapes[name][1], self.targets)):
                    prefix = f"base_model.model.model.layers.{index}.{target}"
                    tensors[f"{prefix}.lora_A.weight"] = pair.a.detach()[i * self.rank : (i + 1) * self.rank]
                    tensors[f"{prefix}.lora_B.weight"] = pair.bs[i].detach()
        return tensors

    def fill(self, stored: dict[str, Tensor]) -> str:
        """Take over the matrices of `stored`, by PEFT name.

        Returns:
            "" when they were taken, else what does not fit, as half a sentence; then nothing was changed.
        """
        wanted = self.named()
        if missing := sorted(wanted.keys() - stored.keys()):
            return f"it lacks {missing[0]}"
        if extra := sorted(stored.keys() - wanted.keys()):
            return f"it has an unexpected {extra[0]}"
        for name, tensor in wanted.items():
            if stored[name].shape != tensor.shape:
                return f"{name} is {tuple(stored[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])
        return ""
