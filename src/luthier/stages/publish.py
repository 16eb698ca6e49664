"""The last look at an adapter, and its way into the run's folder: `adapter` when it may stand, `rejected` when not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from luthier.core.errors import ModelError
from luthier.core.files import atomic_folder
from luthier.data.render import Row
from luthier.evaluate.losses import RowLosses, row_losses
from luthier.models.adapter_files import load_adapter, save_adapter
from luthier.stages.session import Session

PROBE_ROWS = 4  # rows on which the adapter must change something
TOLERANCE = 1e-3  # nats a token, between the adapter in memory and the one that was read back


class _NotFaithful(Exception):
    """What was written does not read back as what it is."""


def faults(session: Session, rows: Sequence[Row]) -> list[str]:
    """What speaks against publishing the adapter as it is in memory, as sentences; none is as it should be.

    Args:
        rows: some rows of the run.
    """
    adapter = session.adapter
    broken = [name for name, tensor in adapter.named().items() if not tensor.isfinite().all()]
    if broken:
        return [f"{len(broken)} of the adapter's tensors hold numbers that are not finite, {broken[0]} the first"]
    ends = [tensor for name, tensor in adapter.named().items() if "lora_B" in name]
    if adapter.embedding is not None:
        ends.append(adapter.embedding.a)
    if not any(bool(tensor.any()) for tensor in ends) and not adapter.dora:
        return ["the adapter is still what it was before the training: it changes nothing"]
    rows = sorted(rows, key=lambda row: (len(row.ids), row.record_id))[:PROBE_ROWS]
    with_it, without = (_losses(session, rows, chosen).nll for chosen in (adapter, None))
    if np.array_equal(with_it, without):
        return ["the adapter changes no answer: with it and without it the losses are the same"]
    return []


def publish(session: Session, name: str, rows: Sequence[Row], known: RowLosses | None) -> str:
    """Write the adapter as PEFT reads it into the run's folder `name`, and read it back.

    Args:
        rows: what it is measured on again where it does not read back with the same bits.
        known: the losses of these rows, if they are known.

    Returns:
        "", or what is wrong with what was written; then it is not there.
    """
    recipe = session.recipe
    try:
        with atomic_folder(session.run_dir / name) as folder:
            save_adapter(
                session.adapter, folder, base_model=session.base_model, nf4=recipe.nf4, nf4_head=recipe.nf4_head
            )
            if wrong := _misread(session, folder, rows, known):
                raise _NotFaithful(wrong)
    except _NotFaithful as error:
        return str(error)
    return ""


def _misread(session: Session, folder: Path, rows: Sequence[Row], known: RowLosses | None) -> str:
    decoder, adapter = session.decoder, session.adapter
    try:
        again = load_adapter(folder, decoder.spec, device=decoder.device, base=decoder)
    except ModelError as error:
        return f"the adapter that was written cannot be read: {error.what}"
    written, meant = again.named(), adapter.named()
    same = written.keys() == meant.keys() and again.scale == adapter.scale
    if same and all(torch.equal(written[key].float(), tensor.float()) for key, tensor in meant.items()):
        return ""
    losses = known or _losses(session, rows, adapter)
    difference = abs(_losses(session, rows, again).mean - losses.mean)
    if difference <= TOLERANCE:
        return ""
    return f"the adapter that was written differs: with it the loss is {difference:.2g} nats a token off"


def _losses(session: Session, rows: Sequence[Row], adapter: object) -> RowLosses:
    return row_losses(
        session.decoder, rows, adapter=adapter, micro_batch_tokens=session.prepared.settings.micro_batch_tokens
    )
