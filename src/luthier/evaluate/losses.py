"""Held-out loss, record by record, so that two models can be compared on the same records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from luthier.data.collate import collate
from luthier.data.pack import plan_pass
from luthier.data.render import Row
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter


@dataclass(frozen=True)
class RowLosses:
    """For each row: nll (n,) float64, the summed negative log-likelihood in nats; tokens (n,) int64, how many."""

    nll: np.ndarray
    tokens: np.ndarray

    @property
    def mean(self) -> float:
        """Token-weighted mean loss (nats a token)."""
        return float(self.nll.sum() / self.tokens.sum())


@torch.no_grad()
def row_losses(
    decoder: Decoder,
    rows: Sequence[Row],
    *,
    adapter: Adapter | None,
    micro_batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> RowLosses:
    """Loss of each row's trained tokens under the base (adapter None) or the adapted model, without dropout.

    Args:
        micro_batch_tokens: tokens of one forward pass; changes speed and memory, not the result.
        progress: called after each forward pass with rows done and rows in all; what it raises passes through.
    """
    nll = np.zeros(len(rows))
    done = 0
    for microstep in plan_pass([len(row.ids) for row in rows], micro_batch_tokens):
        stream = collate([rows[i] for i in microstep], border=decoder.spec.border)
        segments = Segments.of(stream.lengths, decoder.device, parents=stream.parents)
        logprobs = decoder.logprobs(
            stream.tokens.to(decoder.device), segments, stream.targets.to(decoder.device), adapter
        )
        sums = torch.zeros(len(microstep), dtype=torch.float64)
        sums.index_add_(0, stream.target_rows, -logprobs.double().cpu())
        nll[microstep] = sums.numpy()
        done += len(microstep)
        if progress is not None:
            progress(done, len(rows))
    return RowLosses(nll, np.array([int(row.mask.sum()) for row in rows]))
