"""A frozen linear with low-rank adapters (Hu et al. 2021, arXiv:2106.09685), several linears of one input merged."""

from luthier.kernels.lora_linear.op import lora_linear as lora_linear
