"""A frozen linear whose adapters learn direction and size apart (DoRA, Liu et al. 2024, arXiv:2402.09353)."""

from luthier.kernels.dora_linear.op import dora_linear as dora_linear
from luthier.kernels.dora_linear.op import row_squares as row_squares
