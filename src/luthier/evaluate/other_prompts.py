"""Rows whose answers stand after the prompt of another row: do a model's answers depend on what was asked?

The loss of an answer after its own prompt and after another's differ by what the prompt tells, while style, length and
format are the same on both sides. Where answers and prompts were mixed up the difference is none, and a model that is
trained on such rows learns to look away from the prompt. (`ifd` compares with no prompt at all, which says how hard a
row is.)
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from luthier.data.render import Row


def with_other_prompts(rows: Sequence[Row]) -> list[Row]:
    """Each row with the prompt of the next one whose prompt and answer both differ, and all its trained tokens.

    A row stays as it is where there is none such, where it has no prompt of two tokens or more, and where the row that
    is made would be longer than the longest one.
    """
    longest = max((len(row.ids) for row in rows), default=0)
    starts = [int(row.mask.argmax()) for row in rows]  # of the first answer
    made = []
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        others = [*range(index + 1, len(rows)), *range(index)]
        fits = (other for other in others if _differ(row, start, rows[other], starts[other], longest))
        other = next(fits, None)
        made.append(row if other is None else _joined(rows[other], starts[other], row, start))
    return made


def _differ(row: Row, start: int, other: Row, begin: int, longest: int) -> bool:
    return (
        min(start, begin) >= 2
        and begin + len(row.ids) - start <= longest
        and not np.array_equal(row.ids[:start], other.ids[:begin])
        and not np.array_equal(row.ids[start:], other.ids[begin:])
    )


def _joined(before: Row, begin: int, after: Row, start: int) -> Row:
    return replace(
        after,
        ids=np.concatenate([before.ids[:begin], after.ids[start:]]),
        mask=np.concatenate([before.mask[:begin], after.mask[start:]]),
    )
