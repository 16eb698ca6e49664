"""The gradient of one step, over all its microsteps, and which rows and tensors are to blame when it is a bad one."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from luthier.data.collate import Stream, collate
from luthier.data.render import Row
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter
from luthier.train.objective import kl_loss, sft_loss
from luthier.train.optim import norm_of
from luthier.train.stream import StepRows

MOST_RECORDS = 32  # of a bad step that are named


@dataclass(frozen=True)
class Gradient:
    """A step's gradient is in `adapter.grad`; this is what is known of it.

    Attributes:
        loss: mean over the trained tokens of the plan's rows (nats).
        replay_loss: mean over those of replayed rows, or None.
        kl: mean KL(base ‖ tuned) over the same (nats), or None where it has no weight.
        norm: length of the gradient.
        computed_tokens: tokens that were computed; what rows have in common is computed once.
        parts: of each microstep its number, its rows, log-probabilities (N,) and the row that each belongs to (N,).
    """

    loss: float
    replay_loss: float | None
    kl: float | None
    norm: float
    computed_tokens: int
    parts: list[tuple[int, list[Row], Tensor, Tensor]] = field(repr=False)

    @property
    def judged_loss(self) -> float:
        """The loss that the guards judge: that of the plan's rows, but not finite if any part is not."""
        rest = 0.0 * ((self.replay_loss or 0.0) + (self.kl or 0.0))  # NaN if that is not finite, else 0
        return self.loss + rest


@dataclass(frozen=True)
class Blame:
    """What was bad in a step: microsteps by number, records and where they stand with the worst first, and tensors."""

    microsteps: list[int]
    records: list[str]
    wheres: list[str]
    tensors: list[str]


def accumulate(
    decoder: Decoder, adapter: Adapter, rows: StepRows, *, step: int, kl_weight: float, should_stop: Callable[[], bool]
) -> Gradient | None:
    """Run all microsteps and add their gradient to `adapter.grad`. The host waits for the device once, at the end.

    Args:
        rows: at least one of them with a trained token that is not replay.
        step: steps behind; decides the dropout.
        kl_weight: weight of KL(base ‖ tuned) on replayed rows.
        should_stop: asked before each microstep; True gives the step up.

    Returns:
        None if it was given up; the gradient is then that of a part of the step.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=decoder.device)  # target loss, replay loss, KL
    parts, computed, weighted = [], 0, False
    for number, (microstep, replayed) in enumerate(zip(rows.microsteps, rows.replayed, strict=True)):
        if should_stop():
            return None
        if not any(row.mask.any() for row in microstep):
            continue
        stream = collate(microstep, border=decoder.spec.border)
        logprobs = _logprobs(decoder, adapter, stream, adapter.drop_seed(step, number))
        (sft_loss(logprobs) / rows.label_tokens).backward()
        nll = -logprobs.detach().double()
        if any(replayed):
            is_replay = torch.tensor(replayed)[stream.target_rows].to(nll.device)
            sums[0] += nll.masked_fill(is_replay, 0.0).sum()
            sums[1] += nll.masked_fill(~is_replay, 0.0).sum()
            if kl_weight > 0:
                chosen = [row for row, again in zip(microstep, replayed, strict=True) if again]
                kl = _kl(decoder, adapter, collate(chosen, border=decoder.spec.border))
                (kl * (kl_weight / rows.label_tokens)).backward()
                sums[2] += kl.detach().double()
                weighted = True
        else:
            sums[0] += nll.sum()
        computed += len(stream.tokens)
        parts.append((number, microstep, logprobs.detach(), stream.target_rows))
    target, replay, kl_sum, norm = torch.cat([sums, norm_of(adapter.grad).double()[None]]).tolist()
    return Gradient(
        loss=target / (rows.label_tokens - rows.replay_tokens),
        replay_loss=replay / rows.replay_tokens if rows.replay_tokens else None,
        kl=kl_sum / rows.replay_tokens if weighted else None,
        norm=norm,
        computed_tokens=computed,
        parts=parts,
    )


def _logprobs(decoder: Decoder, adapter: Adapter, stream: Stream, drop: int | None) -> Tensor:
    segments = Segments.of(stream.lengths, decoder.device, parents=stream.parents)
    tokens, targets = stream.tokens.to(decoder.device), stream.targets.to(decoder.device)
    return decoder.logprobs(tokens, segments, targets, adapter, drop=drop)  # (N,)


def _kl(decoder: Decoder, adapter: Adapter, stream: Stream) -> Tensor:
    """Summed KL(base ‖ tuned) where the stream's targets are predicted, without dropout."""
    segments = Segments.of(stream.lengths, decoder.device, parents=stream.parents)
    tokens, places = stream.tokens.to(decoder.device), segments.previous(stream.targets.to(decoder.device))
    with torch.no_grad():
        base = decoder.hidden(tokens, segments, rows=places)  # (N, D)
    hidden = decoder.hidden(tokens, segments, adapter, rows=places)  # (N, D)
    return kl_loss(hidden, base, decoder.head, decoder.spec.logit_softcap, adapter)


def blame(
    decoder: Decoder, adapter: Adapter, rows: StepRows, gradient: Gradient, *, step: int, kl_weight: float
) -> Blame:
    """Find what was bad in a step that is not taken. `adapter.grad` is used up and left at zero.

    Microsteps are those whose log-probabilities are not finite. If all are and the gradient is not, each is run again
    by itself. Where everything is finite, no microstep is named and the records are those of the whole step.

    Args:
        gradient: what `accumulate` made of the same rows, still in `adapter.grad`.
        step, kl_weight: as they were given to it.
    """
    tensors = [name for name, grad in named_gradients(adapter).items() if not grad.isfinite().all()]
    bad = [number for number, _, logprobs, _ in gradient.parts if not logprobs.isfinite().all()]
    if tensors and not bad:
        for number, *_ in gradient.parts:
            adapter.grad.zero_()
            alone = StepRows(
                rows.epoch, [*([[]] * number), rows.microsteps[number]], [*([[]] * number), rows.replayed[number]],
                rows.tokens, rows.label_tokens, rows.replay_tokens, rows.drawn, rows.owed,
            )  # fmt: skip
            accumulate(decoder, adapter, alone, step=step, kl_weight=kl_weight, should_stop=lambda: False)
            if not adapter.grad.isfinite().all():
                bad.append(number)
    adapter.grad.zero_()
    losses: list[tuple[float, Row]] = []
    for number, microstep, logprobs, owners in gradient.parts:
        if bad and number not in bad:
            continue
        sums = torch.zeros(len(microstep), dtype=torch.float64).index_add_(0, owners, -logprobs.double().cpu())
        counts = torch.bincount(owners, minlength=len(microstep)).clamp_(min=1)
        losses += zip((sums / counts).nan_to_num(nan=torch.inf, posinf=torch.inf).tolist(), microstep, strict=True)
    losses.sort(key=lambda pair: -pair[0])
    worst = {row.record_id: row.where for _, row in losses}  # in order, each record once
    return Blame(bad, list(worst)[:MOST_RECORDS], list(worst.values())[:MOST_RECORDS], tensors)


def named_gradients(adapter: Adapter) -> dict[str, Tensor]:
    """Views of the gradient under the names of `adapter.named()`."""
    return {
        name: adapter.grad.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        for name, tensor in adapter.named().items()
    }
