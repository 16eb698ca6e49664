"""The decoder: a flat stream of tokens in, hidden states and log-probabilities out.

    x = embed(tokens)
    each layer:  x = x + o(attention(rope(qkv(norm(x)))))       q|k|v is one linear
                 x = x + down(glu(gate_up(norm(x))))            gate|up is one linear
    hidden = norm(x)

Some families also norm each head of q and k, or what attention and MLP add to x, or leave RoPE out in some layers.

There is no batch and no padding: segments of one (T,) stream see only themselves. The base weights are frozen plain
tensors; an `Adapter` (or none, for the base itself) is an argument, not a part of the model.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.kernels.attention import attention
from luthier.kernels.attention.cached import attention_to_cache
from luthier.kernels.frozen_linear import FrozenWeight, frozen_linear
from luthier.kernels.glu import geglu, swiglu
from luthier.kernels.rms_norm import add_rms_norm, rms_norm
from luthier.kernels.rope import norm_rope, rope
from luthier.kernels.segments import Segments
from luthier.kernels.selected_logprobs import adapted_logprobs, selected_logprobs
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
    after_attention_norm: Tensor | None = None  # (D,)
    after_mlp_norm: Tensor | None = None  # (D,)


class Decoder:
    """A frozen base model in one dtype on one device; the embedding may be in host memory.

    recomputed: layers that keep only their input for the backward; the one place to trade time for memory.
    """

    def __init__(self, spec: Spec, embedding: Tensor, layers: list[Layer], norm: Tensor, head: FrozenWeight) -> None:
        self.spec, self.embedding, self.layers, self.norm, self.head = spec, embedding, layers, norm, head
        self.recomputed: Collection[int] = ()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights and the hidden states are in."""
        return self.norm.dtype

    def hidden(
        self,
        tokens: Tensor,
        segments: Segments,
        adapter: Adapter | None = None,
        *,
        rows: Tensor | None = None,
        cache: Cache | None = None,
        drop: int | None = None,
    ) -> Tensor:
        """Final hidden states.

        Args:
            tokens: (T,) int64.
            segments: where the stream is cut.
            adapter: the LoRA weights, or None for the base itself.
            rows: (N,) int64 positions wanted; None gives all T.
            cache: takes the keys and values of the conversations that end with these segments. Once it is filled each
                segment is one token that continues a conversation, at a position that says so; of more tokens than
                conversations the last have no meaning.
            drop: seed of the adapter's dropout in this pass; None is no dropout.

        Returns:
            (N, D), or (T, D).
        """
        spec = self.spec
        # Rows too many belong to no segment: attention gives them zeros and nobody reads them.
        extra = self._missing_rows(len(tokens)) if cache is None or not cache.filled else 0
        positions = F.pad(segments.positions, (0, extra))
        reach = None if spec.rope.border is None else F.pad(segments.reach, (0, extra))
        far = near = spec.rope.cos_sin(positions, reach)  # 2 × (T, K/2)
        if spec.local_rope is not None:
            near = spec.local_rope.cos_sin(positions)
        x = self._embed(F.pad(tokens, (0, extra)), adapter)  # (T, D)
        for index in range(len(self.layers)):
            last = index == len(self.layers) - 1
            run = partial(
                self._layer, index=index, turn=far if spec.window(index) is None else near, segments=segments,
                adapter=adapter, rows=rows if last else None, cache=cache, drop=drop,
            )  # fmt: skip
            if adapter and index in self.recomputed and torch.is_grad_enabled():
                x = recomputed(run, x, adapter.leaves(index))
            else:
                x = run(x, True)
        if cache is not None:
            cache.advance()
        hidden = self._norm(x, self.norm)
        return hidden[: len(tokens)] if rows is None else hidden

    def _embed(self, tokens: Tensor, adapter: Adapter | None) -> Tensor:
        """(T,) → (T, D), looked up where the table is."""
        x = F.embedding(tokens.to(self.embedding.device), self.embedding).to(self.device)
        if adapter is not None and adapter.embedding is not None:
            x = x + adapter.embedding.looked_up(tokens).to(x.dtype)
        if self.spec.embedding_scale != 1.0:
            x = x * torch.tensor(self.spec.embedding_scale, dtype=x.dtype)  # rounded to x's dtype, as in training
        return x

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, self.spec.norm_eps, plus_one=self.spec.plus_one)

    def _layer(
        self,
        x: Tensor,
        value: bool,
        *,
        index: int,
        turn: tuple[Tensor, Tensor],
        segments: Segments,
        adapter: Adapter | None,
        rows: Tensor | None,
        cache: Cache | None,
        drop: int | None,
    ) -> Tensor:
        """(T, D) → (T, D), or (N, D) for `rows`. Without `value` only the gradient is right, not the result."""
        spec, layer = self.spec, self.layers[index]
        pairs, scale = (adapter.pairs(index, drop), adapter.scale) if adapter else ({}, 0.0)
        again = not value  # weights in NF4 are then unpacked once for this run and its backward
        qkv = layer.qkv(self._norm(x, layer.attention_norm), pairs.get("qkv"), scale, hold=again)
        attended = self._attend(self._turn(qkv, layer, index, turn), segments, index, cache)  # (T, H·K)
        if rows is not None:
            x, attended = x[rows], attended[rows]  # nothing after the last attention looks at the other tokens
        more = layer.o(attended, pairs.get("o"), scale, hold=again)
        if layer.after_attention_norm is not None:
            more = self._norm(more, layer.after_attention_norm)
        x, normed = add_rms_norm(x, more, layer.mlp_norm, spec.norm_eps, plus_one=spec.plus_one)
        gate_up = layer.gate_up(normed, pairs.get("gate_up"), scale, hold=again)
        gate = swiglu if spec.activation == "silu" else partial(geglu, approximate=True)
        if layer.after_mlp_norm is None:
            return x + layer.down.gated(gate, gate_up, pairs.get("down"), scale, value=value)
        return x + self._norm(layer.down.gated(gate, gate_up, pairs.get("down"), scale), layer.after_mlp_norm)

    def _turn(self, qkv: Tensor, layer: Layer, index: int, turn: tuple[Tensor, Tensor]) -> Tensor:
        """RoPE on q and k, each head normed before where the family does so; v as it was."""
        spec, (cos, sin) = self.spec, turn
        if index in spec.unturned:
            cos, sin = cos[:, :0], sin[:, :0]
        if layer.q_norm is not None and layer.k_norm is not None:
            return norm_rope(
                qkv, cos, sin, spec.num_heads, spec.num_kv_heads, layer.q_norm, layer.k_norm, spec.norm_eps,
                plus_one=spec.plus_one,
            )  # fmt: skip
        if index in spec.unturned:
            return qkv
        return rope(qkv, cos, sin, spec.num_heads + spec.num_kv_heads, spec.head_size)

    def _missing_rows(self, number: int) -> int:
        """How many rows fill `number` rows up."""
        return -number % CPU_ROWS if self.device.type == "cpu" else 0

    def _attend(self, qkv: Tensor, segments: Segments, index: int, cache: Cache | None) -> Tensor:
        spec = self.spec
        if cache is not None:
            q, k, v = qkv.unflatten(1, (-1, spec.head_size)).split(
                [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], dim=1
            )  # (T, heads, K)
            if cache.filled:
                keys, values, mask = cache.add(index, k[: cache.number], v[: cache.number])
                attended = attention_to_cache(
                    q[: cache.number], keys, values, mask, spec.window(index), softcap=spec.attention_softcap
                )
                return F.pad(attended, (0, 0, 0, len(q) - cache.number))
            cache.fill(index, k, v)
        return attention(
            qkv, segments, spec.num_heads, spec.num_kv_heads, spec.window(index), softcap=spec.attention_softcap
        )

    def logits(self, hidden: Tensor, adapter: Adapter | None = None) -> Tensor:
        """Final hidden states (N, D) → the next token's logits (N, V)."""
        logits = frozen_linear(hidden, self.head, None)
        if adapter is not None and adapter.head is not None:
            logits = logits + adapter.head.product(hidden)
        cap = self.spec.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def logprobs(
        self,
        tokens: Tensor,
        segments: Segments,
        targets: Tensor,
        adapter: Adapter | None = None,
        *,
        drop: int | None = None,
    ) -> Tensor:
        """Log-probability of the tokens at `targets`, each given the tokens before it in its segment and its parent.

        Args:
            tokens: (T,) int64.
            segments: where the stream is cut.
            targets: (N,) int64 positions, none of them without a token before it.
            adapter: as in `hidden`.
            drop: as in `hidden`.

        Returns:
            (N,) float32.
        """
        number = len(targets)
        targets = torch.cat([targets, targets[-1:].expand(self._missing_rows(number))])
        hidden = self.hidden(tokens, segments, adapter, rows=segments.previous(targets), drop=drop)
        if adapter is not None and (pair := adapter.head) is not None:
            return adapted_logprobs(
                hidden, self.head, tokens[targets], pair.a, pair.b, pair.scale,
                softcap=self.spec.logit_softcap, drop=adapter.head_drop(drop),
            )[:number]  # fmt: skip
        return selected_logprobs(hidden, self.head, tokens[targets], self.spec.logit_softcap)[:number]
