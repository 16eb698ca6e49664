"""LoRA (Hu et al. 2021, arXiv:2106.09685), all of it in one flat buffer.

The optimizer sees a single tensor: its update is one fused call, the gradient norm one reduction, a checkpoint one
slice. Each matrix is a view of the buffer whose `.grad` is the same view of the gradient buffer, so autograd
accumulates into it in place over any number of microsteps.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.core.seeds import stream_seed
from luthier.kernels.dora_linear import row_squares
from luthier.kernels.lora_linear import Dropout
from luthier.models.fallback_spec import AnySpec
from luthier.models.spec import MERGED, SPLIT


@dataclass
class Pair:
    """The adapters of n slices of one merged linear.

    a: (n·R, M).
    bs: n tensors (Nᵢ, R).
    starts: n, the first column of each slice in the linear's output.
    names: n, what checkpoints call them.
    magnitudes: n tensors (Nᵢ,) for DoRA, else none.
    drop: dropout of this pass, or None.
    """

    a: Tensor
    bs: list[Tensor]
    starts: list[int]
    names: tuple[str, ...]
    magnitudes: list[Tensor]
    drop: Dropout | None = None


@dataclass
class TablePair:
    """The adapter of the output head, whose W is (V, D), or of the embedding table E (V, D).

    a: (R, D) of the head; (V, R) of the table, one row a token.
    b: (V, R) of the head; (D, R) of the table.
    scale: what the product of both is multiplied by.
    """

    a: Tensor
    b: Tensor
    scale: float

    def product(self, hidden: Tensor) -> Tensor:
        """What the head's adapter adds to the logits of `hidden` (N, D): (N, V)."""
        return hidden @ self.a.to(hidden.dtype).T @ (self.b * self.scale).to(hidden.dtype).T

    def looked_up(self, tokens: Tensor) -> Tensor:
        """What the table's adapter adds to the embeddings of `tokens` (T,): (T, D), in the adapter's dtype."""
        return F.embedding(tokens, self.a) @ self.b.T * self.scale


# What can be adapted in our own decoder, by the last part of its name; no model has all of them.
ALL_TARGETS = tuple(name.split(".")[1] for names in (*SPLIT.values(), *MERGED.values()) for name in names)
HEAD, EMBEDDING = "lm_head", "embed_tokens"
TABLE_TARGETS = (HEAD, EMBEDDING)  # can be adapted too; "all" leaves them out, as PEFT's "all-linear" does


def named_targets(targets: str | Sequence[str], spec: AnySpec) -> tuple[str, ...]:
    """The recipe's `lora_targets`, "all" or names, for a model of `spec`."""
    return spec.targets if isinstance(targets, str) else tuple(targets)


def adaptable_names(spec: AnySpec) -> tuple[str, ...]:
    """What `lora_targets` can name in a model of `spec`."""
    return (*spec.targets, *(TABLE_TARGETS if spec.adapts_tables else ()))


def _chosen(spec: AnySpec, layer: int, targets: Collection[str]) -> dict[str, tuple[int, list[tuple[str, int, int]]]]:
    """Of each linear of a layer that has an adapter: M, and of its slices that have one name, first column, width."""
    chosen = {}
    for linear, (m, slices) in spec.layer_linears(layer).items():
        firsts = accumulate((0, *(out for _, out in slices[:-1])))
        placed = [(name, first, out) for (name, out), first in zip(slices, firsts, strict=True)]
        if wanted := [slice for slice in placed if slice[0].rsplit(".", 1)[-1] in targets]:
            chosen[linear] = m, wanted
    return chosen


def adapter_size(spec: AnySpec, rank: int, targets: Collection[str] | None = None, *, dora: bool = False) -> int:
    """Weights of a rank-R adapter on what is named in `targets`, on all linears of the layers without."""
    targets = spec.targets if targets is None else targets
    linears = sum(
        rank * (m + out) + dora * out
        for layer in range(spec.num_layers)
        for m, slices in _chosen(spec, layer, targets).values()
        for _, _, out in slices
    )
    tables = sum(target in targets for target in TABLE_TARGETS)
    return linears + tables * rank * (spec.hidden_size + spec.vocab_size)


