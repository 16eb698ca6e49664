"""What every format is turned into: a record of messages, or of plain text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from luthier.core.files import hash_json

ROLES: Final = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: one of `ROLES`.
        content: the text, exactly as in the file.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One training example. Either `messages` or `text` is filled, never both.

    Attributes:
        messages: the conversation; empty for plain text.
        text: plain text, all of which is trained on; empty for a conversation.
        where: "path.jsonl:17", the place to name in a message to a person.
        group: records of one group stay on one side of a split; "" means a group of its own.
        meta: provenance and anything else the file carried under "meta", kept verbatim.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    where: str = ""
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        """16 hex digits of the content alone: the same words have the same id in any file, group or format."""
        if self.messages:
            return hash_json([[message.role, message.content] for message in self.messages])[:16]
        return hash_json(self.text)[:16]
