"""Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467), with the residual sum in front of it."""

from luthier.kernels.rms_norm.op import add_rms_norm as add_rms_norm
from luthier.kernels.rms_norm.op import rms_norm as rms_norm
