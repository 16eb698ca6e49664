"""Working on a folder: one writer at a time, and a state that is whole before and after."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.core.errors import DataError
from luthier.core.lock import RunLock
from luthier.curate.folder import STATE, Dataset
from luthier.curate.materialise import materialise


@contextmanager
def working(path: Path) -> Iterator[Dataset]:
    """The folder opened for changes; what an interrupted writer left in it is removed first.

    Raises:
        DataError: it is no dataset folder, or is damaged.
        RunError: another process is working on it.
    """
    if not (path / STATE).is_file():
        raise DataError("no dataset folder", where=str(path), fix="make one with `luthier data clean FILES --out DIR`")
    with RunLock(path):
        dataset = Dataset(path)
        dataset.remove_strays()
        yield dataset
        dataset.close()


def finish(dataset: Dataset, *, workers: int = 1) -> None:
    """Write the dataset that follows from all passes, make it the folder's state, and write its card and report."""
    from luthier.curate.card import write_card
    from luthier.curate.report import write_report
    from luthier.curate.report_summary import summarise

    dataset.commit(materialise(dataset, workers=workers))
    dataset.remove_strays()
    summary = summarise(dataset, workers=workers)
    write_card(dataset, summary=summary)
    write_report(dataset, summary=summary)