class Adapter:
    """Rank-R adapters of the linears of a decoder, and where it is asked for of its output head and embedding table.

    Fresh, as in PEFT: A uniform in ±1/√M (Kaiming), B zero; of the embedding table A zero and B normal. So the adapted
    model is the base itself. With DoRA the magnitudes are the base's own once `start_magnitudes` has read them.

    A head that is tied to the embedding table is still adapted by itself, as PEFT does: the adapters are two. They act
    on the two uses of the table, so nothing is lost but that they cannot be merged into one table.

    Attributes:
        flat: (P,) float32 or bf16, the weights; what the optimizer updates.
        grad: (P,) in the same dtype, the accumulated gradient; also `flat.grad`.
        layers: for each layer, the pair of each merged linear that has one, as views of `flat`.
        head: the output head's, if it has one.
        embedding: the embedding table's, if it has one.
        targets: what is adapted.
        scale: alpha / R, or alpha / √R where `rslora` (Kalajdzievski 2023, arXiv:2312.03732).
        dropout: share of an adapter's inputs that training drops; acts in passes that get a seed from `drop_seed`.
        dora: whether the layers' linears have magnitudes (Liu et al. 2024, arXiv:2402.09353).
    """

    def __init__(
        self,
        spec: AnySpec,
        rank: int,
        alpha: float,
        *,
        targets: Collection[str] | None = None,
        rslora: bool = False,
        dropout: float = 0.0,
        dora: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.spec, self.rank, self.alpha, self.rslora = spec, rank, alpha, rslora
        self.dropout, self.dora, self.seed = dropout, dora, seed
        targets = spec.targets if targets is None else targets
        self.targets = [target for target in (*spec.targets, *TABLE_TARGETS) if target in targets]
        self.scale = alpha / (rank**0.5 if rslora else rank)
        self.num_parameters = adapter_size(spec, rank, targets, dora=dora)
        self.flat = torch.zeros(self.num_parameters, dtype=dtype, device=device)
        self.grad = torch.zeros_like(self.flat)
        self.flat.grad = self.grad
        self.layers: list[dict[str, Pair]] = []
        generator = torch.Generator().manual_seed(stream_seed(seed, "adapter"))
        offset = 0

        def view(*shape: int) -> Tensor:
            nonlocal offset
            span = slice(offset, offset + math.prod(shape))
            offset = span.stop
            leaf = self.flat[span].view(shape).detach().requires_grad_()
            leaf.grad = self.grad[span].view(shape)
            return leaf

        def kaiming(*shape: int) -> Tensor:
            leaf, bound = view(*shape), shape[1] ** -0.5
            start = torch.empty(shape).uniform_(-bound, bound, generator=generator)
            leaf.detach().copy_(start)
            return leaf

        for layer in range(spec.num_layers):
            pairs = {}
            for name, (m, slices) in _chosen(spec, layer, targets).items():
                a, bs = kaiming(len(slices) * rank, m), [view(out, rank) for _, _, out in slices]
                magnitudes = [view(out) for _, _, out in slices] if dora else []
                names, starts, _ = zip(*slices, strict=True)
                pairs[name] = Pair(a, bs, list(starts), names, magnitudes)
            self.layers.append(pairs)
        d, v = spec.hidden_size, spec.vocab_size
        self.head = TablePair(kaiming(rank, d), view(v, rank), self.scale) if HEAD in targets else None
        self.embedding = TablePair(view(v, rank), view(d, rank), self.scale) if EMBEDDING in targets else None
        if self.embedding is not None:
            self.embedding.b.detach().copy_(torch.empty(d, rank).normal_(generator=generator))
        assert offset == self.num_parameters

    def start_magnitudes(self, layers: Sequence[Any]) -> None:
        """For DoRA: take the magnitudes from the base, the norm of each output's weights. Otherwise does nothing.

        Args:
            layers: the decoder's, each with a `Linear` under each name that `self.layers` has.
        """
        if not self.dora:
            return
        for layer, pairs in zip(layers, self.layers, strict=True):
            for name, pair in pairs.items():
                norms = row_squares(getattr(layer, name).weight).sqrt()
                for magnitude, start in zip(pair.magnitudes, pair.starts, strict=True):
                    magnitude.detach().copy_(norms[start : start + len(magnitude)])

    def drop_seed(self, step: int, microstep: int) -> int | None:
        """What decides the dropout of one pass, so that a resumed run needs no state; None without dropout."""
        return stream_seed(self.seed, "dropout", step, microstep) if self.dropout else None

    def pairs(self, layer: int, drop: int | None) -> Mapping[str, Pair]:
        """The pairs of one layer, for a pass whose dropout is seeded with `drop`, or that has none."""
        if drop is None:
            return self.layers[layer]
        return {
            name: replace(pair, drop=self._drop(drop, layer, pair.names)) for name, pair in self.layers[layer].items()
        }

    def head_drop(self, drop: int | None) -> Dropout | None:
        """The head's dropout in such a pass."""
        return None if drop is None else self._drop(drop, HEAD, ("",))

    def _drop(self, drop: int, where: int | str, names: Sequence[str]) -> Dropout:
        return Dropout(self.dropout, tuple(stream_seed(drop, where, name) for name in names))

    def leaves(self, layer: int) -> list[Tensor]:
        """The trained tensors of one layer."""
        return [t for pair in self.layers[layer].values() for t in (pair.a, *pair.bs, *pair.magnitudes)]

    def named(self) -> dict[str, Tensor]:
        """Every matrix under its PEFT name, as views: `…layers.0.self_attn.q_proj.lora_A.weight` (R, M) and so on."""
        tensors, model = {}, "base_model.model"
        for index, pairs in enumerate(self.layers):
            for pair in pairs.values():
                for i, target in enumerate(pair.names):
                    prefix = f"{model}.{self.spec.layers_path}.{index}.{target}"
                    tensors[f"{prefix}.lora_A.weight"] = pair.a.detach()[i * self.rank : (i + 1) * self.rank]
                    tensors[f"{prefix}.lora_B.weight"] = pair.bs[i].detach()
                    if pair.magnitudes:
                        tensors[f"{prefix}.lora_magnitude_vector"] = pair.magnitudes[i].detach()
        if self.head is not None:
            tensors[f"{model}.lm_head.lora_A.weight"] = self.head.a.detach()
            tensors[f"{model}.lm_head.lora_B.weight"] = self.head.b.detach()
        if self.embedding is not None:
            prefix = f"{model}.{self.spec.peft_prefix}.embed_tokens"
            tensors[f"{prefix}.lora_embedding_A"] = self.embedding.a.detach().T
            tensors[f"{prefix}.lora_embedding_B"] = self.embedding.b.detach()
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
