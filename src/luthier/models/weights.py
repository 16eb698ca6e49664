"""Base weights from a Hugging Face folder into a `Decoder`, tensor by tensor, merged where the decoder merges.

Host memory holds the finished model and one tensor more, never two models.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.hardware import memory
from luthier.kernels.frozen_linear import DenseWeight, FrozenWeight, PackedWeight, can_pack
from luthier.models.decoder import Decoder, Layer, Linear
from luthier.models.folder import shard_files
from luthier.models.lora import TARGETS, linear_shapes
from luthier.models.spec import Spec, read_spec


class _Tensors:
    """The tensors of a folder by name, over all its safetensors files, each read when asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.files = {}
        for path in shard_files(folder):
            try:
                file = stack.enter_context(safe_open(path, "pt"))
            except (SafetensorError, FileNotFoundError) as error:
                raise ModelError(f"cannot be read: {error}", where=str(path)) from None
            self.files |= dict.fromkeys(file.keys(), file)

    def fill(self, out: Tensor, name: str) -> None:
        """Copy tensor `name` into `out`, converting its dtype."""
        if name not in self.files:
            raise ModelError(f"the tensor {name} is missing", where=str(self.folder))
        stored = self.files[name].get_tensor(name)
        if stored.shape != out.shape:
            shapes = f"{tuple(stored.shape)}, and config.json says {tuple(out.shape)}"
            raise ModelError(f"the tensor {name} is {shapes}", where=str(self.folder))
        out.copy_(stored)


def load_decoder(folder: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Decoder:
    """The model in `folder`, its weights in `dtype` on `device`.

    Raises:
        ModelError: unsupported architecture, or weights missing, damaged or of another shape than the config says.
    """
    spec = read_spec(folder)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    freeze = _freezer(spec, dtype, torch.device(device))
    with ExitStack() as stack:
        tensors = _Tensors(folder, stack)

        def vector(name: str) -> Tensor:
            out = empty(spec.hidden_size)
            tensors.fill(out, name)
            return out

        def merged(prefix: str, names: Sequence[str], m: int, outs: Sequence[int], bias: bool) -> Linear:
            weight, added = empty(sum(outs), m), empty(sum(outs)) if bias else None
            row = 0
            for name, width in zip(names, outs, strict=True):
                tensors.fill(weight[row : row + width], f"{prefix}.{name}.weight")
                if added is not None:
                    tensors.fill(added[row : row + width], f"{prefix}.{name}.bias")
                row += width
            return Linear(freeze(weight), added)

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
            layers.append(
                Layer(
                    attention_norm=vector(f"{prefix}.input_layernorm.weight"),
                    mlp_norm=vector(f"{prefix}.post_attention_layernorm.weight"),
                    **linears,
                )
            )
        norm = vector("model.norm.weight")
        output = embedding
        if not spec.tied:
            output = empty(spec.vocab_size, spec.hidden_size)
            tensors.fill(output, "lm_head.weight")
        head = freeze(output)
        _refuse_unknown(tensors, spec, folder)
    return Decoder(spec, embedding, layers, norm, head)


def _freezer(spec: Spec, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], FrozenWeight]:
    """How the weights of the linears are held: packed where this machine can.

    Training with packed weights holds them twice; where that would take half of the free memory, they are held once.
    """
    if not can_pack(dtype, device):
        return DenseWeight
    numbers = spec.num_layers * sum(m * sum(outs) for m, outs in linear_shapes(spec).values())
    numbers += spec.vocab_size * spec.hidden_size
    return partial(PackedWeight, keep_backward=2 * numbers * dtype.itemsize <= memory().available // 2)


def _refuse_unknown(tensors: _Tensors, spec: Spec, folder: Path) -> None:
    """A tensor that the decoder has no place for (a q/k norm, a bias) would be silently left out: refuse instead."""
    known = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    ends = {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.rotary_emb.inv_freq"}
    biased = {"qkv": spec.qkv_bias, "o": spec.o_bias, "gate_up": spec.mlp_bias, "down": spec.mlp_bias}
    for merged, names in TARGETS.items():
        for name in names:
            ends |= {f"{name}.weight", f"{name}.bias"} if biased[merged] else {f"{name}.weight"}
    known |= {f"model.layers.{index}.{end}" for index in range(spec.num_layers) for end in ends}
    unknown = sorted(tensors.files.keys() - known)
    if unknown:
        raise ModelError(
            f"the weights hold {len(unknown)} tensors that a {spec.family} model has no place for, "
            f"the first is {unknown[0]}",
            where=str(folder),
        )
