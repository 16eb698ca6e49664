"""A frozen linear with low-rank adapters (Hu et al. 2021, arXiv:2106.09685), several linears of one input merged."""

from luthier.kernels.lora_linear.dropout import Dropout as Dropout
from luthier.kernels.lora_linear.dropout import dropped as dropped
from luthier.kernels.lora_linear.dropout import dropped_lora_linear as dropped_lora_linear
from luthier.kernels.lora_linear.op import lora_linear as lora_linear
