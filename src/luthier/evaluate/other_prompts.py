"""Answers after the prompts of other rows: does what a model expects depend on what was asked?

The loss of an answer after its own prompt and after another's differ by what the prompt tells, while style, length and
format are the same on both sides. Where answers and prompts were mixed up the difference is none, and a model that is
trained on such rows learns to look away from the prompt. (`ifd` compares with no prompt at all, which says how hard a
row is.)
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from luthier.data.render import Row


def after_other_prompts(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The first answer of each row after its own prompt, and after that of the next row of another group.

    Both prompts and both answers differ. A row is left out where there is no other, where it has no prompt of two
    tokens or more, and where the row that is made would be longer than the longest.

    Returns:
        Two lists of as many rows, with the same trained tokens.
    """
    longest = max((len(row.ids) for row in rows), default=0)
    firsts = [_first_answer(row) for row in rows]
    own, made = [], []
    for index, row in enumerate(firsts):
        others = (firsts[(index + turn) % len(firsts)] for turn in range(1, len(firsts)))
        other = next((other for other in others if _fits(row, other, longest)), None)
        if other is not None:
            own.append(row)
            made.append(_joined(other, row))
    return own, made


def _first_answer(row: Row) -> Row:
    """The row up to the end of its first run of trained tokens."""
    start = _start(row)
    later = np.flatnonzero(~row.mask[start:])
    end = start + int(later[0]) if len(later) else len(row.ids)
    return replace(row, ids=row.ids[:end], mask=row.mask[:end])


def _start(row: Row) -> int:
    return int(row.mask.argmax())


def _fits(row: Row, other: Row, longest: int) -> bool:
    start, begin = _start(row), _start(other)
    return (
        min(start, begin) >= 2
        and row.group != other.group
        and begin + len(row.ids) - start <= longest
        and not np.array_equal(row.ids[:start], other.ids[:begin])
        and not np.array_equal(row.ids[start:], other.ids[begin:])
    )


def _joined(before: Row, after: Row) -> Row:
    begin, start = _start(before), _start(after)
    return replace(
        after,
        ids=np.concatenate([before.ids[:begin], after.ids[start:]]),
        mask=np.concatenate([before.mask[:begin], after.mask[start:]]),
    )
