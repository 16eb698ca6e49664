"""How far a tuned model has moved from its base: at each position of some rows, over the whole vocabulary.

With LoRA the base is the same weights with the adapter off, so this costs one more forward pass and no second model.
The KL divergence from the base on the new task's own rows is what foretells forgetting best (I. Shenfeld et al., "RL's
Razor: Why Online Reinforcement Learning Forgets Less", arXiv:2509.04259).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from luthier.core.files import hash_bytes
from luthier.data.collate import collate
from luthier.data.pack import plan_pass
from luthier.data.render import Row
from luthier.evaluate.losses import RowLosses
from luthier.kernels.base_kl import base_kl
from luthier.kernels.segments import Segments
from luthier.kernels.selected_logprobs import adapted_logprobs, selected_logprobs
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter


@dataclass(frozen=True)
class RowShifts:
    """For each of n rows what moved.

    Attributes:
        kl: (n,) float64, KL(base ‖ tuned) summed over the row's positions, nats.
        positions: (n,) int64, how many: all that have a next token, prompt and answer.
        losses: the tuned model's loss of the trained tokens.
    """

    kl: np.ndarray
    positions: np.ndarray
    losses: RowLosses

    @property
    def mean(self) -> float:
        """KL of a position, nats."""
        return float(self.kl.sum() / self.positions.sum())


def few_rows(rows: Sequence[Row], *, most_rows: int, most_tokens: int) -> list[Row]:
    """Rows picked by the hash of their record, so that other rows do not change the choice; at least one."""
    picked: list[Row] = []
    for row in sorted(rows, key=lambda row: hash_bytes(row.record_id.encode(), row.ids.tobytes())):
        if picked and sum(len(one.ids) for one in picked) + len(row.ids) > most_tokens:
            break
        picked.append(row)
        if len(picked) == most_rows:
            break
    return picked


@torch.no_grad()
def row_shifts(
    decoder: Decoder,
    rows: Sequence[Row],
    *,
    adapter: Adapter | None,
    micro_batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> RowShifts:
    """What the adapter (None: nothing) changed on these rows, each of two tokens or more.

    Args:
        micro_batch_tokens: tokens of one forward pass; changes speed and memory, not the result.
        progress: called with rows done and rows in all; what it raises goes through.
    """
    kl, nll, done = np.zeros(len(rows)), np.zeros(len(rows)), 0
    for microstep in plan_pass([len(row.ids) for row in rows], micro_batch_tokens):
        whole = [replace(rows[i], mask=np.arange(len(rows[i].ids)) > 0) for i in microstep]
        stream = collate(whole, border=decoder.spec.border)
        segments = Segments.of(stream.lengths, decoder.device, parents=stream.parents)
        tokens, targets = stream.tokens.to(decoder.device), stream.targets.to(decoder.device)
        places = segments.previous(targets)
        hidden = decoder.hidden(tokens, segments, adapter, rows=places)  # (N, D)
        labels = torch.from_numpy(np.concatenate([rows[i].mask[1:] for i in microstep])).to(decoder.device)
        logps = _logprobs(decoder, hidden[labels], tokens[targets[labels]], adapter)
        own = stream.target_rows
        nll[microstep] = _summed(-logps, own[labels.cpu()], len(microstep))
        if adapter is not None:
            base = decoder.hidden(tokens, segments, None, rows=places)
            kl[microstep] = _summed(_kl(decoder, hidden, base, adapter), own, len(microstep))
        done += len(microstep)
        if progress is not None:
            progress(done, len(rows))
    positions = np.array([len(row.ids) - 1 for row in rows])
    return RowShifts(kl, positions, RowLosses(nll, np.array([int(row.mask.sum()) for row in rows])))


def _summed(values: Tensor, owners: Tensor, number: int) -> np.ndarray:
    sums = torch.zeros(number, dtype=torch.float64)
    return sums.index_add_(0, owners, values.double().cpu()).numpy()


def _kl(decoder: Decoder, hidden: Tensor, base: Tensor, adapter: Adapter) -> Tensor:
    softcap, pair = decoder.spec.logit_softcap, adapter.head
    if pair is None:
        return base_kl(hidden, base, decoder.head, softcap)
    return base_kl(hidden, base, decoder.head, softcap, a=pair.a, b=pair.b, scale=pair.scale)


def _logprobs(decoder: Decoder, hidden: Tensor, tokens: Tensor, adapter: Adapter | None) -> Tensor:
    softcap, pair = decoder.spec.logit_softcap, None if adapter is None else adapter.head
    if pair is None:
        return selected_logprobs(hidden, decoder.head, tokens, softcap)
    return adapted_logprobs(hidden, decoder.head, tokens, pair.a, pair.b, pair.scale, softcap=softcap)
