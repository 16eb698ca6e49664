"""What the steps over the whole dataset need to know of each example, found while it is at hand for the other steps.

Each of these steps can walk over the dataset on its own, and does where it is the only one. To read, parse and edit
every example again for each takes as long as what they look for; so `clean`, in which all of them follow one another,
asks for all of it at the end of its first walk. What is decided after that is taken into account when it is used
(`Dataset.since`).
"""

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

from luthier.curate import conventions, exact, groups
from luthier.curate.example import Example
from luthier.curate.folder import Dataset
from luthier.curate.near_shelf import Shelf
from luthier.curate.near_sketch import Sketches, sketch_examples


class Found(NamedTuple):
    """Of a batch; None where nobody asks."""

    answers: conventions.Looked | None
    rows: exact.Rows | None
    sketches: Sketches | None
    ties: groups.Read | None


def _look(steps: frozenset[str], share: float, seed: int, examples: list[Example], gone: list[Example]) -> Found:
    return Found(
        conventions.look(share, examples) if "defects" in steps else None,
        exact.read_rows(examples) if "dedup" in steps else None,
        sketch_examples(examples) if "dedup" in steps else None,
        groups.read_batch(seed, [*examples, *gone], [True] * len(examples) + [False] * len(gone))
        if "split" in steps
        else None,
    )  # fmt: skip


class Gathered:
    """All that was found; each list is emptied by the step that uses it, so that it does not lie beside the next."""

    def __init__(self, dataset: Dataset, steps: Collection[str], seed: int) -> None:
        """For these steps. Nothing but quarantined rows has been taken out of the dataset yet."""
        self.dataset = dataset
        self.look = partial(_look, frozenset(steps), conventions.share_of(dataset), seed)
        self.answers: list[conventions.Looked] = []
        self.rows: list[exact.Rows] = []
        self.ties: list[groups.Read] = []
        self.shelf = Shelf(None, dataset.path)

    def add(self, found: Found) -> None:
        """Keep what was found in the next batch."""
        for kept, made in ((self.answers, found.answers), (self.rows, found.rows), (self.ties, found.ties)):
            if made is not None:
                kept.append(made)
        self.shelf.add(found.sketches)

    def complete(self) -> None:
        """The walk is over, and its passes are the dataset's."""
        self.number = len(self.dataset.passes)

    def for_conventions(self) -> dict[str, Any]:
        """What `conventions.conventions` is told."""
        answers, self.answers = self.answers, []
        return {"read": answers}

    def for_exact(self) -> dict[str, Any]:
        """What `exact.exact_duplicates` is told, with what was said since the walk."""
        return {"read": self.rows, "since": self.dataset.since(self.number)}

    def for_near(self) -> dict[str, Any]:
        """What `near.near_duplicates` is told; what was taken out since the walk is not on the shelf."""
        self.shelf.settle(self.dataset.since(self.number))
        return {"shelf": self.shelf}

    def for_split(self) -> dict[str, Any]:
        """What `sides.split_table` is told, with what was said since the walk."""
        return {"read": self.ties, "since": self.dataset.since(self.number)}

    def __enter__(self) -> "Gathered":
        return self

    def __exit__(self, *_: Any) -> None:
        """Give the disk back."""
        self.shelf.__exit__()
