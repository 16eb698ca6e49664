"""A base in 4 bits, unpacked for a process that only answers."""

from luthier.core.hardware import memory
from luthier.kernels.frozen_linear import DenseWeight, FrozenWeight, PackedWeight, can_pack
from luthier.kernels.nf4 import NF4Weight, native
from luthier.models.decoder import Decoder
from luthier.models.nf4_head import NF4Head


def unpack_to_answer(decoder: Decoder) -> bool:
    """Hold what is in 4 bits as the numbers it stands for, if they take less than half of the free memory.

    On a CPU without the library of `kernels.nf4.native` every token would unpack every weight anew, which takes far
    longer than the products. They are the numbers that were trained over, so answers are the same; memory is what the
    base takes in the decoder's dtype. Training does without: there one unpacking serves thousands of rows. On a GPU a
    kernel multiplies by the 4 bits as they are.

    Returns:
        Whether anything was unpacked.
    """
    spec, packs = decoder.spec, can_pack(decoder.dtype, decoder.device)
    linears = [getattr(layer, name) for i, layer in enumerate(decoder.layers) for name in spec.layer_linears(i)]
    linears = [linear for linear in linears if isinstance(linear.weight, NF4Weight)]
    head = isinstance(decoder.head, NF4Head)
    numbers = sum(linear.weight.shape.numel() for linear in linears) + (decoder.head.shape.numel() if head else 0)
    needed = numbers * decoder.dtype.itemsize
    if decoder.device.type != "cpu" or not numbers or needed > memory().available // 2:
        return False

    def unpacked(weight: FrozenWeight) -> FrozenWeight:
        return PackedWeight(weight.dense(), keep_backward=False) if packs else DenseWeight(weight.dense())

    for linear in linears:
        linear.weight = unpacked(linear.weight)
    if head:
        decoder.head = unpacked(decoder.head)
    return True


def nf4_on_cpu() -> str:
    """How this machine's CPU computes with 4 bits, in a few words; compiles what does it, if that was never done."""
    made = native.loaded()
    if isinstance(made, native.Missing):
        return f"by torch, many times slower than compiled: {made.why}"
    return f"compiled, {'AVX-512' if made.lanes == 16 else 'AVX2'}"
