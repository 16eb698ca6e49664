"""Leaks: what is held out, or belongs to an evaluation set, and is trained on all the same.

A number measured on rows that were trained on says nothing. So every training row is compared with the held-out records
and with the evaluation sets that are named, prompt and answer, by the evidence that `leaks_index` describes. The
training row goes, never the held-out one; where the evidence is below `STRONG`, it is marked for review and stays: half
of a prompt is often the phrase that a task is usually asked in.

Not found: a text in other words, or translated; a short prompt in the middle of a longer one; an answer of fewer than
16 tokens with another prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypedDict

import numpy as np

from luthier.curate.example import LEAVES, Entry, Example
from luthier.curate.fold import fold, outcome
from luthier.curate.folder import QUARANTINED, Dataset, View, record_of
from luthier.curate.leaks_index import OWN_SIMILAR, PROMPT, SIMILAR, EvalSet, Index, Item, build, load_index
from luthier.curate.leaks_items import read_items
from luthier.curate.leaks_scan import Match, scan
from luthier.curate.leaks_text import numbers_of, pieces, tokenise, whole
from luthier.curate.ledger import read_batch
from luthier.data.records import Record

VALIDATION: Final = "validation"  # the name of what is held out, among the sets
STRONG: Final = 0.8  # share or similarity from which on it is a leak (Llama 2's limit), and not only may be one
_DECIDING: Final = (*LEAVES, "keep", "edit")  # actions that say whether an example is in, and what it says
_SHOWN: Final = 100  # characters of a leaked text in a detail


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row and the item that it repeats.

    Attributes:
        row: place of the row among those that were searched.
        field: where in the row; "messages" are all user turns together.
        set: name of the set.
        item: `Item.where`.
        part: which part of the item, "prompt" or "answer".
        how: "same", "covered" or "similar", see `leaks_index`.
        score: share of the part's tokens that the row has, or similarity.
        text: the part.
    """

    row: int
    field: str
    set: str
    item: str
    part: str
    how: str
    score: float
    text: str

    @property
    def strong(self) -> bool:
        """Whether it is a leak, and not only may be one."""
        return self.score >= STRONG

    @property
    def detail(self) -> str:
        """For people: what was found, and the beginning of the text."""
        found = {
            "same": f"same {self.part}",
            "covered": f"{100 * self.score:.0f} % of the {self.part}",
            "similar": f"{self.part} with similarity {self.score:.2f}",
        }[self.how]
        text = " ".join(self.text.split())
        return f"{found}: {text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}"


class LeakCount(TypedDict):
    """What was found for one set: its name, its items, those that some training row repeats, and such rows; the last
    two by strong evidence.
    """

    set: str
    items: int
    items_leaked: int
    rows: int


LeakTable = list[LeakCount]  # validation first, then the sets by name


def held_out(record: Record, where: str) -> Item:
    """A held-out record as an item. Every longer user turn counts on its own too; plain text counts as a prompt."""
    if record.text:
        return Item(where, (record.text,))
    users = [turn.content for turn in record.messages if turn.role == "user"]
    prompts = dict.fromkeys(["\n".join(users), *(text for text in users if len(text) >= 64)])
    turns = record.messages + record.chosen
    return Item(where, tuple(prompts), tuple(turn.content for turn in turns if turn.role == "assistant"))


def find_leaks(train: Sequence[Record], sets: Mapping[str, Sequence[Item]]) -> tuple[list[Leak], LeakTable]:
    """The training records that repeat items: for each record and set the strongest evidence, in their order."""
    built = [build(name, sets[name]) for name in _in_order(sets)]
    found = scan(train, [one.index for one in built])
    return _judged(built, found)


def leaks(dataset: Dataset, evaluation: Mapping[str, Path], *, workers: int = 1) -> tuple[list[Entry], LeakTable]:
    """Drop the training examples that repeat validation examples or items of evaluation sets; flag those that may.

    Args:
        dataset: after its split; without one there is no validation to leak.
        evaluation: name → file or folder, see `leaks_items.read_items`.
        workers: processes.

    Returns:
        an entry for each example and set, with the share or similarity as `score` and the item as `counterpart` (the id
        of the validation example, or "file:line"); and the count of each set.

    Raises:
        DataError: an evaluation file cannot be read or has rows that are not understood.
    """
    sets = {name: read_items(path) for name, path in evaluation.items()}
    assert VALIDATION not in sets, VALIDATION
    parts = dataset.map_batches(partial(_side, True), _items, workers, None)
    validation = [item for part in parts for item in part]
    sets[VALIDATION] = validation
    built = [build(name, sets[name]) for name in _in_order(sets)]
    with TemporaryDirectory() as place:
        folders = tuple(Path(place) / str(number) for number in range(len(built)))
        for one, folder in zip(built, folders, strict=True):
            one.index.save(folder)
        ids: list[str] = []
        matches: list[list[Match]] = [[] for _ in built]
        for names, found in dataset.map_batches(partial(_side, False), partial(_scan, folders), workers, None):
            for all_found, more in zip(matches, found, strict=True):
                all_found += (_moved(match, len(ids)) for match in more)
            ids += names
        _index_at.cache_clear()
    found_leaks, table = _judged(built, matches)
    entries = [
        Entry(
            ids[leak.row],
            "drop" if leak.strong else "flag",
            f"leak: {leak.set}" if leak.strong else f"may be a leak: {leak.set}",
            field=leak.field if "." in leak.field or leak.field == "text" else "",
            score=round(leak.score, 4),
            counterpart=leak.item,
            detail=leak.detail,
        )
        for leak in found_leaks
    ]
    return entries, table


