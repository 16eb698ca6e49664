"""Keys and values kept while an answer is generated."""

from torch import Tensor

from luthier.models.spec import Spec


class Cache:
    """Keys and values of one conversation, for generation: `length` tokens of at most `size` are filled."""

    def __init__(self, spec: Spec, size: int, like: Tensor) -> None:
        shape = (spec.num_layers, 2, spec.num_kv_heads, size, spec.head_size)
        self.data = like.new_empty(shape)
        self.length = 0

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (T, G, K) keys and values after `length`; returns all of the layer's, (G, length + T, K)."""
        end = self.length + len(keys)
        self.data[layer, 0, :, self.length : end] = keys.transpose(0, 1)
        self.data[layer, 1, :, self.length : end] = values.transpose(0, 1)
        return self.data[layer, 0, :, :end], self.data[layer, 1, :, :end]
