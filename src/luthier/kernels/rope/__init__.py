"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in halves as in Llama, and the norm in front of it."""

from luthier.kernels.rope.op import norm_rope as norm_rope
from luthier.kernels.rope.op import rope as rope
