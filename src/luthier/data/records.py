"""What every format is turned into: a record of messages, of a preference, of a labelled answer, or of plain text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, Final

from luthier.core.files import hash_bytes, hash_json

ROLES: Final = ("system", "user", "assistant")
KINDS: Final = ("conversation", "preference", "labelled", "text")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: one of `ROLES`, or "tool" for what a tool answered.
        content: the text, exactly as in the file.
        tool_calls: calls the assistant makes in this turn, canonical JSON: [{"name": …, "arguments": {…}}, …]; "" none.
        name: of a tool turn, the tool that answered; "" otherwise or unknown.
    """

    role: str
    content: str
    tool_calls: str = ""
    name: str = ""

    def as_json(self) -> dict[str, str]:
        """The fields that are filled, role and content always."""
        extra = {"tool_calls": self.tool_calls, "name": self.name}
        return {"role": self.role, "content": self.content} | {key: value for key, value in extra.items() if value}


@dataclass(frozen=True, slots=True)
class Record:
    """One training example.

    Attributes:
        messages: the conversation, or for a preference the prompt; empty for plain text.
        chosen, rejected: the two continuations of the prompt; filled for a preference only.
        label: for a labelled answer, whether the conversation's last turn is wanted; None otherwise.
        tools: schemas of the tools the conversation may call, canonical JSON list; "" for none.
        text: plain text, all of which is trained on; empty for everything else.
        where: "path.jsonl:17", the place to name in a message to a person.
        group: records of one group stay on one side of a split; "" means a group of its own.
        meta: provenance and anything else the file carried under "meta", kept verbatim.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    where: str = ""
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    tools: str = ""

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.chosen or self.rejected:
            return "preference"
        if self.label is not None:
            return "labelled"
        return "conversation" if self.messages else "text"

    @property
    def id(self) -> str:
        """16 hex digits of the content alone: the same words have the same id in any file, group or format."""
        match self.kind:
            case "text":
                return hash_json(self.text)[:16]
            case "conversation" if not self.tools and not any(turn.tool_calls or turn.name for turn in self.messages):
                # By far the most: what `hash_json` makes of the list of (role, content), in half the time.
                turns = (f"[{encode_basestring(t.role)},{encode_basestring(t.content)}]" for t in self.messages)
                return hash_bytes(f"[{','.join(turns)}]".encode())[:16]
            case _:
                return hash_json(self.as_json())[:16]

    def as_json(self) -> dict[str, Any]:
        """The content in canonical form: only what is filled, without where, group and meta."""
        content: dict[str, Any] = {}
        for name in ("messages", "chosen", "rejected"):
            if turns := getattr(self, name):
                content[name] = [turn.as_json() for turn in turns]
        if self.label is not None:
            content["label"] = self.label
        if self.tools:
            content["tools"] = self.tools
        if self.text:
            content["text"] = self.text
        return content


def _turns(turns: Sequence[Mapping[str, str]]) -> tuple[Message, ...]:
    return tuple(
        Message(turn["role"], turn["content"])
        if len(turn) == 2
        else Message(turn["role"], turn["content"], turn.get("tool_calls", ""), turn.get("name", ""))
        for turn in turns
    )


def record_from_json(
    content: Mapping[str, Any], *, where: str = "", group: str = "", meta: Mapping[str, Any] | None = None
) -> Record:
    """The way back from `Record.as_json`."""
    messages = _turns(content.get("messages", ()))
    if len(content) == 1 and messages:  # by far the most
        return Record(messages, "", where, group, meta or {})
    return Record(
        messages,
        content.get("text", ""),
        where,
        group,
        meta or {},
        _turns(content.get("chosen", ())),
        _turns(content.get("rejected", ())),
        content.get("label"),
        content.get("tools", ""),
    )
