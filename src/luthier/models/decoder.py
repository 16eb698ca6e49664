"""The decoder: a flat stream of tokens in, hidden states and log-probabilities out.

    x = embed(tokens)
    each layer:  x = x + o(attention(rope(qkv(norm(x)))))       q|k|v is one linear
                 x = x + down(swiglu(gate_up(norm(x))))         gate|up is one linear
    hidden = norm(x)

Some families also norm each head of q and k, or leave RoPE out in some layers.

There is no batch and no padding: segments of one (T,) stream see only themselves. The base weights are frozen plain
tensors; an `Adapter` (or none, for the base itself) is an argument, not a part of the model.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.attention import attention, attention_cached
from luthier.kernels.frozen_linear import FrozenWeight, frozen_linear
from luthier.kernels.rms_norm import rms_norm
from luthier.kernels.rope import rope
from luthier.kernels.segments import Segments
from luthier.kernels.selected_logprobs import selected_logprobs
from luthier.kernels.swiglu import swiglu
from luthier.models.cache import Cache
from luthier.models.linear import Linear
from luthier.models.lora import Adapter
from luthier.models.recompute import recomputed
from luthier.models.spec import Spec

# Each new number of rows costs oneDNN a compiled primitive a product, about 100 ms a step of SmolLM2-135M in all. On a
# CPU streams and wanted rows are filled up to a multiple of this, so that steps soon meet shapes they have seen.
CPU_ROWS = 32


@dataclass
class Layer:
    """One layer's frozen weights; qkv and gate_up are merged along their outputs."""

    attention_norm: Tensor  # (D,)
    qkv: Linear  # (T, D) → (T, (H + 2G)·K)
    o: Linear  # (T, H·K) → (T, D)
    mlp_norm: Tensor  # (D,)
    gate_up: Linear  # (T, D) → (T, 2F)
    down: Linear  # (T, F) → (T, D)
    q_norm: Tensor | None = None  # (K,)
    k_norm: Tensor | None = None  # (K,)


class Decoder:
    """A frozen base model in one dtype on one device.

    recomputed: layers that keep only their input for the backward; the one place to trade time for memory.
    """

    def __init__(self, spec: Spec, embedding: Tensor, layers: list[Layer], norm: Tensor, head: FrozenWeight) -> None:
        self.spec, self.embedding, self.layers, self.norm, self.head = spec, embedding, layers, norm, head
        self.recomputed: Collection[int] = ()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights and the hidden states are in."""
        return self.embedding.dtype

    def hidden(
        self,
        tokens: Tensor,
        segments: Segments,
        adapter: Adapter | None = None,
        *,
        rows: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Final hidden states.

        Args:
            tokens: (T,) int64.
            segments: where the stream is cut.
            adapter: the LoRA weights, or None for the base itself.
            rows: (N,) int64 positions wanted; None gives all T.
            cache: filled with the keys and values of this single segment, which continues what the cache holds. With
                a filled cache T is 1.

        Returns:
            (N, D), or (T, D).
        """
        spec, start = self.spec, cache.length if cache else 0
        assert cache is None or (len(segments.spans) == 1 and (start == 0 or len(tokens) == 1))
        # Rows too many belong to no segment: attention gives them zeros and nobody reads them.
        extra = self._missing_rows(len(tokens)) if cache is None else 0
        cos, sin = spec.rope.cos_sin(F.pad(segments.positions, (0, extra)) + start)  # (T, K/2)
        x = F.embedding(F.pad(tokens, (0, extra)), self.embedding)  # (T, D)
        for index in range(len(self.layers)):
            last = index == len(self.layers) - 1
            run = partial(
                self._layer, index=index, cos=cos, sin=sin, segments=segments, adapter=adapter,
                rows=rows if last else None, cache=cache,
            )  # fmt: skip
            if adapter and index in self.recomputed and torch.is_grad_enabled():
                x = recomputed(run, x, adapter.leaves(index))
            else:
                x = run(x, True)
        if cache is not None:
            cache.length += len(tokens)
        hidden = rms_norm(x, self.norm, spec.norm_eps)
        return hidden[: len(tokens)] if rows is None else hidden

    def _layer(
        self,
        x: Tensor,
        value: bool,
        *,
        index: int,
        cos: Tensor,
        sin: Tensor,
        segments: Segments,
        adapter: Adapter | None,
        rows: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        """(T, D) → (T, D), or (N, D) for `rows`. Without `value` only the gradient is right, not the result."""
        spec, layer = self.spec, self.layers[index]
        pairs, scale = (adapter.layers[index], adapter.scale) if adapter else ({}, 0.0)
        qkv = layer.qkv(rms_norm(x, layer.attention_norm, spec.norm_eps), pairs.get("qkv"), scale)
        if layer.q_norm is not None and layer.k_norm is not None:
            qkv = self._norm_heads(qkv, layer.q_norm, layer.k_norm)
        if index not in spec.unturned:
            qkv = rope(qkv, cos, sin, spec.num_heads + spec.num_kv_heads)
        attended = self._attend(qkv, segments, index, cache)  # (T, H·K)
        if rows is not None:
            x, attended = x[rows], attended[rows]  # nothing after the last attention looks at the other tokens
        x = x + layer.o(attended, pairs.get("o"), scale)
        gate_up = layer.gate_up(rms_norm(x, layer.mlp_norm, spec.norm_eps), pairs.get("gate_up"), scale)
        return x + layer.down(swiglu(gate_up), pairs.get("down"), scale, value=value)

    def _norm_heads(self, qkv: Tensor, q_norm: Tensor, k_norm: Tensor) -> Tensor:
        """Each head of q and k normalised by itself; v as it was."""
        size, eps = self.spec.head_size, self.spec.norm_eps
        q, k, v = qkv.split(self.spec.qkv_sizes, dim=1)
        q, k = (rms_norm(x.reshape(-1, size), norm, eps).view(len(x), -1) for x, norm in ((q, q_norm), (k, k_norm)))
        return torch.cat([q, k, v], 1)

    def _missing_rows(self, number: int) -> int:
        """How many rows fill `number` rows up."""
        return -number % CPU_ROWS if self.device.type == "cpu" else 0

    def _attend(self, qkv: Tensor, segments: Segments, index: int, cache: Cache | None) -> Tensor:
        spec = self.spec
        if cache is not None:
            q, k, v = qkv.unflatten(1, (-1, spec.head_size)).split(
                [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], dim=1
            )  # (T, heads, K)
            keys, values = cache.put(index, k, v)
            if cache.length > 0:
                return attention_cached(q[0], keys, values, spec.window(index)).unsqueeze(0)
        return attention(qkv, segments, spec.num_heads, spec.num_kv_heads, spec.window(index))

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states (N, D) → the next token's logits (N, V)."""
        return frozen_linear(hidden, self.head, None)

    def logprobs(self, tokens: Tensor, segments: Segments, targets: Tensor, adapter: Adapter | None = None) -> Tensor:
        """Log-probability of the tokens at `targets`, each given the tokens before it in its segment and its parent.

        Args:
            tokens: (T,) int64.
            segments: where the stream is cut.
            targets: (N,) int64 positions, none of them without a token before it.
            adapter: as in `hidden`.

        Returns:
            (N,) float32.
        """
        number = len(targets)
        targets = torch.cat([targets, targets[-1:].expand(self._missing_rows(number))])
        hidden = self.hidden(tokens, segments, adapter, rows=segments.previous(targets))
        return selected_logprobs(hidden, self.head, tokens[targets])[:number]
