"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), half-split layout as in Llama."""

from luthier.kernels.rope.op import rope as rope
