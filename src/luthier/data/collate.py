"""Rows to the tensors of one flat stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from luthier.data.render import Row


@dataclass(frozen=True)
class Stream:
    """S rows laid end to end.

    tokens: (T,) int64.
    lengths: tokens of each row, in order.
    targets: (N,) int64, positions of the tokens that are trained on; never the first of a row.
    target_rows: (N,) int64, which of the S rows each target belongs to.
    """

    tokens: Tensor
    lengths: list[int]
    targets: Tensor
    target_rows: Tensor


def collate(rows: Sequence[Row]) -> Stream:
    """The stream of these rows, on the host."""
    mask = np.concatenate([row.mask for row in rows])
    targets = np.flatnonzero(mask)
    lengths = [len(row.ids) for row in rows]
    owner = np.repeat(np.arange(len(rows)), lengths)
    tokens = np.concatenate([row.ids for row in rows]).astype(np.int64)
    return Stream(torch.from_numpy(tokens), lengths, torch.from_numpy(targets), torch.from_numpy(owner[targets]))
