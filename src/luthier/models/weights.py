"""Base weights from a Hugging Face folder into a `Decoder`, tensor by tensor, merged where the decoder merges.

Host memory holds the finished model and one tensor more, never two models; with NF4 it never holds the model in bf16.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.hardware import memory
from luthier.kernels.frozen_linear import DenseWeight, FrozenWeight, PackedWeight, can_pack
from luthier.kernels.nf4 import NF4Weight
from luthier.kernels.selected_logprobs import chunk_rows
from luthier.models.decoder import Decoder, Layer
from luthier.models.fallback import load_fallback
from luthier.models.fallback_spec import AnySpec, FallbackSpec, needs_family, read_any_spec
from luthier.models.linear import Linear
from luthier.models.nf4_head import NF4Head, slab_numbers
from luthier.models.spec import Spec
from luthier.models.tensors import Tensors

# The fields of `Layer` and what checkpoints call them; where there are norms behind the blocks, too, the name of one
# that is before the MLP elsewhere is that of one behind attention.
_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_AFTER_NORMS = {
    "after_attention_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "after_mlp_norm": "post_feedforward_layernorm",
}

NF4_BYTES = 0.516  # a weight: half a byte, and a byte and a little for each 64


def base_bytes(
    spec: AnySpec,
    dtype: torch.dtype,
    device: torch.device,
    *,
    nf4: bool = False,
    nf4_head: bool = False,
    embedding_on_host: bool = False,
) -> int:
    """Memory of the frozen base on `device` while it is trained on, in bytes; arguments as in `load_decoder`."""
    if isinstance(spec, FallbackSpec):
        held = spec.base_bytes(dtype.itemsize, nf4=nf4, nf4_bytes=NF4_BYTES)
        return max(held, spec.num_parameters * dtype.itemsize) if device.type == "cpu" else held
    linears, table, wide = spec.num_linear_parameters, spec.vocab_size * spec.hidden_size, dtype.itemsize
    embedding = 0 if _on_host(spec, device, nf4_head, embedding_on_host) else table
    small = spec.num_parameters - linears - (1 if spec.tied else 2) * table  # norms and biases
    copies = held_copies(held_numbers(spec, nf4=nf4, nf4_head=nf4_head), dtype, device)
    unpacked = max(m * sum(outs) for m, outs in spec.linear_shapes.values()) if nf4 else 0
    if nf4_head:
        head = int(table * NF4_BYTES)
        unpacked = max(unpacked, slab_numbers(spec.vocab_size, spec.hidden_size))
    else:
        # A tied table is kept as it is, too, if the head is packed.
        head = (copies if can_pack(dtype, device) or not spec.tied else 0) * table * wide
    layers = int(linears * NF4_BYTES) if nf4 else linears * wide * copies
    return layers + head + (embedding + small + unpacked) * wide


def held_numbers(spec: Spec, *, nf4: bool, nf4_head: bool) -> int:
    """Weights of linears that are held in the dtype of the products."""
    table = spec.vocab_size * spec.hidden_size
    return (0 if nf4 else spec.num_linear_parameters) + (0 if nf4_head else table)


def _on_host(spec: Spec, device: torch.device, nf4_head: bool, embedding_on_host: bool) -> bool:
    """Whether the embedding is elsewhere than the rest: if it is wanted so, and if a tied head is a copy of it."""
    wanted = nf4_head if spec.tied else embedding_on_host
    return wanted and device.type != "cpu"


def loss_bytes(spec: AnySpec, dtype: torch.dtype, device: torch.device) -> int:
    """Memory of the logits that the loss makes at a time; on a CPU thrice that: freed buffers of other sizes stay."""
    row = spec.vocab_size * dtype.itemsize
    return chunk_rows(device, row) * row * (3 if device.type == "cpu" else 1)


def without_effect(
    spec: AnySpec, dtype: torch.dtype, device: torch.device, *, nf4_head: bool, embedding_on_host: bool
) -> list[str]:
    """What was asked for to save memory and saves none on this device, a sentence each; arguments as `load_decoder`."""
    said = []
    if embedding_on_host and device.type == "cpu":
        said.append("embedding_on_host changes nothing: on a CPU everything is in host memory")
    elif embedding_on_host and spec.tied and not nf4_head:
        said.append(
            "embedding_on_host changes nothing: the embedding is the output head as well, which stays on the GPU; with "
            "nf4_head it would be a head in 4 bits there and an embedding in host memory"
        )
    if nf4_head and spec.tied and device.type == "cpu" and not can_pack(dtype, device):
        said.append("nf4_head saves no memory: the head is the embedding table, which is kept as it is beside it")
    return said


def held_copies(numbers: int, dtype: torch.dtype, device: torch.device) -> int:
    """How often a run holds so many weights of linears.

    Twice where they are packed and both layouts take less than half of what is free.
    """
    return 2 if can_pack(dtype, device) and 2 * numbers * dtype.itemsize <= memory().available // 2 else 1


def load_decoder(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    nf4: bool = False,
    nf4_head: bool = False,
    embedding_on_host: bool = False,
) -> Decoder:
    """The model in `folder`, on `device`, computing in `dtype`.

    Args:
        nf4: hold the linears of the layers as NF4, a quarter of bf16, unpacked for each product. What is stored as NF4
            stays so whatever this says.
        nf4_head: hold the output head as NF4, too. Where it is the embedding table, embeddings are still looked up in
            the table as it was, which is then kept in host memory.
        embedding_on_host: keep the embedding in host memory, look tokens up there and move only those rows. Exact.
            Where the head is the embedding table it saves nothing without `nf4_head`, and is not done.

    Raises:
        ModelError: unsupported architecture, or weights missing, damaged or of another shape than the config says;
            `nf4_head` or `embedding_on_host` for a model that runs through `transformers`.
    """
    spec, device = read_any_spec(folder), torch.device(device)
    if isinstance(spec, FallbackSpec):
        if nf4_head or embedding_on_host:
            raise ModelError(needs_family("nf4_head" if nf4_head else "embedding_on_host", spec), where=str(folder))
        return load_fallback(folder, spec, dtype=dtype, device=device, nf4=nf4)
    nf4 = nf4 or spec.nf4
    packs = can_pack(dtype, device)
    keep_backward = held_copies(held_numbers(spec, nf4=nf4, nf4_head=nf4_head), dtype, device) == 2
    table_device = torch.device("cpu") if _on_host(spec, device, nf4_head, embedding_on_host) else device

    def empty(*shape: int, on: torch.device = device) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=on)

    def freeze(weight: Tensor) -> FrozenWeight:
        return PackedWeight(weight, keep_backward=keep_backward) if packs else DenseWeight(weight)

    with ExitStack() as stack:
        tensors = Tensors(folder, stack)

        def vector(name: str, size: int = spec.hidden_size) -> Tensor:
            out = empty(size)
            tensors.fill(out, name)
            return out

        def table(name: str, on: torch.device) -> Tensor:
            out = empty(spec.vocab_size, spec.hidden_size, on=on)
            tensors.fill(out, name)
            return out

        def stacked(names: Sequence[str], outs: Sequence[int], *rest: int) -> Tensor:
            out = empty(sum(outs), *rest)
            for name, rows in zip(names, out.split(list(outs)), strict=True):
                tensors.fill(rows, name)
            return out

        def linear(prefix: str, kind: str) -> Linear:
            m, outs = spec.linear_shapes[kind]
            names = [f"{prefix}.{name}" for name in spec.linear_names[kind]]
            weights = [f"{name}.weight" for name in names]
            if nf4:
                shapes = [torch.Size((width, m)) for width in outs]
                parts = [tensors.nf4(name, shape, device) for name, shape in zip(weights, shapes, strict=True)]
                weight: FrozenWeight = NF4Weight(parts, dtype)
            else:
                weight = freeze(stacked(weights, outs, m))
            biases = [f"{name}.bias" for name in names]
            return Linear(weight, stacked(biases, outs) if spec.biases[kind] else None)

        norms = _NORMS | (_AFTER_NORMS if spec.after_norms else {})
        heads = ("q_norm", "k_norm") if spec.head_norms else ()
        embedding = table(f"{tensors.inner}.embed_tokens.weight", table_device)
        layers = []
        for index in range(spec.num_layers):
            prefix = f"{tensors.inner}.layers.{index}"
            layers.append(
                Layer(
                    **{kind: linear(prefix, kind) for kind in spec.linear_shapes},
                    **{field: vector(f"{prefix}.{name}.weight") for field, name in norms.items()},
                    **{name: vector(f"{prefix}.self_attn.{name}.weight", spec.head_size) for name in heads},
                )
            )
        norm = vector(f"{tensors.inner}.norm.weight")
        output = embedding if spec.tied else table(tensors.head, table_device if nf4_head else device)
        head = NF4Head(output, dtype, device) if nf4_head else freeze(output)
        tensors.refuse_unread(spec)
    return Decoder(spec, embedding, layers, norm, head)
