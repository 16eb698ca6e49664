"""A row as a person can check it: its text in the terminal, trained tokens on a coloured ground."""

import codecs
import unicodedata

from rich.text import Text

from luthier.data.render import Row
from luthier.data.tokenizer import Tokenizer

TRAINED, CONTEXT, SPECIAL, EDGE = "black on green", "dim", "bold", "underline"


def legend() -> Text:
    """One line that explains `row_text`."""
    return Text.assemble(
        ("trained", TRAINED),
        "  ",
        ("context, not trained", CONTEXT),
        "  ",
        ("<special>", SPECIAL),
        "  ",
        ("every second", EDGE),
        " token underlined",
    )


def row_text(row: Row, tokenizer: Tokenizer, *, max_tokens: int | None = None) -> Text:
    """The tokens of a row, in order.

    Trained tokens are on a coloured ground, the others dim; special tokens are bold; every second token is
    underlined. A character that is spread over several tokens appears at the last of them. Control characters, which
    a terminal would obey, are written as escapes.

    Args:
        row: the row.
        tokenizer: the one it was rendered with.
        max_tokens: show only so many tokens from the start, and say how many are left out.
    """
    text = Text()
    pending = codecs.getincrementaldecoder("utf-8")("replace")
    shown = row.ids[:max_tokens].tolist()
    for position, number in enumerate(shown):
        styles = [TRAINED if row.mask[position] else CONTEXT]
        if tokenizer.is_special(number):
            styles.append(SPECIAL)
        if position % 2:
            styles.append(EDGE)
        piece = pending.decode(tokenizer.token_bytes(number), final=position == len(shown) - 1)
        text.append(_visible(piece), " ".join(styles))
    if left := len(row.ids) - len(shown):
        text.append(f" … {left:,} more tokens", "italic")
    return text


def _visible(text: str) -> str:
    return "".join(_visible_char(char) for char in text)


def _visible_char(char: str) -> str:
    if char == "\n":
        return "↵\n"
    if char == "\t":
        return "⇥\t"
    # Cc: control characters. Cf: formatting characters, among them those that turn the reading direction around.
    hidden = unicodedata.category(char) == "Cc" or (unicodedata.category(char) == "Cf" and char not in "\u200c\u200d")
    return char.encode("unicode_escape").decode() if hidden else char
