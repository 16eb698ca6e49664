"""Rows to the tensors of one flat stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from luthier.data.prefix import shared_prefixes
from luthier.data.render import Row


@dataclass(frozen=True)
class Stream:
    """Rows laid end to end as S segments; a beginning that rows have in common is a segment once, their parent.

    tokens: (T,) int64.
    lengths: tokens of each segment, in order.
    parents: S indices of segments, None for a segment that starts by itself.
    targets: (N,) int64, positions of the tokens that are trained on, row by row; a token that several rows share and
        train on is there once for each.
    target_rows: (N,) int64, which row each target belongs to.
    """

    tokens: Tensor
    lengths: list[int]
    parents: list[int | None]
    targets: Tensor
    target_rows: Tensor


def collate(rows: Sequence[Row], *, border: int | None = None) -> Stream:
    """The stream of these rows, on the host.

    Args:
        border: rows of more tokens share no beginning with rows of fewer: the model turns them by other angles.
    """
    pieces: list[np.ndarray] = []  # token ids of each segment
    parents: list[int | None] = []
    places: dict[int, np.ndarray] = {}  # row → (L,) its tokens' positions in the stream
    end = 0

    def put(ids: np.ndarray, parent: int | None) -> np.ndarray:
        nonlocal end
        pieces.append(ids)
        parents.append(parent)
        end += len(ids)
        return np.arange(end - len(ids), end)

    short = [index for index, row in enumerate(rows) if border is None or len(row.ids) <= border]
    long = sorted(set(range(len(rows))) - set(short))
    shares = [
        ([side[member] for member in members], shared)
        for side in (short, long)
        for members, shared in (shared_prefixes([rows[index].ids for index in side]) if side else [])
    ]
    for members, shared in shares:
        beginning, parent = np.arange(0), None
        if shared:
            beginning, parent = put(rows[members[0]].ids[:shared], None), len(pieces) - 1
        for index in members:
            places[index] = np.concatenate([beginning, put(rows[index].ids[shared:], parent)])
    targets = [places[index][row.mask] for index, row in enumerate(rows)]
    owner = np.repeat(np.arange(len(rows)), [len(positions) for positions in targets])
    return Stream(
        torch.from_numpy(np.concatenate(pieces).astype(np.int64)),
        [len(ids) for ids in pieces],
        parents,
        torch.from_numpy(np.concatenate(targets)),
        torch.from_numpy(owner),
    )
