"""Docstrings as text for people: markup turned into Markdown, lines joined, parameter descriptions found."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

_ROLE = re.compile(r":(?:[a-z]+:)?[a-z]+:`(?P<text>[^`<]+?)\s*(?:<[^`>]*>)?`")
_LINK = re.compile(r"`(?P<text>[^`<]+?)\s*<(?P<url>[^`>]+)>`__?")
_DIRECTIVE = re.compile(r"^\s*\.\. (?P<name>[\w-]+)::\s*(?P<rest>.*)$")
_ADMONITION = re.compile(r"^\s*(?:!!!|\?\?\?\+?) [\w-]+")  # Markdown's: "!!! note"
_HEADING = re.compile(r"^#{1,6} \S")
_FIELD = re.compile(
    r"^\s*[:@](?:param|parameter|arg|argument|keyword|kwarg|key|type|returns?|rtype|raises?|yields?|ivar|var|cvar|meta)\b"
)
_SECTION = re.compile(
    r"^\s*(?:Args|Arguments?|Parameters?|Params|Keyword Args|Keyword Arguments|Other Parameters|Returns?|Yields?|"
    r"Raises|Attributes|Methods|Examples?|Notes?|References|See Also|Warns|Warnings?|Todo)\s*:?\s*$"
)
_UNDERLINE = re.compile(r"^\s*[-=~]{3,}\s*$")
_ITEM = re.compile(r"^\s*(?:[-*+•o]\s|\d+[.)]\s|(?:[\w*`'\"/<>\[\],.]+\s+){1,2}(?:--?|—)\s|[\w*`]{1,30}\s*:\s)")
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)[.!?](?=\s+[A-Z`\"'(]|\s*$)")
_POINTER = re.compile(
    r"^(?:see\b|deprecated\b|alias (?:for|of|to)\b|same as\b|overrid|refer to\b|you should(?:n't| not)\b|internal\b|"
    r"private\b|undocumented|todo\b|inherited\b|don't use\b|implementation? of\b|implements?\b|"
    r"please see\b|do not use\b|obsolete\b|fixme\b|legacy\b)",
    re.IGNORECASE,
)
_LOOK_ELSEWHERE = re.compile(
    r"^\(?(?:please )?(?:see|refer to|consult|read|for (?:more|further|full|additional|complete)\b.*\bsee)\b.*"
    r"(?:doc|help|manual|above|below|module|class|method|section|reference|README|pep|more|detail|comment|RFC)",
    re.IGNORECASE,
)
_COLUMNS = re.compile(r"\S {3,}\S")
_STATEMENT = re.compile(
    r"^\s*(?:import |from [\w.]+ import|(?:async )?(?:with|for|def) |class \w+[(:]|if .*:$|@\w|[\w., ]+ = |"
    r"[\w.]+\(.*\)$)"
)
# imaplib and its like give the call and its result a paragraph: "(typ, [data]) = <instance>.enable(capability)"
_RESULT = re.compile(r"^\(?[\w., \[\]()]+\)? = <?[\w.>]+\(.*\)$")
_FENCE: Final = "```"
_CODE: Final = ("code-block", "code", "sourcecode", "doctest", "testcode")
_KEPT: Final = ("note", "warning", "tip", "important", "attention", "caution", "hint")
# "getopt(args, options) -> opts, args", or only "m=None, name=None"
_SIGNATURE_LINE: Final = re.compile(r"^[\w.]+\(.*\)(?:\s*(?:->|=>|--).*)?:?$|^(?:[\w*]+(?:=\S*)?, )+[\w*]+=\S*$")


def plain_markup(text: str) -> str:
    """Sphinx roles, double backquotes, links and old-style quotes as Markdown code or words."""
    text = _LINK.sub(lambda match: f"{match['text']} ({match['url']})", text)
    text = _ROLE.sub(lambda match: f"`{_role_text(match['text'])}`", text)
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    text = re.sub(r"`([\w.()*-]+)'", r"`\1`", text)
    text = re.sub(r"(?<![\w`*])\*([A-Za-z_][\w.]*)\*(?![\w*])", r"`\1`", text)
    text = re.sub(r"\|([A-Za-z_]\w*)\|(?!\w)", r"\1", text)  # |substitutions|
    return re.sub(r"\\([*`_|])", r"\1", text)


def _role_text(text: str) -> str:
    text = text.strip().removeprefix("!")
    return text[1:].rpartition(".")[2] if text.startswith("~") else text.removeprefix(".")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph: "prose" (one line), "lines" (a list or table, kept line by line) or "code"."""

    kind: str
    text: str


