"""How far the tuned model has moved from its base at each position, without ever holding many rows of logits."""

from luthier.kernels.base_kl.op import base_kl as base_kl
