"""SwiGLU (Shazeer 2020, arXiv:2002.05202): silu(gate) · up."""

from luthier.kernels.swiglu.op import swiglu as swiglu
