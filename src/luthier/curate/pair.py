"""A prompt with the answer that is trained on: what rules about defects look at, with what they all need."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from luthier.curate.example import Example

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a rule found.

    Attributes:
        detail: what a person should read.
        start, end: the characters that show it; both 0 for the whole text.
        score: what was measured, where something was.
        in_answer: whether the place is in the answer; else it is in the prompt.
    """

    detail: str = ""
    start: int = 0
    end: int = 0
    score: float | None = None
    in_answer: bool = True


_CODE_ASKED: Final = re.compile(
    r"\b(?:code|script|function|program|programs|class|method|algorithm|python|java|javascript|typescript|html|css|sql"
    r"|bash|shell|regex|regular expression|api|c\+\+|rust|golang|php|ruby|swift|kotlin|svg|latex|mermaid|json|xml|yaml"
    r"|query|command|app|application|implement|compile|parser?)\b|```|c#",
    re.IGNORECASE,
)


class kept(Generic[T]):
    """A property that is computed at the first look. That of `functools` takes a lock for it up to Python 3.11."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self._name = compute, compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, owner: Any, kind: type) -> T:
        value = owner.__dict__[self._name] = self._compute(owner)
        return value


@dataclass(eq=False)
class Pair:
    """One answer with the turn it answers. Nobody changes one; it is not frozen because that makes it slow to make.

    Attributes:
        prompt, answer: the texts; an answer that must not be judged (rejected, unwanted, none) is None.
        prompt_field, answer_field: where they are.
        first: whether nothing but a system turn comes before: later turns may refer to what was said.
        kind: of the record.
        system: the system turn before the conversation; "" for none.
        tools: whether the conversation may call tools, so that it can read pages and send mail.
        calls: whether the answer calls one: its text may then be empty.
    """

    prompt: str
    answer: str | None
    prompt_field: str
    answer_field: str
    first: bool
    kind: str
    system: str = ""
    tools: bool = False
    calls: bool = False

    @kept
    def low(self) -> str:
        """The answer in lower case; "" where there is none to judge."""
        return (self.answer or "").lower()

    @kept
    def asked(self) -> str:
        """The prompt in lower case."""
        return self.prompt.lower()

    @kept
    def instruction(self) -> str:
        """The prompt's first paragraph."""
        return self.prompt.partition("\n\n")[0].strip()

    @kept
    def input(self) -> str:
        """What follows the prompt's first paragraph; "" for a prompt of one."""
        return self.prompt.partition("\n\n")[2].strip()

    @kept
    def words(self) -> list[str]:
        """The words of the answer, as blanks separate them."""
        return (self.answer or "").split()

    @kept
    def different(self) -> int:
        """How many different words the answer has."""
        return len(set(self.words))

    @kept
    def wants_code(self) -> bool:
        """Whether the prompt asks for or holds code."""
        return _CODE_ASKED.search(self.prompt) is not None

    @kept
    def looks_like_code(self) -> bool:
        """Whether the answer is code rather than prose, with or without a fence."""
        return looks_like_code(self.answer or "")


_CODE_LINE: Final = re.compile(
    r"^\s*(?:(?:def|class|import|from|for|while|if|elif|else|try|return|function|const|let|var|public|private|static"
    r"|void|int|#include|package|using|select|insert|update|create table|echo|print|puts|end|fi|done|esac)\b.*"
    r"|[\w.\[\]\"']+\s*[-+*/]?=[^=].*|.*[;{}]|</?\w.*>|[)\]}]+[;,]?|//.*|/\*.*|\*.*\*/|#!.*|\$\w+.*|@\w+.*"
    r"|\w[\w.]*\(.*\)[;:]?)\s*$",
    re.IGNORECASE,
)


def looks_like_code(text: str) -> bool:
    """Whether a text holds a code fence, or at least half of its lines look like a programming language's."""
    if "```" in text:
        return True
    if not any(char in text for char in "=(){};<"):
        return False
    lines = [line for line in text.split("\n", 60)[:60] if line.strip()]
    hits = sum(1 for line in lines if len(line) < 300 and _CODE_LINE.match(line))
    return hits * 2 >= len(lines) > 0


def pairs_of(example: Example) -> Iterator[Pair]:
    """The pairs of an example. Plain text comes as an answer without a prompt."""
    record = example.record
    kind = record.kind
    if kind == "text":
        yield Pair("", record.text, "text", "text", False, kind)
        return
    wanted = len(record.messages) - 1 if kind == "labelled" and record.label else -1
    system, prompt, where, users, before = "", "", "", 0, ""
    for part in ("messages", "chosen") if kind == "preference" else ("messages",):
        for index, turn in enumerate(getattr(record, part)):
            role = turn.role
            if role == "system":
                system = system or turn.content
            elif role == "user":
                prompt, where, users = turn.content, f"{part}.{index}.content", users + 1
            elif role == "assistant":
                judged = kind == "conversation" or part == "chosen" or index == wanted
                yield Pair(
                    prompt if before == "user" else "",
                    turn.content if judged else None,
                    where,
                    f"{part}.{index}.content",
                    users == 1 and before == "user",
                    kind,
                    system,
                    bool(record.tools),
                    bool(turn.tool_calls),
                )
            before = role
