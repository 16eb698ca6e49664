"""Texts in parts, so that a page can mark what changed, what differs, and what is the evidence.

A part is [kind, text]. Kinds: "" as it is, "-" taken away, "+" put in, "~" unlike the other text, "!" evidence,
"…" characters that are not shown (the text says how many).
"""

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Final

from luthier.core.readable import count

Part = list[str]
AROUND: Final = 90  # characters shown on both sides of a change
LONGEST: Final = 2_400  # characters of a text that are shown
COMPARED: Final = 700  # tokens of the differing middle that are aligned; a longer one is shown as changed in all
_FINE = re.compile(r"\w+|\s|[^\w\s]")  # for edits, where one character may be all that changed
_COARSE = re.compile(r"\S+\s*|\s+")
_SEEN = {"\n": "↵\n", "\t": "⇥\t", "\r": "␍"}


def edit_parts(before: str, after: str) -> list[Part]:
    """What an edit took away and put in, with some text around it; characters that cannot be seen are named."""
    parts: list[Part] = []
    for same, old, new in _aligned(_FINE.findall(before), _FINE.findall(after)):
        if same and parts and not parts[-1][0]:
            parts[-1][1] += same
        elif same:
            parts.append(["", same])
        if old:
            parts.append(["-", visible(old)])
        if new:
            parts.append(["+", visible(new)])
    return _with_gaps(parts)


def compare(left: str, right: str) -> tuple[list[Part], list[Part]]:
    """Two texts, each with what the other lacks marked."""
    if left == right:
        return [["", left]], [["", right]]
    one: list[Part] = []
    other: list[Part] = []
    for same, old, new in _aligned(_COARSE.findall(left), _COARSE.findall(right)):
        one += _unlike(same, old)
        other += _unlike(same, new)
    return one, other


def _unlike(same: str, differs: str) -> list[Part]:
    """Parts for a text that is the same and one that is not; the space at the end of it is not worth a mark."""
    words = differs.rstrip()
    return [[kind, text] for kind, text in (("", same), ("~", words), ("", differs[len(words) :])) if text]


def _aligned(left: Sequence[str], right: Sequence[str]) -> list[tuple[str, str, str]]:
    """(text that is the same, what follows on the left, what follows on the right), in order."""
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    end = 0
    while end < min(len(left), len(right)) - start and left[-1 - end] == right[-1 - end]:
        end += 1
    a, b = left[start : len(left) - end], right[start : len(right) - end]
    made = [("".join(left[:start]), "", "")]
    if max(len(a), len(b)) > COMPARED:
        made.append(("", "".join(a), "".join(b)))
    else:
        for what, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            made.append(("".join(a[a0:a1]), "", "") if what == "equal" else ("", "".join(a[a0:a1]), "".join(b[b0:b1])))
    made.append(("".join(left[len(left) - end :]), "", ""))
    return made


def visible(text: str) -> str:
    """The text with line ends, tabs, controls and characters without a shape made visible."""
    return "".join(_SEEN.get(char) or (_named(char) if _hidden(char) else char) for char in text)


def _hidden(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp") or (
        char != " " and unicodedata.category(char) == "Zs"
    )


def _named(char: str) -> str:
    return f"⟨U+{ord(char):04X}⟩"


def _with_gaps(parts: Sequence[Part]) -> list[Part]:
    """Long stretches without a change are cut in their middle, or at the ends of the text."""
    made: list[Part] = []
    for index, (kind, text) in enumerate(parts):
        if kind:
            made += clip([[kind, text]])
            continue
        head = AROUND if index else 0
        tail = AROUND if index < len(parts) - 1 else 0
        if len(text) <= head + tail + 40:
            made.append([kind, text])
            continue
        middle = ["…", f"{count(len(text) - head - tail)} characters"]
        made += [part for part in (["", text[:head]], middle, ["", text[len(text) - tail :]]) if part[1]]
    return made


def clip(parts: Sequence[Part], longest: int = LONGEST) -> list[Part]:
    """The first `longest` characters, and a note on how many more there are."""
    made: list[Part] = []
    left = longest
    for kind, text in parts:
        if left > 0:
            made.append([kind, text[:left]])
        left -= len(text)
    if left < 0:
        made.append(["…", f"{count(-left)} more characters"])
    return made


def marked(text: str, start: int, end: int) -> list[Part]:
    """A text with text[start:end] as the evidence; all of it plain when the span is empty."""
    if not start < end <= len(text):
        return [["", text]]
    parts = [["", text[:start]], ["!", text[start:end]], ["", text[end:]]]
    return [part for part in parts if part[1]]
