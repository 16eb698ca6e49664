"""Gated linear units (Shazeer 2020, arXiv:2002.05202): SwiGLU and GeGLU."""

from luthier.kernels.glu.op import geglu as geglu
from luthier.kernels.glu.op import swiglu as swiglu
