"""Exact duplicates: rows that say the same, letter for letter, after what typing and encoding vary is evened out."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from luthier.curate.clusters import preference_order, rank
from luthier.curate.example import Entry, Example
from luthier.curate.folder import Dataset

REASON = "exact duplicate"
VERSION = 1

# Punctuation that ends a word or a sentence. Inside a word it stays ("3.14", "don't", "a.b"), and so does all that
# carries meaning in maths and code (+ - < = ( " …), and the "!" of a factorial.
_CALL = re.compile(r"(?<![\d!])!+(?!\S)")
_ENDING = re.compile(r"[.,;:?…]+(?!\S)")
_QUOTES = str.maketrans("“”„«»‘’‚`´", '"""""' + "'''''")


def even_out(text: str) -> str:
    """NFKC, lower case, one kind of quotation marks, single spaces, no punctuation at the ends of words."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    if "!" in text:
        text = _CALL.sub(" ", text)
    return " ".join(_ENDING.sub(" ", text.lower().replace("`", "'")).split())


class _Rows(NamedTuple):
    """What is known of the examples of a batch, column by column."""

    ids: np.ndarray  # bytes
    whole: np.ndarray  # bytes, 16 each: hash of everything, the label of a labelled answer aside
    full: np.ndarray  # bytes, 16 each: hash of everything
    asked: np.ndarray  # bytes, 16 each: hash of all but the last answer
    ranking: np.ndarray  # int64, of `rank`


def _hash(parts: Sequence[str]) -> bytes:
    # Lengths make the joined text unambiguous. The last byte is set: numpy strips zeros from the end of bytes.
    text = "\x1f".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=15).digest() + b"\x01"


def _read(examples: list[Example]) -> _Rows:
    ids, whole, full, asked = [], [], [], []
    for example in examples:
        record = example.record
        head = [record.kind, even_out(record.tools), even_out(record.text)]
        turns: list[list[str]] = []
        for name in ("messages", "chosen", "rejected"):
            turns += [
                [name, turn.role, even_out(turn.content), even_out(turn.tool_calls), turn.name]
                for turn in getattr(record, name)
            ]
        answers = len(record.chosen) + len(record.rejected) or 1
        flat = head + [value for turn in turns for value in turn]
        ids.append(example.id.encode())
        whole.append(_hash(flat))
        full.append(_hash([*flat, str(record.label)]))
        asked.append(_hash(head + [value for turn in turns[:-answers] for value in turn]))
    digests = (np.array(values, "S16") for values in (whole, full, asked))
    return _Rows(np.array(ids), *digests, rank(examples))


def exact_duplicates(dataset: Dataset, *, workers: int = 1, notes: Counter[str] | None = None) -> list[Entry]:
    """Every example that says the same as another, all but the best of them.

    The hash is taken of the list of (role, content) of all turns, after Unicode NFKC, lower case, and with white space
    and sentence punctuation evened out (`even_out`). The same prompt with another answer is no duplicate, nor is an
    answer that is wanted in one row and unwanted in another; both are counted in `notes`.
    """
    batches = [made for made in dataset.map(_read, workers=workers) if len(made.ids)]
    if not batches:
        return []
    rows = _Rows(*(np.concatenate(column) for column in zip(*batches, strict=True)))
    position = preference_order(rows.ranking, rows.ids)
    order = np.lexsort((position, rows.full))
    first = np.r_[True, rows.full[order][1:] != rows.full[order][:-1]]
    kept = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    pairs = sorted(zip(rows.ids[order[~first]].tolist(), rows.ids[kept[~first]].tolist(), strict=True))
    entries = [Entry(one.decode(), "duplicate", REASON, score=1.0, counterpart=other.decode()) for one, other in pairs]
    left = order[first]
    said = np.unique(np.stack([rows.asked[left], rows.whole[left]], 1), axis=0)  # labels aside
    if notes is not None:
        notes["prompts with several different answers"] += int((np.unique(said[:, 0], return_counts=True)[1] > 1).sum())
        notes["answers labelled both wanted and unwanted"] += len(left) - len(said)
    return entries
