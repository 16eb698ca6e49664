"""Sketches of rows: MinHash signatures, and what of them finds and sifts candidate pairs.

128 permutations in 32 bands of 4: two rows meet in a band with the fourth power of their Jaccard similarity, and in any
with 1 - (1 - J^4)^32, which is 0.9998 at J = 0.7 and 0.99 at 0.6. (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of
Massive Datasets, ch. 3.)

`rensa` computes the signatures from hashes of shingles in one flat buffer, some 5 µs a row; cut into Python strings
first, the shingles alone would cost 80. Of a signature are kept a key of 32 bits for each band, and the lowest byte
of each of its 128 values: 256 bytes a row. The share of equal bytes estimates the Jaccard similarity with a standard
deviation of at most 0.044 (b-bit minwise hashing, Li and König 2010; the 1 in 256 that agree by chance are within it).
"""

from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from luthier.curate.clusters import rank
from luthier.curate.example import Example
from luthier.curate.near_rules import FLOOR, JACCARD_SHORT
from luthier.curate.near_text import (
    SEPARATOR,
    compared,
    even_out,
    hash_numbers,
    hash_shingles,
    is_short,
    parts_of,
)

PERMUTATIONS: Final = 128
BANDS: Final = 32
PER_BAND: Final = PERMUTATIONS // BANDS
SEED: Final = 42
CHARACTERS: Final = 1 << 16  # of text sketched at a time: 16 bytes each and more, which a processor's cache should hold
# What an estimate must reach, of pairs and of pairs with a short row: 1 in 700 of those at the limit itself are missed.
LIKELY: Final = FLOOR - 3 * (FLOOR * (1 - FLOOR) / PERMUTATIONS) ** 0.5
LIKELY_SHORT: Final = JACCARD_SHORT - 3 * (JACCARD_SHORT * (1 - JACCARD_SHORT) / PERMUTATIONS) ** 0.5


class Sketches(NamedTuple):
    """Rows ready to be compared, column by column.

    Attributes:
        ids: bytes (n,).
        ranking: int64 (n,), see `clusters.rank`.
        keys: uint32 (n, BANDS).
        low: uint8 (n, PERMUTATIONS).
        numbers: uint32 (n,), see `near_text.hash_numbers`.
        short: bool (n,), see `near_text.is_short`.
        texts: what `near_text.Row` is made of, UTF-8, one after the other.
        sizes: int64 (n,), bytes of each in `texts`.
    """

    ids: np.ndarray
    ranking: np.ndarray
    keys: np.ndarray
    low: np.ndarray
    numbers: np.ndarray
    short: np.ndarray
    texts: bytes
    sizes: np.ndarray


def signatures(texts: list[str]) -> np.ndarray:
    """MinHash signatures of evened out texts, uint32 (n, PERMUTATIONS)."""
    from rensa import RMinHash

    made = np.empty((len(texts), PERMUTATIONS), np.uint32)
    for start, stop in _chunks(texts):
        hashes, ends = hash_shingles(texts[start:stop])
        rows = RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends.astype(np.uint64), PERMUTATIONS, SEED)
        values = b"".join(array("I", row) for row in rows.to_rows())
        made[start:stop] = np.frombuffer(values, np.uint32).reshape(-1, PERMUTATIONS)
    return made


def _chunks(texts: list[str]) -> Iterator[tuple[int, int]]:
    start = size = 0
    for index, text in enumerate(texts):
        size += len(text)
        if size > CHARACTERS:
            yield start, index + 1
            start, size = index + 1, 0
    if start < len(texts):
        yield start, len(texts)


def sketch(ids: list[str], ranking: np.ndarray, parts: list[tuple[str, ...]]) -> Sketches:
    """Sketches of rows given as `near_text.parts_of` gives them."""
    even = [even_out(compared(part[1:])) for part in parts]
    values = signatures(even).reshape(-1, BANDS, PER_BAND)
    mixed = values[..., 0].astype(np.uint64)
    for index in range(1, PER_BAND):
        mixed = (mixed ^ mixed >> np.uint64(29)) * np.uint64(0x9E3779B97F4A7C15) + values[..., index]
    mixed = (mixed ^ mixed >> np.uint64(32)) * np.uint64(0xBF58476D1CE4E5B9)
    texts = [SEPARATOR.join(part).encode("utf-8", "surrogatepass") for part in parts]
    return Sketches(
        np.array([one.encode() for one in ids], np.bytes_),
        ranking,
        (mixed >> np.uint64(32)).astype(np.uint32),
        values.astype(np.uint8).reshape(-1, PERMUTATIONS),
        np.fromiter(map(hash_numbers, even), np.uint32, len(even)),
        np.fromiter(map(is_short, even), bool, len(even)),
        b"".join(texts),
        np.fromiter(map(len, texts), np.int64, len(texts)),
    )


def sketch_examples(examples: list[Example]) -> Sketches | None:
    """Sketches of a batch of a dataset; None when it is empty."""
    if not examples:
        return None
    return sketch([one.id for one in examples], rank(examples), [parts_of(one) for one in examples])
