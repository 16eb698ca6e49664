"""The flat token stream: where each segment starts, and each token's position in its segment."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """S segments laid end to end in one stream of T tokens. Attention never crosses from one to another.

    starts: S + 1 offsets, the last one T; kept on the host, so that reading a length never waits for a device.
    cu_seqlens: (S + 1,) int32, the same on the device.
    positions: (T,) int64, restarting at 0 in each segment.
    plans: what an op works out once for this cut of the stream and uses again in every layer.
    """

    starts: tuple[int, ...]
    cu_seqlens: Tensor
    positions: Tensor
    plans: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device | str = "cpu") -> "Segments":
        """Segments of the given lengths (each at least 1), in order."""
        assert lengths and min(lengths) > 0, lengths
        starts = (0, *accumulate(lengths))
        positions = torch.cat([torch.arange(length) for length in lengths])
        return Segments(starts, torch.tensor(starts, dtype=torch.int32, device=device), positions.to(device))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(first token, token after the last) of each segment."""
        return list(pairwise(self.starts))

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return max(end - start for start, end in self.spans)
