"""A weight in NF4 that several products of one pass share: unpacked once, for as long as they last."""

from torch import Tensor

from luthier.kernels.frozen_linear import DenseWeight, FrozenWeight
from luthier.kernels.nf4.weight import NF4Weight


def opened(weight: FrozenWeight, x: Tensor) -> FrozenWeight:
    """What to multiply x (T, M) by, and later a gradient (T, N), so that NF4 is unpacked once for both.

    The products' results are the same bits. Other weights are returned as they are, and so is NF4 where x has so few
    rows that it is multiplied without being unpacked as a whole.
    """
    if isinstance(weight, NF4Weight) and not weight.is_thin(x):
        return DenseWeight(weight.dense())
    return weight
