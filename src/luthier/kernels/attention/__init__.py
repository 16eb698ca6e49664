"""Causal grouped-query attention inside each segment of the flat stream."""

from luthier.kernels.attention.op import attention as attention
