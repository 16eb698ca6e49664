"""Which characters of a rendered conversation the model must write itself. Pure string work, no tokens.

The place of an answer is found by rendering the conversation twice, once with the answer and once with a single
private character in its stead: what the two texts share on the left and on the right is the template's, the rest is
the answer. This needs no marks in the template, and holds for templates that trim or rewrite what they are given.

For the i-th answer three texts are rendered:
    prompt    messages before it, with add_generation_prompt
    view      messages up to and including it: what this answer looks like when it is the newest
    marked    the same as `view`, with the private character as answer
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.core.errors import DataError
from luthier.data.records import Record
from luthier.data.template import Conversation
from luthier.data.tokenizer import Tokenizer
from luthier.data.tokenizer_file import PRIVATE

_PRIVATE_USE = range(0xE000, 0xF900)  # Unicode's private use area: characters without a meaning


class Disguise:
    """Keeps special tokens that a record spells in its texts apart from those that the template writes.

    Before rendering, `hide` turns each into private characters that occur nowhere else; after the template's special
    tokens were found, `show` turns them back into plain text.

    Attributes:
        mark: another private character that neither the record nor the template contains.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], template: str) -> None:
        free = (chr(code) for code in _PRIVATE_USE if not any(chr(code) in text for text in (*texts, template)))
        fence, self.mark = next(free, ""), next(free, "")
        if not self.mark:
            raise DataError("the text contains every private-use character, so none is left to mark places with")
        self._tokenizer, self._fence = tokenizer, fence
        self._hidden = re.compile(f"{fence}([0-9]+){fence}")

    def hide(self, text: str) -> str:
        """`text` with every special token that it spells written in private characters."""
        special_ids, fence = self._tokenizer.special_ids, self._fence
        return self._tokenizer.replace_specials(text, lambda match: f"{fence}{special_ids[match.group()]}{fence}")

    def show(self, text: str) -> str:
        """The reverse of `hide`."""
        if self._fence not in text:
            return text
        return self._hidden.sub(lambda match: self._tokenizer.special_text(int(match[1])), text)


def check_text(text: str) -> None:
    """Refuse text that cannot be tokenised.

    Raises:
        DataError: it holds half a surrogate pair, or spells a name used inside for special tokens.
    """
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError("a text holds half a surrogate pair (\\ud800 to \\udfff), which is no character") from None
        if PRIVATE.search(text):
            raise DataError("a text holds U+FDD0 digits U+FDD1, which Luthier uses inside for special tokens")


def hide_messages(record: Record, disguise: Disguise) -> list[dict[str, str]]:
    """The messages as a template gets them."""
    return [{"role": message.role, "content": disguise.hide(message.content)} for message in record.messages]


