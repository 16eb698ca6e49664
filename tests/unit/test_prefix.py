"""Common beginnings: which rows share, what the stream then looks like."""

from collections.abc import Sequence

import numpy as np
import pytest

from luthier.data.collate import collate
from luthier.data.prefix import MIN_SHARED, common_length, shared_prefixes
from luthier.data.render import Row

A, B, C = (list(range(start, start + 20)) for start in (100, 200, 300))


def ids(*rows: Sequence[int]) -> list[np.ndarray]:
    return [np.array(row, np.int32) for row in rows]


def row(tokens: Sequence[int], trained: Sequence[int]) -> Row:
    mask = np.zeros(len(tokens), bool)
    mask[list(trained)] = True
    return Row(np.array(tokens, np.int32), mask, "", "", "")


def saved(shares: list[tuple[list[int], int]]) -> int:
    return sum(shared * (len(members) - 1) for members, shared in shares)


@pytest.mark.parametrize(("a", "b", "length"), [([1, 2, 3], [1, 2, 4], 2), ([1], [1, 2], 1), ([1], [2], 0)])
def test_common_length(a: list[int], b: list[int], length: int) -> None:
    assert common_length(*ids(a, b)) == length


def test_one_system_prompt_is_shared_by_all() -> None:
    assert shared_prefixes(ids([*A, 1, 2], [*A, 3], [*A, 4, 5])) == [([0, 1, 2], 20)]


def test_rows_without_a_common_beginning_stay_alone() -> None:
    assert sorted(shared_prefixes(ids(A, B, C))) == [([0], 0), ([1], 0), ([2], 0)]
    short = list(range(MIN_SHARED - 1))
    assert [shared for _, shared in shared_prefixes(ids([*short, 50], [*short, 60]))] == [0, 0]


def test_two_prompts_in_turn() -> None:
    shares = shared_prefixes(ids([*A, 1], [*B, 1], [*A, 2], [*B, 2]))
    assert sorted(shares) == [([0, 2], 20), ([1, 3], 20)]


def test_pairs_below_a_common_start_share_what_saves_most() -> None:
    """Ten tokens in common by all four save 30; the two pairs with 30 tokens in common save 60."""
    start = A[:10]
    shares = shared_prefixes(ids([*start, *B, 1], [*start, *C, 1], [*start, *B, 2], [*start, *C, 2]))
    assert sorted(shares) == [([0, 2], 30), ([1, 3], 30)]


def test_every_row_keeps_a_token_of_its_own() -> None:
    assert shared_prefixes(ids(A, A, A)) == [([0, 1, 2], 19)]
    assert shared_prefixes(ids(A[:15], A)) == [([0, 1], 14)]


def test_a_division_saves_as_much_as_the_best_of_all() -> None:
    """Against every way to cut the sorted rows into runs."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        rows = [np.array([5] * 8 + generator.integers(0, 2, 12).tolist(), np.int32) for _ in range(6)]
        order = sorted(range(6), key=lambda index: rows[index].tolist())
        best = 0
        for cuts in range(2**5):
            runs: list[list[int]] = [[order[0]]]
            for place, index in enumerate(order[1:]):
                if cuts >> place & 1:
                    runs.append([])
                runs[-1].append(index)
            lengths = [min(common_length(rows[r[0]], rows[r[-1]]), 19) for r in runs]
            best = max(best, sum(n * (len(r) - 1) for n, r in zip(lengths, runs, strict=True)))
        assert saved(shared_prefixes(rows)) == best


def test_the_stream_holds_a_common_beginning_once() -> None:
    rows = [row([*A, 1, 2], [20, 21]), row([*B, 7], [5, 20]), row([*A, 3, 4, 5], [18, 20, 22])]
    stream = collate(rows)
    assert stream.tokens.tolist() == [*A, 1, 2, 3, 4, 5, *B, 7]
    assert stream.lengths == [20, 2, 3, 21]
    assert stream.parents == [None, 0, 0, None]
    assert stream.tokens[stream.targets].tolist() == [1, 2, B[5], 7, A[18], 3, 5]
    assert stream.target_rows.tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_a_shared_token_is_trained_once_for_each_row_that_trains_it() -> None:
    stream = collate([row([*A, 1], [10, 20]), row([*A, 2], [10, 20])])
    assert stream.targets.tolist() == [10, 20, 10, 21]
    assert stream.target_rows.tolist() == [0, 0, 1, 1]


def test_rows_on_two_sides_of_the_border_share_nothing() -> None:
    rows = [row([*A, 1], [20]), row([*A, 2, 3], [20]), row([*A, 4], [20]), row([*A, 2, 5], [20])]
    assert collate(rows).parents.count(None) == 1
    stream = collate(rows, border=21)
    assert stream.lengths == [20, 1, 1, 21, 1, 1] and stream.parents == [None, 0, 0, None, 3, 3]
    assert stream.tokens[stream.targets].tolist() == [1, 2, 4, 2]
    assert stream.target_rows.tolist() == [0, 1, 2, 3]
