"""A decoder and its adapter put together for answering, where both stay as they are for thousands of products."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from luthier.kernels.frozen_linear import DenseWeight, FrozenWeight, PackedWeight, can_pack
from luthier.models.decoder import Decoder
from luthier.models.fallback import FallbackDecoder
from luthier.models.linear import Linear
from luthier.models.lora import Adapter, Pair


class AdaptedWeight:
    """W + s·B A as a `FrozenWeight`, never multiplied out: x Wᵀ + (x Aᵀ) (s·B)ᵀ.

    The adapters of a merged linear's slices are one A, and one B with zeros where a slice is not concerned. Both are
    cast and laid out once, which in training has to be done for each product. In half precision what the adapter adds
    is rounded before it is added, once more than in training.

    Memory: A, and n times the B of a linear merged of n, in `dtype`; a fraction of what the adapter takes in training.

    Args:
        base: W (N, M).
        pair: of W, without magnitudes.
        scale: s.
        dtype: what products run in.
    """

    def __init__(self, base: FrozenWeight, pair: Pair, scale: float, dtype: torch.dtype) -> None:
        a = pair.a.detach()  # (nR, M)
        b = a.new_zeros(base.shape[0], len(a))  # (N, nR)
        rank = len(a) // len(pair.bs)
        for i, (part, start) in enumerate(zip(pair.bs, pair.starts, strict=True)):
            b[start : start + len(part), i * rank : (i + 1) * rank] = part.detach() * scale
        self._base, self.shape = base, base.shape
        self._a, self._b = _frozen(a.to(dtype)), _frozen(b.to(dtype))

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `FrozenWeight.forward`."""
        return self._base.forward(x, bias).add_(self._b.forward(self._a.forward(x, None), None))

    def backward(self, dy: Tensor) -> Tensor:
        """As `FrozenWeight.backward`."""
        return self._base.backward(dy).add_(self._a.backward(self._b.backward(dy)))

    def dense(self) -> Tensor:
        """As `FrozenWeight.dense`."""
        return self._base.dense() + self._b.dense() @ self._a.dense()


def _frozen(weight: Tensor) -> FrozenWeight:
    packs = can_pack(weight.dtype, weight.device)
    return PackedWeight(weight, keep_backward=False) if packs else DenseWeight(weight)


def put_together(decoder: Decoder, adapter: Adapter) -> tuple[Decoder, Adapter]:
    """The decoder with the adapter in its linears, and the adapter with what is left to do.

    What is left is what is looked up or scaled by the base: the adapters of head and embedding, and DoRA. The base's
    weights are shared, not copied, and neither argument is changed. A decoder of `transformers` is left as it is.
    """
    if isinstance(decoder, FallbackDecoder):
        return decoder, adapter
    together, rest = copy.copy(decoder), copy.copy(adapter)
    together.layers, rest.layers = [], []
    for layer, pairs in zip(decoder.layers, adapter.layers, strict=True):
        linears: dict[str, Linear] = {name: getattr(layer, name) for name, p in pairs.items() if not p.magnitudes}
        together.layers.append(
            replace(
                layer,
                **{
                    name: Linear(AdaptedWeight(linear.weight, pairs[name], adapter.scale, decoder.dtype), linear.bias)
                    for name, linear in linears.items()
                },
            )
        )
        rest.layers.append({name: pair for name, pair in pairs.items() if pair.magnitudes})
    return together, rest