def blocks(doc: str) -> list[Block]:
    """The description in a docstring, paragraph by paragraph, up to its first section or field list."""
    found: list[Block] = []
    inside = ""  # what indented paragraphs belong to: "code", "drop" or, for a note, nothing special
    for lines in _paragraphs(doc):
        if _ends_description(lines):
            break
        if directive := _DIRECTIVE.match(lines[0]):
            name = directive["name"]
            inside = "code" if name in _CODE else "" if name in _KEPT else "drop"
            lines = [*([directive["rest"]] if directive["rest"] and name in _KEPT else []), *lines[1:]]
            if not lines:
                continue
        elif _ADMONITION.match(lines[0]):
            inside, lines = "", lines[1:]
            if not lines:
                continue
        elif not lines[0].startswith(" "):
            inside = ""
        if inside == "drop":
            continue
        if _FENCE in lines[0]:
            found.append(Block("lines", "\n".join(_dedent(lines))))
            continue
        if inside == "code" or _is_code(lines, found):
            _add_code(found, "\n".join(_dedent(lines)))
            continue
        lines = _dedent(lines)
        inside = "code" if lines[-1].endswith("::") else inside
        text = re.sub(r"\s*::$", ":", plain_markup("\n".join(lines)))
        if text == ":":
            continue
        if _is_list(lines):
            found.append(Block("lines", text))
            continue
        own_line = _first_stands_alone(lines)
        parts = text.split("\n", 1) if own_line else [text]
        found += [Block("prose", " ".join(part.split())) for part in parts]
    return found


def _add_code(found: list[Block], text: str) -> None:
    if found and found[-1].kind == "code":
        text = f"{found.pop().text}\n\n{text}"
    found.append(Block("code", text))


def _is_code(lines: list[str], before: list[Block]) -> bool:
    """A doctest, a call with its result, or, after "...:", Python statements (all lines, or some of indented ones)."""
    if lines[0].lstrip().startswith(">>>") or (before and _RESULT.match(lines[0].strip())):
        return True
    if not before or not before[-1].text.endswith(":"):
        return False
    indented = all(line.startswith("  ") for line in lines)
    return all(map(_STATEMENT.match, lines)) or (indented and any(map(_STATEMENT.match, lines)))


def _is_list(lines: list[str]) -> bool:
    """Lines that mean something as lines: items, columns, or what is indented below "...:"."""
    rest = lines[1:]
    if any(_ITEM.match(line) for line in rest) or sum(bool(_COLUMNS.search(line)) for line in lines) > 1:
        return True
    term = lines[0].endswith(":") or len(lines[0].split()) <= 2
    return bool(rest) and term and all(line.startswith(" ") for line in rest)


def _first_stands_alone(lines: list[str]) -> bool:
    """Whether the line break after the first line was meant: the next word starts anew and would have fitted."""
    if len(lines) < 2 or not lines[1][:1].isupper():
        return False
    width = max(60, *map(len, lines))
    return len(lines[0]) + 1 + len(lines[1].split()[0]) <= width - 8


def _paragraphs(doc: str) -> list[list[str]]:
    """Runs of non-blank lines, and Markdown's fenced code whole.

    A doctest, a section, a field list, and what is indented below "::" begin a new paragraph.
    """
    paragraphs: list[list[str]] = [[]]
    fenced = False
    for raw in doc.expandtabs().splitlines():
        line, current = raw.rstrip(), paragraphs[-1]
        if line.lstrip().startswith(_FENCE):
            fenced = not fenced
            paragraphs += [[line]] if fenced else [[*paragraphs.pop(), line], []]
            continue
        if fenced:
            current.append(line)
            continue
        if not line:
            paragraphs.append([])
            continue
        if current:
            doctest = line.lstrip().startswith(">>>") and not current[0].lstrip().startswith(">>>")
            literal = current[-1].endswith("::") and line.startswith(" ") and not _DIRECTIVE.match(current[0])
            if doctest or literal or _FIELD.match(line) or _SECTION.match(line):
                paragraphs.append([])
        paragraphs[-1].append(line)
    return [lines for lines in paragraphs if lines]


def _ends_description(lines: list[str]) -> bool:
    underlined = len(lines) > 1 and bool(_UNDERLINE.match(lines[1]))
    return underlined or bool(_FIELD.match(lines[0]) or _SECTION.match(lines[0]) or _HEADING.match(lines[0]))


def _dedent(lines: list[str]) -> list[str]:
    margin = min(len(line) - len(line.lstrip()) for line in lines if line)
    return [line[margin:] for line in lines]


