"""A step that looks at one example at a time: a name, a version, and a function from a batch to entries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luthier.curate.example import Entry, Example


@dataclass(frozen=True, slots=True)
class Step:
    """A map over batches.

    Attributes:
        name: as the verb and the ledger call it.
        version: raise it when the same example would be decided otherwise.
        run: a module-level function (workers import it) of a batch of examples to entries about them, in their order.
            It must not depend on what else is in the batch.
    """

    name: str
    version: int
    run: Callable[[Sequence[Example]], list[Entry]]
