"""The flat token stream: where each segment starts, and each token's position in its segment."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """S segments laid end to end in one stream of T tokens. Attention never crosses from one to another, but for this:
    a segment may continue a parent, an earlier one that several continuations share, and sees the whole of it.

    starts: S + 1 offsets, the last one T; kept on the host, so that reading a length never waits for a device.
    parents: S indices of segments without a parent of their own; None for a segment that starts by itself.
    cu_seqlens: (S + 1,) int32, `starts` on the device.
    positions: (T,) int64, restarting at 0 in each segment, or after its parent's last.
    plans: what an op works out once for this cut of the stream and uses again in every layer.
    """

    starts: tuple[int, ...]
    parents: tuple[int | None, ...]
    cu_seqlens: Tensor
    positions: Tensor
    plans: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def of(
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        parents: Sequence[int | None] | None = None,
    ) -> "Segments":
        """Segments of the given lengths (each at least 1), in order."""
        assert lengths and min(lengths) > 0, lengths
        parents = tuple(parents) if parents else (None,) * len(lengths)
        for index, parent in enumerate(parents):
            assert parent is None or (parent < index and parents[parent] is None), parents
        starts = (0, *accumulate(lengths))
        firsts = [0 if parent is None else lengths[parent] for parent in parents]
        positions = torch.cat(
            [torch.arange(first, first + length) for first, length in zip(firsts, lengths, strict=True)]
        )
        cu_seqlens = torch.tensor(starts, dtype=torch.int32, device=device)
        return Segments(starts, parents, cu_seqlens, positions.to(device))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(first token, token after the last) of each segment."""
        return list(pairwise(self.starts))

    @property
    def longest(self) -> int:
        """Tokens of the longest segment, without its parent."""
        return max(end - start for start, end in self.spans)

    def rows(self, index: int) -> Tensor:
        """The stream's rows that the last token of segment `index` sees, in order: its parent's and its own. (L,)"""
        start, end = self.starts[index : index + 2]
        own, parent = torch.arange(start, end), self.parents[index]
        return own if parent is None else torch.cat([self.rows(parent), own])

    @property
    def reach(self) -> Tensor:
        """(T,) int64, tokens that each token's segment and its parent have together; in a family the most any has."""
        if "reach" not in self.plans:
            lengths = [end - start for start, end in self.spans]
            reach = list(lengths)
            for index, parent in enumerate(self.parents):
                if parent is not None:
                    reach[parent] = max(reach[parent], lengths[parent] + lengths[index])
            reach = [reach[index if parent is None else parent] for index, parent in enumerate(self.parents)]
            self.plans["reach"] = torch.tensor(reach).repeat_interleave(torch.tensor(lengths)).to(self.positions.device)
        return self.plans["reach"]

    def previous(self, rows: Tensor) -> Tensor:
        """The row before each of `rows` (N,) in its segment: for the first of a segment, its parent's last. (N,)"""
        if "previous" not in self.plans:
            before = torch.arange(-1, self.starts[-1] - 1)
            for start, parent in zip(self.starts, self.parents, strict=False):
                before[start] = -1 if parent is None else self.starts[parent + 1] - 1
            self.plans["previous"] = before.to(rows.device)
        return self.plans["previous"][rows]
