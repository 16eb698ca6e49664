"""Exact duplicates: rows that say the same, letter for letter, after what typing and encoding vary is evened out."""

import re
import unicodedata
from collections import Counter
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from luthier.curate.clusters import FLAGGED, preference_order, rank, repeated
from luthier.curate.example import Entry, Example
from luthier.curate.folder import Dataset, Since

REASON = "exact duplicate"
VERSION = 1

# Punctuation that ends a word or a sentence. Inside a word it stays ("3.14", "don't", "a.b"), and so does all that
# carries meaning in maths and code (+ - < = ( " …), and the "!" of a factorial.
_CALL = re.compile(r"(?<![\d!])!+(?!\S)")
_ENDING = re.compile(r"[.,;:?…]+(?!\S)")
_QUOTES = str.maketrans("“”„«»‘’‚`´", '"""""' + "'''''")


def even_out(text: str) -> str:
    """NFKC, lower case, one kind of quotation marks, single spaces, no punctuation at the ends of words."""
    if not text:
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    if "!" in text:
        text = _CALL.sub(" ", text)
    return " ".join(_ENDING.sub(" ", text.lower().replace("`", "'")).split())


class Rows(NamedTuple):
    """What is known of the examples of a batch, column by column; hashes are of 128 bits, (n, 2) uint64."""

    ids: np.ndarray  # bytes
    whole: np.ndarray  # hash of everything, the label of a labelled answer aside
    full: np.ndarray  # hash of everything
    asked: np.ndarray  # hash of all but the last answer
    ranking: np.ndarray  # int64, of `rank`

    def only(self, rows: np.ndarray) -> "Rows":
        """Some of the rows."""
        return Rows(*(column[rows] for column in self))


def read_rows(examples: list[Example]) -> Rows:
    """What has to be known of a batch."""
    whole, full, asked = bytearray(), bytearray(), bytearray()
    for example in examples:
        record = example.record
        # No text that was evened out has a separator in it, and `repr` of a name has none either.
        turns = [
            f"\x1f{place}\x1f{turn.role}\x1f{even_out(turn.content)}\x1f{even_out(turn.tool_calls)}\x1f{turn.name!r}"
            for place, side in (("", record.messages), ("chosen", record.chosen), ("rejected", record.rejected))
            for turn in side
        ]
        answers = len(record.chosen) + len(record.rejected) or 1
        said = f"{record.kind}\x1f{even_out(record.tools)}\x1f{even_out(record.text)}{''.join(turns[:-answers])}"
        made = blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16)
        asked += made.digest()
        made.update("".join(turns[-answers:]).encode("utf-8", "surrogatepass"))
        whole += made.digest()
        if record.label is not None:
            made.update(f"\x1f{record.label}".encode())
        full += made.digest()
    hashes = (np.frombuffer(values, np.uint64).reshape(-1, 2) for values in (whole, full, asked))
    return Rows(np.array([example.id for example in examples], np.bytes_), *hashes, rank(examples))


def exact_duplicates(
    dataset: Dataset,
    *,
    workers: int = 1,
    notes: Counter[str] | None = None,
    read: list[Rows] | None = None,
    since: Since | None = None,
) -> list[Entry]:
    """Every example that says the same as another, all but the best of them.

    The hash is taken of the list of (role, content) of all turns, after Unicode NFKC, lower case, and with white space
    and sentence punctuation evened out (`even_out`). The same prompt with another answer is no duplicate, nor is an
    answer that is wanted in one row and unwanted in another; both are counted in `notes`.

    Args:
        read: what `read_rows` made of all batches, where that is known, and what was said `since`. It is emptied.
    """
    batches = list(dataset.map(read_rows, workers=workers)) if read is None else read
    batches[:] = [made for made in batches if len(made.ids)]
    if not batches:
        return []
    every = Rows(*(np.concatenate(column) for column in zip(*batches, strict=True)))
    batches.clear()
    # Most are found to be alone by the first half of the hash.
    alike = np.flatnonzero(repeated(every.full[:, 0]))
    rows = every.only(alike)
    if since is not None:
        rows.ranking[np.isin(rows.ids, since.flagged)] |= FLAGGED
    order = np.lexsort((preference_order(rows.ranking, rows.ids), rows.full[:, 1], rows.full[:, 0]))
    first = np.r_[True, (rows.full[order][1:] != rows.full[order][:-1]).any(1)][: len(order)]
    kept = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    pairs = sorted(zip(rows.ids[order[~first]].tolist(), rows.ids[kept[~first]].tolist(), strict=True))
    entries = [Entry(one.decode(), "duplicate", REASON, score=1.0, counterpart=other.decode()) for one, other in pairs]
    if notes is not None:
        stays = np.ones(len(every.ids), bool)
        stays[alike[order[~first]]] = False
        left = every.only(np.flatnonzero(stays))
        left = left.only(np.flatnonzero(repeated(left.asked[:, 0])))
        said = np.unique(np.concatenate([left.asked, left.whole], 1), axis=0)  # labels aside
        notes["prompts with several different answers"] += int((_numbers(said[:, :2]) > 1).sum())
        notes["answers labelled both wanted and unwanted"] += len(left.ids) - len(said)
    return entries


def _numbers(hashes: np.ndarray) -> np.ndarray:
    """How often each hash is there."""
    return np.unique(hashes, axis=0, return_counts=True)[1]
