"""Causal grouped-query attention inside each segment of the flat stream."""

from luthier.kernels.attention.op import attention as attention
from luthier.kernels.attention.op import attention_cached as attention_cached
