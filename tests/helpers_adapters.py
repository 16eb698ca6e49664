"""Adapters with every number away from its start, in ours and in PEFT's, and the gradients of both by PEFT's names."""

from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor

from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter

RANK, ALPHA = 4, 8


def stirred(decoder: Decoder, *, seed: int = 5, rank: int = RANK, **kind: Any) -> Adapter:
    """An adapter that changes whatever it is on; DoRA's magnitudes are near the base's norms, and not equal to them."""
    adapter = Adapter(decoder.spec, rank, ALPHA, seed=seed, **kind)
    generator = torch.Generator().manual_seed(seed)
    adapter.flat.add_(torch.randn(adapter.flat.shape, generator=generator), alpha=0.05)
    away = {id(m): m.detach().clone() for pairs in adapter.layers for pair in pairs.values() for m in pair.magnitudes}
    adapter.start_magnitudes(decoder.layers)
    for pairs in adapter.layers:
        for pair in pairs.values():
            for magnitude in pair.magnitudes:
                magnitude.detach().mul_(1 + away[id(magnitude)])
    return adapter


def named_gradients(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's gradients under PEFT's names."""
    values = adapter.flat.clone()
    adapter.flat.copy_(adapter.grad)
    gradients = {name: tensor.clone() for name, tensor in adapter.named().items()}
    adapter.flat.copy_(values)
    return gradients


def our_gradients(
    decoder: Decoder, adapter: Adapter, tokens: Tensor, targets: Tensor, drop: int | None = None
) -> dict[str, Tensor]:
    """Of the mean negative log-probability of `targets` in one segment."""
    adapter.grad.zero_()
    (-decoder.logprobs(tokens, Segments.of([len(tokens)]), targets, adapter, drop=drop).mean()).backward()
    return named_gradients(adapter)


def as_peft(model: Any, folder: Path, adapter_dir: Path) -> Any:
    """The base in `folder` with the saved adapter, as PEFT loads it, to be trained."""
    fresh = type(model).from_pretrained(folder, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(fresh, adapter_dir, is_trainable=True)


def peft_gradients(model: Any, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """As `our_gradients`, of a PEFT model."""
    logits = model(tokens[None]).logits[0][targets - 1]
    torch.nn.functional.cross_entropy(logits, tokens[targets]).backward()
    return {
        name.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
