"""A linear whose weight never changes, held in the layout that its device multiplies fastest."""

from luthier.kernels.frozen_linear.op import DenseWeight as DenseWeight
from luthier.kernels.frozen_linear.op import FrozenWeight as FrozenWeight
from luthier.kernels.frozen_linear.op import PackedWeight as PackedWeight
from luthier.kernels.frozen_linear.op import can_pack as can_pack
from luthier.kernels.frozen_linear.op import frozen_linear as frozen_linear
