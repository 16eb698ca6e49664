"""Selection on a dataset folder: what is known of each example's quality, and how alike the examples are."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from luthier.core.errors import DataError
from luthier.curate.difficulty import DIFFICULTY
from luthier.curate.example import Example
from luthier.curate.folder import Dataset
from luthier.curate.ledger import UNDO, read_pass, to_entries
from luthier.curate.select import Candidate, Method, Selection, select

By = Literal["difficulty", "length"]
TOO_HARD: Final = 1.0  # difficulty from which on the prompt does not help the model to expect the answer


def scores(dataset: Dataset, reason: str) -> dict[str, float]:
    """Example → the latest score of this reason that was not taken back."""
    gone, found = dataset.view.retracted(), {}
    for made in dataset.passes:
        without = gone.get(made.number, set())
        if made.step == UNDO or without is None:
            continue
        for entry in to_entries(read_pass(dataset.path / made.file)):
            if entry.action == "score" and entry.reason == reason and entry.record not in without:
                found[entry.record] = entry.score
    return found


def select_examples(
    dataset: Dataset,
    embeddings: Path,
    *,
    target: int,
    by: By = "difficulty",
    method: Method = "greedy",
    max_cosine: float = 0.9,
    quotas: Mapping[str, float] | None = None,
    workers: int = 1,
) -> Selection:
    """Choose examples of the training side by quality and diversity (`select.select`). Nothing is written.

    Args:
        embeddings: a folder of static embeddings, see `semantic_table.open_table`.
        by: "difficulty" takes what is harder for the model first, and what its prompt does not help with last;
            "length" the longer answer, as far as nothing better is known: it is a weak measure of quality.

    Raises:
        DataError: no difficulty was measured; the embeddings cannot be used; or see `select.select`.
    """
    from luthier.curate.semantic_table import open_table

    known = scores(dataset, DIFFICULTY) if by == "difficulty" else {}
    if by == "difficulty" and not known:
        raise DataError(
            "no difficulty was measured", where=str(dataset.path),
            fix="run `luthier data score` first, or select with --by length",
        )  # fmt: skip

    def quality(example: Example) -> float:
        if by == "length":
            return float(len(example.answer))
        value = known.get(example.id, math.inf)
        return value if value < TOO_HARD else -math.inf

    examples = [example for batch in dataset.map(list, workers=workers) for example in batch]
    examples = [example for example in examples if example.side != "validation"]
    vectors = open_table(embeddings).embed([f"{example.prompt}\n{example.answer}" for example in examples])
    candidates = [Candidate(example.id, example.category, quality(example)) for example in examples]
    return select(candidates, vectors, target=target, method=method, max_cosine=max_cosine, quotas=quotas)
