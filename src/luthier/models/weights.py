"""Base weights from a Hugging Face folder into a `Decoder`, tensor by tensor, merged where the decoder merges.

Host memory holds the finished model and one tensor more, never two models; with NF4 it never holds the model in bf16.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from luthier.core.hardware import memory
from luthier.kernels.frozen_linear import DenseWeight, FrozenWeight, PackedWeight, can_pack
from luthier.kernels.nf4 import NF4Weight
from luthier.models.decoder import Decoder, Layer
from luthier.models.linear import Linear
from luthier.models.lora import TARGETS, linear_shapes
from luthier.models.spec import Spec, read_spec
from luthier.models.tensors import Tensors

NF4_BYTES = 0.516  # a weight: half a byte, and a byte and a little for each 64


def base_bytes(spec: Spec, dtype: torch.dtype, device: torch.device, *, nf4: bool = False) -> int:
    """Memory of the frozen base while it is trained on, in bytes."""
    linears, wide = spec.num_linear_parameters, dtype.itemsize
    rest = (spec.num_parameters - linears) * wide
    head = spec.vocab_size * spec.hidden_size * wide
    copies = held_copies(linears + spec.vocab_size * spec.hidden_size, dtype, device)
    # A tied table is kept as it is, too, if the head is packed.
    head_copies = (copies if spec.tied and can_pack(dtype, device) else copies - 1) * head
    if nf4:
        largest = max(m * sum(outs) for m, outs in linear_shapes(spec).values())
        return int(linears * NF4_BYTES) + largest * wide + rest + head_copies
    return linears * wide * copies + rest + head_copies


def held_copies(numbers: int, dtype: torch.dtype, device: torch.device) -> int:
    """How often a run holds so many weights of linears.

    Twice where they are packed and both layouts take less than half of what is free.
    """
    return 2 if can_pack(dtype, device) and 2 * numbers * dtype.itemsize <= memory().available // 2 else 1


def load_decoder(folder: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu", nf4: bool = False) -> Decoder:
    """The model in `folder`, on `device`, computing in `dtype`.

    Args:
        nf4: hold the linears of the layers as NF4, a quarter of bf16, unpacked for each product. What is stored as NF4
            stays so whatever this says.

    Raises:
        ModelError: unsupported architecture, or weights missing, damaged or of another shape than the config says.
    """
    spec, device = read_spec(folder), torch.device(device)
    nf4 = nf4 or spec.nf4
    packs = can_pack(dtype, device)
    numbers = spec.num_linear_parameters + spec.vocab_size * spec.hidden_size
    keep_backward = held_copies(numbers, dtype, device) == 2

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    def freeze(weight: Tensor) -> FrozenWeight:
        return PackedWeight(weight, keep_backward=keep_backward) if packs else DenseWeight(weight)

    with ExitStack() as stack:
        tensors = Tensors(folder, stack)

        def vector(name: str, size: int = spec.hidden_size) -> Tensor:
            out = empty(size)
            tensors.fill(out, name)
            return out

        def stacked(names: Sequence[str], outs: Sequence[int], *rest: int) -> Tensor:
            out = empty(sum(outs), *rest)
            for name, rows in zip(names, out.split(list(outs)), strict=True):
                tensors.fill(rows, name)
            return out

        def merged(prefix: str, names: Sequence[str], m: int, outs: Sequence[int], bias: bool) -> Linear:
            weights = [f"{prefix}.{name}.weight" for name in names]
            if nf4:
                shapes = [torch.Size((width, m)) for width in outs]
                parts = [tensors.nf4(name, shape, device) for name, shape in zip(weights, shapes, strict=True)]
                weight: FrozenWeight = NF4Weight(parts, dtype)
            else:
                weight = freeze(stacked(weights, outs, m))
            return Linear(weight, stacked([f"{prefix}.{name}.bias" for name in names], outs) if bias else None)

        embedding = empty(spec.vocab_size, spec.hidden_size)
        tensors.fill(embedding, "model.embed_tokens.weight")
        biases = {"qkv": spec.qkv_bias, "o": spec.o_bias, "gate_up": spec.mlp_bias, "down": spec.mlp_bias}
        layers = []
        for index in range(spec.num_layers):
            prefix = f"model.layers.{index}"
            linears = {
                name: merged(prefix, TARGETS[name], m, outs, biases[name])
                for name, (m, outs) in linear_shapes(spec).items()
            }
            heads = ("q_norm", "k_norm") if spec.head_norms else ()
            layers.append(
                Layer(
                    attention_norm=vector(f"{prefix}.input_layernorm.weight"),
                    mlp_norm=vector(f"{prefix}.post_attention_layernorm.weight"),
                    **linears,
                    **{name: vector(f"{prefix}.self_attn.{name}.weight", spec.head_size) for name in heads},
                )
            )
        norm = vector("model.norm.weight")
        output = embedding
        if not spec.tied:
            output = empty(spec.vocab_size, spec.hidden_size)
            tensors.fill(output, "lm_head.weight")
        head = freeze(output)
        tensors.refuse_unknown(spec)
    return Decoder(spec, embedding, layers, norm, head)
