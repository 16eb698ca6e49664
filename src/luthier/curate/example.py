"""What steps work on and what they say: an `Example` in, `Entry`s out.

A step never changes an example. It says what should happen to it, with a reason and the evidence, and the dataset is
what follows when everything that was said is applied in order (`fold.py`).

A *field* names one text of an example: "text", or the turn and its key, as in "messages.1.content", "chosen.0.content".
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from luthier.data.records import Message, Record

Action = Literal["keep", "flag", "edit", "drop", "duplicate", "split", "repeat", "category", "score", "undo"]
LEAVES: Final = ("drop", "duplicate")  # actions that take an example out of the dataset
SIDES: Final = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision about one example.

    Attributes:
        record: id of the example.
        action: "keep" overrules drops (a person's decision); "flag" marks for review and changes nothing; "edit" puts
            `after` in the place of `before`; "drop" and "duplicate" take it out; "split" puts it on the side named in
            `after`; "repeat" says in `score` how often it is trained on in an epoch; "category" counts it under
            `after`; "score" records a measurement and changes nothing.
        reason: a short code, the same for every entry of its kind, as in "empty answer".
        field: the text concerned; "" for the example as a whole.
        start, end: the characters of that text that are the evidence; both 0 when it is all of it.
        score: what was measured, where something was; None otherwise.
        counterpart: id of the other example, for duplicates and leaks; or "file:row" of an evaluation set.
        before, after: of an edit, the whole text of the field.
        detail: what a person should read to understand the decision.
    """

    record: str
    action: Action
    reason: str
    field: str = ""
    start: int = 0
    end: int = 0
    score: float | None = None
    counterpart: str = ""
    before: str = ""
    after: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A record in a dataset, as it stands after everything decided so far.

    Attributes:
        id: 20 hex digits; of the content as it was read, the source, and which copy it is, so an edit keeps it.
        record: the content now.
        source: name of the file it came from.
        category: what it is counted under in balances; "" for none.
        side: "train" or "validation"; "" before the dataset is split.
        flags: reasons it is marked for review with.
        repeats: how often it is trained on in an epoch.
    """

    id: str
    record: Record
    source: str = ""
    category: str = ""
    side: str = ""
    flags: frozenset[str] = field(default_factory=frozenset)
    repeats: float = 1.0

    @property
    def prompt(self) -> str:
        """What is asked: the user turns (of a preference: of its prompt), or for plain text nothing."""
        return "\n".join(turn.content for turn in self.record.messages if turn.role == "user")

    @property
    def answer(self) -> str:
        """What is trained on: the assistant turns, the chosen continuation, or the text."""
        record = self.record
        if record.text:
            return record.text
        turns = record.messages + record.chosen
        return "\n".join(turn.content for turn in turns if turn.role == "assistant")


def fields_of(record: Record) -> Iterator[tuple[str, str, Message | None]]:
    """(field, text, turn) of every text of a record, in order; the turn is None for plain text."""
    if record.text:
        yield "text", record.text, None
    for name in ("messages", "chosen", "rejected"):
        for index, turn in enumerate(getattr(record, name)):
            yield f"{name}.{index}.content", turn.content, turn


def get_field(record: Record, field: str) -> str:
    """The text of a field. Raises KeyError when the record has no such field."""
    if field == "text":
        return record.text
    name, index, key = field.split(".")
    turns = getattr(record, name)
    if not int(index) < len(turns):
        raise KeyError(field)
    return getattr(turns[int(index)], key)


def set_field(record: Record, field: str, text: str) -> Record:
    """The record with another text in a field."""
    if field == "text":
        return replace(record, text=text)
    name, index, key = field.split(".")
    turns = list(getattr(record, name))
    turns[int(index)] = replace(turns[int(index)], **{key: text})
    return replace(record, **{name: tuple(turns)})
