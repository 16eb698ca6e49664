"""The 16 values of NF4 and the 256 of the 8-bit numbers that its scales are stored in.

Both are part of the format: bitsandbytes (MIT) has the same, and checkpoints carry them along.
"""

from functools import cache

import torch
from torch import Tensor

# Quantiles of the normal distribution, scaled to ±1, with an exact zero (QLoRA, appendix E).
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@cache
def nf4_values(device: torch.device) -> Tensor:
    """(16,) float32, rising: what the codes 0 … 15 stand for."""
    return torch.tensor(_NF4, dtype=torch.float32, device=device)


@cache
def nf4_pairs(device: torch.device) -> Tensor:
    """(256,) float64, to be seen as (512,) float32: the two values of each byte, the high half first.

    torch picks single elements several times as fast as rows of two.
    """
    values = nf4_values(device)
    return torch.stack([values.repeat_interleave(16), values.repeat(16)], 1).view(torch.float64).flatten()


@cache
def dynamic_values(device: torch.device) -> Tensor:
    """(256,) float32, rising: signed 8-bit numbers with a dynamic exponent (Dettmers 2016, arXiv:1511.04561).

    Each of seven powers of ten holds twice the fractions of the one below it: the middles of equal parts of 0.1 … 1.
    """
    values = [0.0, 1.0]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1, dtype=torch.float32)
        fractions = 10 ** (power - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += [*fractions.tolist(), *(-fractions).tolist()]
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


def nearest(scaled: Tensor, values: Tensor) -> Tensor:
    """The index of the value nearest to each of `scaled`, as uint8; of two equally near the lower."""
    return torch.bucketize(scaled, (values[:-1] + values[1:]) / 2, out_int32=True).to(torch.uint8)
