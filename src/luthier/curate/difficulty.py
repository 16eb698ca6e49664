"""Instruction-following difficulty as the ledger has it: a score for every example that has one, a flag where the
prompt does not help. Measured by `evaluate.ifd`, with the model that is going to be trained.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from luthier.curate.example import Entry, Example
from luthier.data.records import Record

DIFFICULTY: Final = "difficulty"  # the step, and the reason of its scores
UNHELPED: Final = "answer not helped by the prompt"
LENGTHS: Final = 10  # groups of like length that difficulty is ranked in
FEWEST: Final = 50  # examples of such a group


def record_to_score(example: Example) -> Record | None:
    """The conversation whose answers are scored: as it is, or a preference's prompt with the chosen continuation. None
    for what has no prompt (plain text) and for answers that are not wanted.
    """
    record = example.record
    match record.kind:
        case "conversation":
            return record
        case "labelled":
            return record if record.label else None
        case "preference" if record.chosen:
            return Record(record.messages + record.chosen, where=record.where, group=record.group, tools=record.tools)
        case _:
            return None


def difficulty_entries(ids: Sequence[str], values: Sequence[float | None], tokens: Sequence[int]) -> list[Entry]:
    """Entries for examples and their difficulty (None: not measured), over so many tokens of answer.

    At 1 or above the model expects the answer no more with the prompt than without it: they may not belong together.
    That is for a person to read; of very short answers it is often chance.
    """
    entries = []
    for key, value, number in zip(ids, values, tokens, strict=True):
        if value is None:
            continue
        detail = f"over {number:,} tokens"
        entries.append(Entry(key, "score", DIFFICULTY, score=value, detail=detail))
        if value >= 1:
            entries.append(Entry(key, "flag", UNHELPED, score=value, detail=detail))
    return entries


def ranks_within_lengths(values: Mapping[str, float], lengths: Mapping[str, int]) -> dict[str, float]:
    """Difficulty made fit to choose by: its rank, from 0 to 1, among answers of like length.

    Long answers are more difficult for being long: over 60 answers of Dolly, the ranks of difficulty and of length
    correlate with 0.66. So a choice by difficulty itself would be one by length. Answers are put into LENGTHS equally
    large groups by length, fewer where a group would have less than FEWEST. Ties go by id.

    Args:
        values: difficulty of examples by id; those at 1 or above are not helped by their prompt and get no rank.
        lengths: words or tokens of the answers, of these examples at least.
    """
    ordered = sorted((key for key in values if values[key] < 1), key=lambda key: (lengths[key], key))
    groups = max(1, min(LENGTHS, len(ordered) // FEWEST))
    made: dict[str, float] = {}
    for part in np.array_split(np.arange(len(ordered)), groups):
        keys = sorted((ordered[i] for i in part), key=lambda key: (values[key], key))
        made |= {key: (rank + 0.5) / len(keys) for rank, key in enumerate(keys)}
    return made
