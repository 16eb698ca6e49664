"""Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467)."""

from luthier.kernels.rms_norm.op import rms_norm as rms_norm
