"""Broken characters and how they are put right: bytes read in the wrong encoding, control and invisible characters.

Each function takes a text and returns it repaired, or the very same text. None of them changes quotes, width,
ligatures, line breaks or composed characters: those are what the author wrote, and in code they matter.

The encoding repair is that of `ftfy` (Speer 2019, https://doi.org/10.5281/zenodo.2591652), with three of its
guesses held back: "MANHÃ”" in capitals and the letter Ã spoken of are no broken Ô and à; what would come out as one or
two letters of a foreign script ("×²" would be a Hebrew letter) stays; lost bytes are not replaced by "�".
"""

import re
from functools import cache
from typing import Final

# Letters that need joiners between them: Arabic and its neighbours, the scripts of South Asia, Mongolian.
_JOINED: Final = "\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc"
# Scripts without spaces, in which U+200B and U+2060 say where a line may break.
_UNSPACED: Final = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"
_RIGHT_TO_LEFT: Final = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_EMOJI: Final = "\u00a9\u00ae\u203c-\u3299\ufe0f\U0001f000-\U0001faff"
_QUOTES: Final = "\"'`"

_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
_TERMINAL: Final = re.compile("\x1b\\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b\x0e-\x1f\x7f]")
_INVISIBLE: Final = re.compile(
    "[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0001-\U000e007f]"
)
_KEEP_JOINER: Final = re.compile(f"[{_JOINED}]|[{_EMOJI}]")
_KEEP_BREAK: Final = re.compile(f"[{_UNSPACED}]")
_BIDI: Final = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Commands whose backslash and first letter were read as one escape: "\begin" became backspace + "egin".
_ESCAPED: Final = (
    ("\x08", "\\b", re.compile("\x08(?=(?:egin|eta|inom|ar|oldsymbol|oxed|ullet|ig[lr]?)\\b)")),
    ("\x0c", "\\f", re.compile("\x0c(?=(?:rac|orall|box)\\b)")),
    ("\x07", "\\a", re.compile("\x07(?=(?:lpha|pprox|ngle|st|rccos|rcsin|rctan)\\b)")),
    ("\x0b", "\\v", re.compile("\x0b(?=(?:ec|ee|dots|arphi|arepsilon|artheta)\\b)")),
    ("\t", "\\t", re.compile("\t(?=(?:imes|heta|herefore)\\b|(?:ext|extbf|frac)\\{)")),
)


@cache
def _suspicious() -> re.Pattern[str]:
    """What text must hold to be worth a closer look: two characters that are a UTF-8 pair in some other encoding."""
    from ftfy.chardata import CHARMAP_ENCODINGS

    def span(first: int, last: int) -> str:
        chars = {char for name in CHARMAP_ENCODINGS for char in bytes(range(first, last)).decode(name, "ignore")}
        return re.escape("".join(sorted(chars - {chr(code) for code in range(0x80)})))

    return re.compile(f"[{span(0xC2, 0xF5)}][{span(0x80, 0xC0)}]|[\x80-\x9f]")


_FOREIGN: Final = re.compile("[\u0400-\u07ff]")  # two-byte scripts; longer sequences do not come about by chance
# Portuguese and French in capitals before a quotation mark ("MANHÃ”"), and the letters Ã and Â spoken of.
_LETTERS: Final = re.compile("(?<=[A-ZÀ-Þ])[ÃÂ][”“’»](?!\\w)|(?<![^\\W_])[ÃÂ](?=[\\s”’»,.])")


def _line(line: str) -> str:
    from ftfy import TextFixerConfig, fix_encoding
    from ftfy.badness import is_bad

    if not is_bad(_LETTERS.sub("", line)):
        return line
    fixed = fix_encoding(line, TextFixerConfig(replace_lossy_sequences=False, explain=False))
    return line if 0 < len(_FOREIGN.findall(fixed)) - len(_FOREIGN.findall(line)) < 3 else fixed


def fix_encoding(text: str) -> str:
    """Undo UTF-8 read as another encoding ("Itâ€™s", "dÃ©jÃ\xa0vu"), line by line. Costs a look when there is none."""
    if text.isascii() or not _suspicious().search(text):
        return text
    return "\n".join(line if line.isascii() else _line(line) for line in text.split("\n"))


def fix_escapes(text: str) -> str:
    """Give back the backslash of LaTeX commands that a reader took for an escape: backspace + "egin" is "\\begin"."""
    if "\\" not in text and "$" not in text:
        return text  # no LaTeX here: a tab before "heta" is then a tab
    for char, command, pattern in _ESCAPED:
        if char in text:
            text = pattern.sub(lambda _, command=command: command, text)
    return text


def drop_controls(text: str) -> str:
    """Take out control characters and terminal colours. Tab, line feed, carriage return and form feed stay."""
    return _TERMINAL.sub("", text) if _CONTROL.search(text) else text


def drop_invisible(text: str) -> str:
    """Take out zero-width, soft-hyphen, direction and tag characters where they do nothing.

    They stay where they are part of the writing: joiners beside scripts that need them and inside emoji, break marks
    beside scripts without spaces, direction marks in text that holds a right-to-left script, tags of a flag, and
    anything that stands alone between quotes, which is what code about them looks like.
    """
    if text.isascii() or not _INVISIBLE.search(text):
        return text
    mixed = bool(_RIGHT_TO_LEFT.search(text))
    flags = "\U0001f3f4" in text

    def keep(match: re.Match[str]) -> str:
        char, at = match[0], match.start()
        before, after = text[at - 1 : at], text[at + 1 : at + 2]
        around = before + after
        if before and before in _QUOTES and after == before:
            return char
        if char in "\u200c\u200d":
            kept = bool(_KEEP_JOINER.search(around))
        elif char in "\u200b\u2060":
            kept = bool(_KEEP_BREAK.search(around))
        elif char in _BIDI:
            kept = mixed
        else:
            kept = flags and char >= "\U000e0001"
        return char if kept else ""

    return _INVISIBLE.sub(keep, text)