def answer_requests(messages: list[dict[str, str]], at: int, mark: str) -> list[Conversation]:
    """What to render for the answer `messages[at]`: prompt, view, marked."""
    before = messages[:at]
    return [(before, True), (messages[: at + 1], False), ([*before, {**messages[at], "content": mark}], False)]


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer in the text in which it is the newest.

    Attributes:
        view: that text.
        start, end: `view[start:end]` is what the model must write, through the stop token.
        prompt: `view[:start]`, where possible rendered without the answer.
        stop_id: the special token at the end of the region, None where the template writes none.
        asked: `view` begins with the text that asks for the answer.
        moved: the template wrote the messages before the answer otherwise, so the answer was put behind that text.
    """

    view: str
    start: int
    end: int
    prompt: str
    stop_id: int | None
    asked: bool
    moved: bool


def find_turn(
    tokenizer: Tokenizer, before: Sequence[dict[str, str]], texts: Sequence[str], mark: str, *, honours: bool
) -> Turn:
    """Where the answer is in `view`.

    Left edge: the end of the generation prompt if the template has one (`honours`) and begins answers with it; else
    the start of the content, extended over whitespace before it, but not into the prompt.
    Right edge: behind the first token after the content that stops generation, else behind the first special token;
    without any, the end of what the template writes after the content (whitespace excepted).

    Args:
        tokenizer: knows the special tokens.
        before: the messages before the answer, hidden.
        texts: prompt, view, marked.
        mark: the answer in `marked`.
        honours: whether add_generation_prompt makes a difference to this template.

    Raises:
        DataError: the template does not show the answer exactly once, or shows it after something else than the
            text with which it asks for it.
    """
    prompt, view, marked = texts
    if marked.count(mark) != 1:
        shown = marked.count(mark)
        raise DataError(f"mask proof failed: the chat template shows the assistant's message {shown} times, not once")
    head, _, tail = marked.partition(mark)
    content_start = len(head) if view.startswith(head) else _common(head, view)
    same = len(tail) if view.endswith(tail) else _common(tail[::-1], view[::-1])
    content_end = len(view) - same
    if content_end < content_start:
        raise DataError("mask proof failed: the chat template leaves the assistant's message out")

    start, asks = left_edge(prompt, view[:content_start], view, honours=honours)
    after = view[content_end:]
    specials = list(tokenizer.split_specials(after))
    stops = [entry for entry in specials if entry[2] in tokenizer.stop_ids]
    _, length, stop_id = next(iter(stops or specials), (0, len(after.rstrip()), None))
    end = content_end + length
    if view.startswith(prompt):
        return Turn(view, start, end, asks, stop_id, asked=True, moved=False)
    if prompt.startswith(view[:content_start].rstrip()):  # they part only where the answer begins
        return Turn(view, start, end, asks, stop_id, asked=False, moved=False)
    start = _answer_after(prompt, view[:content_start], before)
    moved = prompt + view[start:]
    shift = len(prompt) - start
    return Turn(moved, len(prompt), end + shift, prompt, stop_id, asked=True, moved=True)


def _answer_after(prompt: str, head: str, before: Sequence[dict[str, str]]) -> int:
    """Where the answer begins in `head` (the text through the answer's start) so that it can follow `prompt` instead.

    Some templates leave the system message out once the last message is an answer. The model will be asked with it,
    so the answer is put behind the prompt. That is right if both texts end alike, the last message included.

    Raises:
        DataError: they do not.
    """
    last = before[-1]["content"].strip() if before else ""
    for start in (len(head), len(head.rstrip())):
        alike = _common(prompt[::-1], head[:start][::-1])
        if last and last in prompt[len(prompt) - alike :]:
            return start
    raise DataError(
        "mask proof failed: the chat template writes the messages before the answer otherwise than when it asks for it",
        fix="set chat_template: FILE.jinja in the recipe",
    )


def _common(one: str, other: str) -> int:
    """Length of the beginning that both share."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def left_edge(prompt: str, head: str, view: str, *, honours: bool) -> tuple[int, str]:
    """Where the model begins to write in `view`, and the text before that as rendered without the answer.

    Args:
        prompt: messages before the answer, rendered with add_generation_prompt.
        head: `view` up to the content of the answer.
        view: messages through the answer.
        honours: whether add_generation_prompt makes a difference.
    """
    follows = view.startswith(prompt)
    if honours and follows:
        return len(prompt), prompt
    start = len(head.rstrip())
    if follows and start < len(prompt) <= len(head):
        return len(prompt), prompt  # only whitespace is between them
    return start, head[:start]


def group_turns(turns: Sequence[Turn]) -> list[list[Turn]]:
    """The turns of a conversation by the row they are trained in; the last of each list is the row's newest.

    An answer can share the row of a later one if the later view repeats it and all before it to the letter. A
    template that rewrites history (drops earlier reasoning, moves the system message) needs a row for each answer,
    because that is how the model will see it when it has to write it.
    """
    groups = []
    left = list(turns)
    while left:
        newest = left[-1]
        shared = [turn for turn in left if newest.view.startswith(turn.view[: turn.end])]
        groups.append(shared)
        left = [turn for turn in left if turn not in shared]
    return groups[::-1]