def description(doc: str, limit: int) -> tuple[str, bool]:
    """The description as Markdown of at most `limit` characters, and whether paragraphs were cut from its end.

    A leading call signature ("name(args) -> value") and sentences that only point elsewhere are left out, and so is
    a last paragraph that introduces what is no longer there. Returns "" when nothing is left, or the first paragraph
    alone is over the limit.
    """
    parts: list[str] = []
    size, cut = 0, False
    for position, block in enumerate(blocks(doc)):
        if not parts and (block.kind == "code" or (position == 0 and _SIGNATURE_LINE.match(block.text))):
            continue
        text = f"```python\n{block.text}\n```" if block.kind == "code" else without_pointers(block.text)
        size += len(text) + 2
        if size > limit:
            cut = True
            break
        if text and (parts or " " in text):  # a first line of one word only repeats the name
            parts.append(text)
    while parts and parts[-1].endswith(":"):
        parts.pop()
    return "\n\n".join(parts), cut


def without_pointers(text: str) -> str:
    """The text without sentences that only say where to read more."""
    if "\n" in text:
        return text
    kept = [sentence for sentence in sentences(text) if not _LOOK_ELSEWHERE.match(sentence)]
    return " ".join(kept)


def sentences(text: str) -> list[str]:
    """Sentences of one line of prose."""
    found, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        found.append(text[start : match.end()].strip())
        start = match.end()
    return [sentence for sentence in [*found, text[start:].strip()] if sentence]


def first_sentence(doc: str) -> str:
    """The first sentence of the description, "" where there is none worth quoting."""
    for position, block in enumerate(blocks(doc)):
        if block.kind == "prose" and not (position == 0 and _SIGNATURE_LINE.match(block.text)):
            if " " not in block.text:
                continue
            found = sentences(block.text)[0]
            return "" if found.endswith(":") else found
        if block.kind == "lines":
            return ""
    return ""


def points_elsewhere(doc: str) -> bool:
    """True for a docstring whose first sentence says only where to look, or that nobody should use the thing."""
    first = first_sentence(doc) or doc.split("\n", 1)[0]
    return bool(_POINTER.match(first) or _LOOK_ELSEWHERE.match(first))


_ABOUT = re.compile(
    r"(?:(?:If|When|The|Optional|Argument|Parameter) )?(?:the )?(?:optional )?`(\w+)`(?: argument| parameter)? "
    r"(?:is|are|specifies|may|can|must|should|defaults|controls|gives|names|says|will|has|tells|indicates|determines)\b"
)
_ENTRIES: Final = (
    re.compile(
        r"^(?P<indent>\s*)[:@](?:param|parameter|arg|argument|keyword|kwarg|key)\s+(?:[^:]*\s)?\\?\*{0,2}(?P<name>\w+)\s*:\s*(?P<text>.*)$"
    ),
    re.compile(r"^(?P<indent>\s*)\\?\*{0,2}[`'\"*]{0,2}(?P<name>\w+)[`'\"*]{0,2}\s+(?:--|-|—)\s+(?P<text>.*)$"),
    re.compile(r"^(?P<indent>\s*)\\?\*{0,2}[`'\"*]{0,2}(?P<name>\w+)[`'\"*]{0,2}\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)$"),
)  # Sphinx, dashes, Google and plain colons


def parameter_texts(doc: str, names: Collection[str]) -> dict[str, str]:
    """name → what the docstring says about that parameter, for those of `names` it describes.

    Understood: Sphinx fields, Google and NumPy sections, "name -- text" and "name: text" lines, and paragraphs that
    begin with the name in markup ("If ``skipkeys`` is true, ...").
    """
    lines = doc.expandtabs().splitlines()
    found: dict[str, str] = {}
    in_numpy = False
    for index, line in enumerate(lines):
        if index + 1 < len(lines) and _UNDERLINE.match(lines[index + 1]):
            in_numpy = line.strip() in ("Parameters", "Other Parameters")
            continue
        match = next((match for entry in _ENTRIES if (match := entry.match(line)) and match["name"] in names), None)
        bare = re.match(r"^(?P<indent>\s*)\*{0,2}(?P<name>\w+)$", line) if in_numpy else None
        match = match or (bare if bare and bare["name"] in names else None)
        if match is None or match["name"] in found:
            continue
        own = [] if in_numpy or "text" not in match.groupdict() else [match["text"]]
        text = _entry_text(own, lines[index + 1 :], len(match["indent"]))
        if text:
            found[match["name"]] = text
    for block in blocks(doc):
        match = _ABOUT.match(block.text)
        if match and block.kind == "prose" and match[1] in names and match[1] not in found:
            found[match[1]] = without_pointers(block.text)
    return found


def _entry_text(own: list[str], following: list[str], indent: int) -> str:
    """An entry's text: what stands on its line and the more indented lines below, up to a blank line."""
    for line in following:
        if not line.strip() or len(line) - len(line.lstrip()) <= indent or line.lstrip().startswith(">>>"):
            break
        own.append(line)
    text = plain_markup(" ".join(" ".join(own).split()))
    text = re.sub(r"\s*::$", ":", text)
    return "" if text.endswith(":") else without_pointers(text)