def _in_order(names: Mapping[str, object]) -> list[str]:
    return sorted(names, key=lambda name: (name != VALIDATION, name))


def _moved(match: Match, by: int) -> Match:
    return Match(match.row + by, match.text, match.how, match.score, match.field, match.key, match.answer)


def _held(view: View, index: int) -> set[str]:
    """Ids of a batch's records that are on the validation side.

    The columns of the ledger tell who may be: to make an entry of each record's side would take longer than the rest.
    """
    import pyarrow.compute as pc

    named: set[str] = set()
    for made, _ in view.holding():
        table = read_batch(view.path / made.file, index)
        if len(table):
            on_it = pc.and_(pc.equal(table["action"], "split"), pc.equal(table["after"], VALIDATION))
            named.update(table["record"].filter(on_it).to_pylist())
    sides = view.entries(index, records=named, actions=("split",))
    return {key for key, decided in sides.items() if next((e.after for _, e in decided if e.after), "") == VALIDATION}


def _side(validation: bool, view: View, index: int) -> list[tuple[str, Record]]:
    """(id, record) of a batch's examples that are held out, or of all others; only these are parsed."""
    held = _held(view, index)
    wanted = held if validation else None
    entries = view.entries(index, records=wanted, actions=_DECIDING)
    made = []
    for row in view.stored(index, records=wanted):
        decided = [entry for _, entry in entries.get(row.id, ())]
        if row.kind == QUARANTINED or (row.id in held) is not validation or outcome(decided) is not None:
            continue
        record = record_of(row)
        made.append((row.id, fold(Example(row.id, record), decided)[0].record if decided else record))
    return made


def _items(records: list[tuple[str, Record]]) -> list[Item]:
    return [held_out(record, key) for key, record in records]


@lru_cache(maxsize=64)
def _index_at(folder: Path) -> Index:
    return load_index(folder)


def _scan(folders: tuple[Path, ...], records: list[tuple[str, Record]]) -> tuple[list[str], list[list[Match]]]:
    """Ids of training records, and their matches for each set."""
    return [key for key, _ in records], scan([record for _, record in records], [_index_at(f) for f in folders])


def _judged(built: Sequence[EvalSet], found: Sequence[Sequence[Match]]) -> tuple[list[Leak], LeakTable]:
    """Candidates compared, the strongest evidence of each row and set, and the counts."""
    best: dict[tuple[int, int], tuple[tuple[float, bool, str, str], Leak]] = {}
    table = []
    for number, (one, matches) in enumerate(zip(built, found, strict=True)):
        items: set[int] = set()
        rows: set[int] = set()
        for match in matches:
            score, owners = _compare(one, match)
            if not owners:
                continue
            if score >= STRONG:
                items.update(owners)
                rows.add(match.row)
            where = min(one.items[at].where for at in owners)
            part = "prompt" if one.index.parts[match.text] == PROMPT else "answer"
            leak = Leak(match.row, match.field, one.name, where, part, match.how, score, one.texts[match.text])
            rank = (-score, match.how != "same", where, one.texts[match.text])
            if (match.row, number) not in best or rank < best[match.row, number][0]:
                best[match.row, number] = rank, leak
        table.append(LeakCount(set=one.name, items=len(one.items), items_leaked=len(items), rows=len(rows)))
    return [best[key][1] for key in sorted(best)], table


def _compare(one: EvalSet, match: Match) -> tuple[float, Sequence[int]]:
    """(score, the items that the row repeats: none if a candidate does not hold)."""
    text, owners = one.texts[match.text], one.owners[match.text]
    score = match.score
    if match.how == "similar":
        score = _similarity(text, match.key, one.index.common_pieces)
        if score < SIMILAR:
            return score, ()
    if one.index.forms[match.text]:
        owners = [at for at in owners if not one.items[at].answers or _alike(one.items[at].answers, match.answer)]
    return score, owners


def _similarity(one: str, other: str, common: np.ndarray) -> float:
    """Jaccard similarity of the pieces of two prompts; 0 when their numbers or the pieces that tell differ."""
    if numbers_of(one) != numbers_of(other):
        return 0.0
    first, second = _pieces_of(one), _pieces_of(other)
    likeness = _jaccard(first, second)
    if likeness < SIMILAR:
        return likeness
    own = _jaccard(*(part[~np.isin(part, common, assume_unique=True)] for part in (first, second)))
    return likeness if own >= OWN_SIMILAR else 0.0


@lru_cache(maxsize=1 << 16)
def _pieces_of(text: str) -> np.ndarray:
    """The different pieces of a text, sorted; kept, since a prompt that follows a template is compared with many."""
    return np.unique(pieces([text])[0])


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(1, len(one) + len(other) - both)


def _alike(answers: Sequence[str], answer: str) -> bool:
    """Whether an answer is one of these, or nearly."""
    if whole(tokenise([answer]))[0] in whole(tokenise([*answers, "\n".join(answers)])):
        return True
    return any(_similarity(text, answer, np.zeros(0, np.uint64)) >= SIMILAR for text in answers)
