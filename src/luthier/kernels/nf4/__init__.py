"""4-bit NormalFloat (Dettmers et al. 2023, arXiv:2305.14314): how a frozen base is stored in a quarter of bf16."""

from luthier.kernels.nf4.op import NESTED_BLOCK as NESTED_BLOCK
from luthier.kernels.nf4.op import NF4 as NF4
from luthier.kernels.nf4.op import dequantise as dequantise
from luthier.kernels.nf4.op import quantise as quantise
from luthier.kernels.nf4.opened import opened as opened
from luthier.kernels.nf4.weight import NF4Weight as NF4Weight
