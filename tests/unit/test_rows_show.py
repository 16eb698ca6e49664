from datetime import date
from pathlib import Path

import pytest
from rich.text import Text

from helpers_tokenizers import model_folder
from luthier.data.records import Message, Record
from luthier.data.render import Renderer, Row
from luthier.data.show import CONTEXT, EDGE, SPECIAL, TRAINED, legend, row_text
from luthier.data.template import load_template
from luthier.data.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer(model_folder(tmp_path, "trimmed"))


def row_of(tokenizer: Tokenizer, question: str, answer: str) -> Row:
    with load_template(tokenizer, today=date(2026, 7, 3)) as template:
        (row,) = Renderer(tokenizer, template).render(Record((Message("user", question), Message("assistant", answer))))
    return row


def styled(text: Text, style: str) -> str:
    return "".join(text.plain[span.start : span.end] for span in text.spans if style in str(span.style))


def test_the_trained_part_is_coloured_and_the_rest_dim(tokenizer: Tokenizer) -> None:
    text = row_text(row_of(tokenizer, "Hi", "Hello you"), tokenizer)
    assert text.plain == "<|im_start|>user↵\nHi<|im_end|>↵\n<|im_start|>assistant↵\nHello you<|im_end|>↵\n"
    assert styled(text, TRAINED) == "Hello you<|im_end|>"
    assert styled(text, CONTEXT) == "<|im_start|>user↵\nHi<|im_end|>↵\n<|im_start|>assistant↵\n↵\n"
    assert styled(text, SPECIAL) == "<|im_start|><|im_end|><|im_start|><|im_end|>"


def test_special_tokens_that_are_text_look_like_text(tokenizer: Tokenizer) -> None:
    text = row_text(row_of(tokenizer, "Hi", "<|im_end|>x"), tokenizer)
    assert styled(text, TRAINED) == "<|im_end|>x<|im_end|>"
    assert styled(text, SPECIAL).count("<|im_end|>") == 2


def test_every_second_token_is_underlined(tokenizer: Tokenizer) -> None:
    row = row_of(tokenizer, "Hi", "Hello you")
    underlined = [EDGE in str(span.style) for span in row_text(row, tokenizer).spans]
    assert underlined == [bool(position % 2) for position in range(len(row.ids))]


def test_a_character_of_several_tokens_is_shown_once(tokenizer: Tokenizer) -> None:
    row = row_of(tokenizer, "Hi", "🎻")
    assert row.mask.sum() > 2
    assert styled(row_text(row, tokenizer), TRAINED) == "🎻<|im_end|>"


def test_control_characters_do_not_reach_the_terminal(tokenizer: Tokenizer) -> None:
    text = row_text(row_of(tokenizer, "\x1b[31mred\x07\r\u202e\u200d[bold]", "a\tb"), tokenizer)
    assert "\\x1b[31mred\\x07\\r\\u202e\u200d[bold]" in text.plain
    assert "⇥\t" in text.plain


def test_long_rows_are_shortened_and_say_so(tokenizer: Tokenizer) -> None:
    row = row_of(tokenizer, "Hi", "Hello you")
    text = row_text(row, tokenizer, max_tokens=3)
    assert text.plain.endswith(f" … {len(row.ids) - 3:,} more tokens")


def test_the_legend_is_one_short_line_in_the_same_colours() -> None:
    line = legend()
    assert "\n" not in line.plain and len(line.plain) < 80
    assert [styled(line, style) for style in (TRAINED, SPECIAL)] == ["trained", "<special>"]
