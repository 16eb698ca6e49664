"""LoRA on every linear (Hu et al. 2021), all of it in one flat float32 buffer.

The optimizer sees a single tensor: its update is one fused call, the gradient norm one reduction, a checkpoint one
slice. Each matrix is a view of the buffer whose `.grad` is the same view of the gradient buffer, so autograd
accumulates into it in place, in float32 over any number of microsteps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from luthier.core.seeds import stream_seed
from luthier.models.spec import Spec


@dataclass
class Pair:
    """The adapters of one merged linear of n slices: a (n·R, M), bs n tensors (Nᵢ, R)."""

    a: Tensor
    bs: list[Tensor]


# The merged linears of a layer, and the names their slices have in Hugging Face checkpoints and PEFT adapters.
TARGETS: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def linear_shapes(spec: Spec) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Of each merged linear: input features M, and the output features of its slices."""
    d, f = spec.hidden_size, spec.ffn_size
    return {"qkv": (d, spec.qkv_sizes), "o": (spec.qkv_sizes[0], (d,)), "gate_up": (d, (f, f)), "down": (f, (d,))}


def adapter_size(spec: Spec, rank: int) -> int:
    """Weights of a rank-R adapter on every linear."""
    return spec.num_layers * sum(rank * (len(outs) * m + sum(outs)) for m, outs in linear_shapes(spec).values())


class Adapter:
    """Rank-R adapters of every linear of a decoder.

    Fresh: A uniform in ±1/√M (PEFT's Kaiming start), B zero, so the adapted model is the base itself.

    Attributes:
        flat: (P,) float32, the weights; what the optimizer updates.
        grad: (P,) float32, the accumulated gradient; also `flat.grad`.
        layers: for each layer, the pair of each merged linear, as views of `flat`.
        scale: alpha / R.
    """

    def __init__(
        self, spec: Spec, rank: int, alpha: float, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.spec, self.rank, self.alpha, self.scale = spec, rank, alpha, alpha / rank
        shapes = linear_shapes(spec)
        self.num_parameters = adapter_size(spec, rank)
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
            for name, (m, outs) in shapes.items():
                pair = Pair(view(len(outs) * rank, m), [view(out, rank) for out in outs])
                start = torch.empty(pair.a.shape).uniform_(-(m**-0.5), m**-0.5, generator=generator)
                with torch.no_grad():
                    pair.a.copy_(start)
                pairs[name] = pair
            self.layers.append(pairs)
        assert offset == self.num_parameters

    def named(self) -> dict[str, Tensor]:
        """Every matrix under its PEFT name, as views: `…layers.0.self_attn.q_proj.lora_A.weight` (R, M) and so on."""
        tensors = {}
        for index, pairs in enumerate(self.layers):
            for name, pair in pairs.items():
                for i, target in enumerate(TARGETS[name]):
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
