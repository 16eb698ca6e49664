"""What a run measures outside its loop: losses row by row, kept in its folder, and sample answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.core.files import read_json, write_json
from luthier.data.records import Record
from luthier.data.render import Row
from luthier.evaluate.interval import Comparison, compare
from luthier.evaluate.losses import RowLosses, row_losses
from luthier.models.lora import Adapter
from luthier.stages.samples import answer_samples
from luthier.stages.session import Session
from luthier.stages.validate import kept_losses, losses_file

FOLDER = "validation"
RESULT_FILE, BASE_FILE = "result.json", "base.json"  # of what a run ends with, and of the base under a later stage


def answer(session: Session, samples: Sequence[Record], when: str) -> None:
    """Sample answers, as events; those before are of what the training starts from."""
    answers = answer_samples(
        session.decoder,
        session.start if when == "before" else session.adapter,
        session.prepared.renderer,
        samples,
        max_new_tokens=session.recipe.max_new_tokens,
        say=session.say,
    )
    for said in answers:
        session.emit("sample", when=when, **said)


def measure(session: Session, rows: Sequence[Row], adapter: Adapter | None, what: str) -> RowLosses:
    """Losses of rows."""
    return row_losses(
        session.decoder,
        rows,
        adapter=adapter,
        micro_batch_tokens=session.prepared.settings.micro_batch_tokens,
        progress=lambda done, total: session.say(what, done, total),
    )


def compared(session: Session, rows: Sequence[Row], before: RowLosses, after: RowLosses) -> Comparison:
    """Two models on the same rows."""
    groups = [row.group for row in rows]
    return compare(before.nll, after.nll, before.tokens, groups, seed=session.recipe.seed)


def base_losses(session: Session) -> RowLosses:
    """The base on the held-out rows; measured once, and again only where the file is lost."""
    name = losses_file(session.run_dir, 0).name if session.start is None else BASE_FILE
    found = read_losses(session.run_dir, name, session.prepared.val)
    if found is None:
        found = measure(session, session.prepared.val, None, "validation")
        if session.start is not None:
            write_losses(session.run_dir, name, found)
    return found


def write_losses(run_dir: Path, name: str, losses: RowLosses, **more: Any) -> None:
    """Keep losses row by row in run_dir/validation."""
    write_json(run_dir / FOLDER / name, {**more, "nll": losses.nll.tolist(), "tokens": losses.tokens.tolist()})


def read_losses(run_dir: Path, name: str, rows: Sequence[Row]) -> RowLosses | None:
    """Losses that were kept of these rows; None where they are not, are damaged, or are of other rows."""
    path = run_dir / FOLDER / name
    if not path.is_file():
        return None
    try:
        return kept_losses(read_json(path), "", rows)
    except ValueError:
        return None
