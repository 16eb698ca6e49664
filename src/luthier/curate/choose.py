"""Selection on a dataset folder: what is known of each example's quality, and how alike the examples are."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from luthier.core.errors import DataError
from luthier.curate.difficulty import DIFFICULTY, ranks_within_lengths
from luthier.curate.folder import Dataset
from luthier.curate.ledger import read_pass, to_entries
from luthier.curate.select import Candidate, Method, Selection, select

By = Literal["difficulty", "length"]


def scores(dataset: Dataset, reason: str) -> dict[str, float]:
    """Example → the latest score of this reason that was not taken back."""
    found: dict[str, float] = {}
    for made, without in dataset.view.holding():
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
        by: "difficulty" takes what is harder for the model first, compared with answers of like length, and what the
            prompt does not help with last; "length" the longer answer: a weak measure, where nothing better is known.

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

    examples = [example for batch in dataset.map(list, workers=workers) for example in batch]
    examples = [example for example in examples if example.side != "validation"]
    words = {example.id: len(example.answer.split()) for example in examples}
    # Difficulty rises with length; within answers of like length it says more.
    scored = {key: value for key, value in known.items() if key in words}
    better = ranks_within_lengths(scored, words) if by == "difficulty" else words
    vectors = open_table(embeddings).embed([f"{example.prompt}\n{example.answer}" for example in examples])
    candidates = [Candidate(example.id, example.category, better.get(example.id, -math.inf)) for example in examples]
    return select(candidates, vectors, target=target, method=method, max_cosine=max_cosine, quotas=quotas)
