"""A base in 4 bits, unpacked for a process that only answers and has no fast product with it."""

from collections.abc import Sequence
from typing import Any

from luthier.core.hardware import memory
from luthier.kernels.frozen_linear import DenseWeight, FrozenWeight, PackedWeight, can_pack
from luthier.kernels.nf4 import NF4Weight, native
from luthier.models.decoder import Decoder
from luthier.models.nf4_head import NF4Head

Place = tuple[Any, str]  # an object, and which of its attributes is a weight


def unpack_to_answer(decoder: Decoder) -> bool:
    """Hold what torch would unpack anew for every token as the numbers it stands for, if half of the free memory does.

    That is what is in 4 bits on a CPU where `kernels.nf4.native` was not compiled or does not read its layout. They are
    the numbers that were trained over, so answers are the same; memory is what those weights take in the decoder's
    dtype. What is multiplied by the 4 bits as they are stays as it is: by a kernel on a GPU, and in C on a CPU, where
    one conversation over SmolLM2-135M is as fast as over unpacked weights (90 against 83 tokens/s on two Zen 5
    cores). Batches are slower there (4: 212 against 269, 16: 256 against 533), and chat has none. A run has: its sample
    answers. It stays in 4 bits all the same. It goes on training, so what was unpacked would have to be packed again,
    and its peak of memory would be what 4 bits were chosen to avoid; four answers of 128 tokens lose about a second.

    Returns:
        Whether anything was unpacked.
    """
    slow = [(owner, name) for owner, name in in_four_bits(decoder) if not getattr(owner, name).in_c]
    needed = sum(getattr(owner, name).shape.numel() for owner, name in slow) * decoder.dtype.itemsize
    if decoder.device.type != "cpu" or not slow or needed > memory().available // 2:
        return False
    unpack(decoder, slow)
    return True


def in_four_bits(decoder: Decoder) -> list[Place]:
    """Where the decoder holds weights in 4 bits: linears of its layers, and the head."""
    places: list[Place] = [
        (getattr(layer, name), "weight")
        for index, layer in enumerate(decoder.layers)
        for name in decoder.spec.layer_linears(index)
    ]
    places.append((decoder, "head"))
    return [(owner, name) for owner, name in places if isinstance(getattr(owner, name), NF4Weight | NF4Head)]


def unpack(decoder: Decoder, places: Sequence[Place]) -> None:
    """Hold the weights at `places` in the decoder's dtype, laid out for its products where the machine has that."""
    packs = can_pack(decoder.dtype, decoder.device)
    for owner, name in places:
        dense = getattr(owner, name).dense()
        weight: FrozenWeight = PackedWeight(dense, keep_backward=False) if packs else DenseWeight(dense)
        setattr(owner, name, weight)


def nf4_on_cpu() -> str:
    """How this machine's CPU computes with 4 bits, in a few words; compiles what does it, if that was never done."""
    made = native.loaded()
    if isinstance(made, native.Missing):
        return f"by torch, many times slower than compiled: {made.why}"
    return f"compiled, {'AVX-512' if made.lanes == 16 else 'AVX2'}"
