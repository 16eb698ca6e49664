"""Working on a folder: one writer at a time, and a state that is whole before and after."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from luthier.core.errors import DataError
from luthier.core.lock import RunLock
from luthier.curate.example import Entry, Example
from luthier.curate.folder import Dataset, Pass
from luthier.curate.materialise import materialise
from luthier.curate.step import Step
from luthier.data.dataset_folder import is_dataset_folder


@contextmanager
def working(path: Path) -> Iterator[Dataset]:
    """The folder opened for changes; what an interrupted writer left in it is removed first.

    Raises:
        DataError: it is no dataset folder, or is damaged.
        RunError: another process is working on it.
    """
    if not is_dataset_folder(path):
        raise DataError("no dataset folder", where=str(path), fix="make one with `luthier data clean FILES --out DIR`")
    with RunLock(path):
        dataset = Dataset(path)
        dataset.remove_strays()
        yield dataset
        dataset.close()


def catch_up(dataset: Dataset, before: Collection[str]) -> list[Pass]:
    """Run the steps that edit over examples that came back into the dataset; nobody looked at them while they were out.

    Only steps that the dataset has gone through and that hold are run, and only what they find makes a pass.

    Args:
        before: ids of what was in the dataset before the change.
    """
    from luthier.curate.history import active
    from luthier.curate.personal import PERSONAL
    from luthier.curate.repair import REPAIR

    back, holds = dataset.categories().keys() - set(before), active(dataset)
    passes = []
    for step in (REPAIR, PERSONAL):
        if back and step.name in holds:
            entries = [entry for batch in dataset.map(partial(_of, step, frozenset(back))) for entry in batch]
            made = (
                dataset.add(step.name, step.version, {"only": "examples that came back"}, entries) if entries else None
            )
            if made is not None:
                passes.append(made)
    return passes


def _of(step: Step, ids: frozenset[str], examples: list[Example]) -> list[Entry]:
    return step.run([example for example in examples if example.id in ids])


def finish(dataset: Dataset, *, workers: int = 1) -> None:
    """Write the dataset that follows from all passes, make it the folder's state, and write its card and report."""
    from luthier.curate.card import write_card
    from luthier.curate.report import write_report
    from luthier.curate.report_summary import Counting

    counting = Counting(dataset)
    dataset.commit(materialise(dataset, workers=workers, also=counting.count, found=counting.add))
    dataset.remove_strays()
    summary = counting.summary()
    write_card(dataset, summary=summary)
    write_report(dataset, summary=summary, workers=workers)
