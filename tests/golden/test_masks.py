"""The exact tokens that are trained, for each family of templates, and the text around them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from helpers_tokenizers import model_folder
from luthier.core.errors import DataError
from luthier.data.records import Message, Record
from luthier.data.render import Renderer, Row
from luthier.data.template import load_template
from luthier.data.tokenizer import Tokenizer

SYSTEM = Message("system", "Write a short answer.")
FIRST = (Message("user", "Name a colour."), Message("assistant", "Blue is a colour."))
SECOND = (Message("user", "Why?"), Message("assistant", "I am fine.\nThank you!"))
RECORDS = {
    "single": Record(FIRST),
    "multi": Record((*FIRST, *SECOND)),
    "system": Record((SYSTEM, *FIRST, *SECOND)),
}

# Tokens of the two answers, by tokenizer.
LEVEL = ["Blue", " is", " a", " colour", "."], ["I", " am", " fine", ".", "\n", "Th", "ank", " you", "!"]
PIECES = ["Blu", "e", " is", " a", " colo", "ur", "."], ["I", " am", " f", "in", "e", ".", "\n", "Th", "ank", " you!"]
SPACED = [" ", *PIECES[0]], [" I", *PIECES[1][1:]]
NO_THOUGHT = ["<think>", "\n\n", "</think>", "\n\n"]

# style → (tokens of both answers, stop token of the first, stop token of the last)
ONE_ROW = {
    "chatml": (LEVEL, "<|im_end|>", "<|im_end|>"),
    "qwen2.5": (LEVEL, "<|im_end|>", "<|im_end|>"),
    "llama3": (LEVEL, "<|eot_id|>", "<|eot_id|>"),
    "mistral-v0.1": (PIECES, "</s>", "</s>"),
    "mistral-v3": (SPACED, "</s>", "</s>"),
    "gemma": (PIECES, "<end_of_turn>", "<end_of_turn>"),
    "zephyr": (PIECES, "</s>", "</s>"),
    "alpaca": (PIECES, "", "</s>"),
    "alpaca-level": (LEVEL, "", "<|endoftext|>"),
    "trimmed": (LEVEL, "<|im_end|>", "<|im_end|>"),
    "dated": (LEVEL, "<|im_end|>", "<|im_end|>"),
    "phi3": (SPACED, "<|end|>", "<|end|>"),
    "deepseek": (LEVEL, "<|endoftext|>", "<|endoftext|>"),
    "generation-tags": (LEVEL, "<|im_end|>", "<|im_end|>"),
}
NO_SYSTEM = {"mistral-v0.1": "roles must alternate", "gemma": "System role not supported"}

# The whole text of a row, «trained». Stretches of text begin with a space where the tokenizer puts one.
WHOLE = {
    ("chatml", "multi"): [
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n«Blue is a colour.<|im_end|>»\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«I am fine.\nThank you!<|im_end|>»\n"
    ],
    ("llama3", "system"): [
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nWrite a short answer.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nName a colour.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Blue is a colour.<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«I am fine.\nThank you!<|eot_id|>»"
    ],
    ("mistral-v0.1", "multi"): [
        "<s> [INST] Name a colour. [/INST]«Blue is a colour.</s>»  [INST] Why? [/INST]"
        "«I am fine.\nThank you!</s>»  "
    ],
    ("mistral-v3", "multi"): [
        "<s>[INST] Name a colour.[/INST]« Blue is a colour.</s>»[INST] Why?[/INST]« I am fine.\nThank you!</s>»"
    ],
    # This template tells the system message only to the last question, and never beside an answer.
    ("mistral-v3", "system"): [
        "<s>[INST] Write a short answer.\n\nName a colour.[/INST]« Blue is a colour.</s>»",
        "<s>[INST] Name a colour.[/INST] Blue is a colour.</s>[INST] Write a short answer.\n\nWhy?[/INST]"
        "« I am fine.\nThank you!</s>»",
    ],
    ("gemma", "multi"): [
        "<bos><start_of_turn>user\nName a colour.<end_of_turn>\n"
        "<start_of_turn>model\n«Blue is a colour.<end_of_turn>»\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n«I am fine.\nThank you!<end_of_turn>»\n"
    ],
    ("zephyr", "system"): [
        " <|system|>\nWrite a short answer.</s> \n"
        "<|user|>\nName a colour.</s> \n<|assistant|>\n«Blue is a colour.</s>» \n"
        "<|user|>\nWhy?</s> \n<|assistant|>\n«I am fine.\nThank you!</s>» \n"
    ],
    ("alpaca", "system"): [
        "<s>Write a short answer.\n\n### Instruction:\nName a colour.\n\n### Response:\n«Blue is a colour.»\n\n"
        "### Instruction:\nWhy?\n\n### Response:\n«I am fine.\nThank you!</s>»"
    ],
    ("qwen3", "multi"): [
        "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n"
        "«<think>\n\n</think>\n\nBlue is a colour.<|im_end|>»\n",
        "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\nBlue is a colour.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
        "«<think>\n\n</think>\n\nI am fine.\nThank you!<|im_end|>»\n",
    ],
    ("no-prompt", "single"): [
        "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant«\nBlue is a colour.<|im_end|>»\n"
    ],
    ("dated", "single"): [
        "<|im_start|>system\nToday is 03 July 2026<|im_end|>\n<|im_start|>user\nName a colour.<|im_end|>\n"
        "<|im_start|>assistant\n«Blue is a colour.<|im_end|>»\n"
    ],
    ("phi3", "multi"): [
        "<s><|user|> Name a colour.<|end|><|assistant|>« Blue is a colour.<|end|>»<|user|> Why?<|end|><|assistant|>"
        "« I am fine.\nThank you!<|end|>»<|endoftext|>"
    ],
}  # fmt: skip


@contextmanager
def renderer_of(style: str, folder: Path) -> Iterator[Renderer]:
    tokenizer = Tokenizer(model_folder(folder, style))
    with load_template(tokenizer, today=date(2026, 7, 3)) as template:
        yield Renderer(tokenizer, template)


def trained(row: Row, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token_bytes(int(number)).decode() for number in row.ids[row.mask]]


def marked(row: Row, tokenizer: Tokenizer) -> str:
    """The text of a row with «…» around each run of trained tokens."""
    parts, inside = [], False
    for number, flag in zip(row.ids.tolist(), row.mask.tolist(), strict=True):
        parts.append("" if flag == inside else "«" if flag else "»")
        parts.append(tokenizer.token_bytes(number).decode())
        inside = flag
    return "".join(parts) + ("»" if inside else "")


@pytest.mark.parametrize("style", ONE_ROW)
def test_the_trained_tokens_of_one_and_of_two_turns(style: str, tmp_path: Path) -> None:
    (first, second), stop, last = ONE_ROW[style]
    with renderer_of(style, tmp_path) as renderer:
        (single,) = renderer.render(RECORDS["single"])
        (multi,) = renderer.render(RECORDS["multi"])
        assert trained(single, renderer.tokenizer) == [*first, last]
        assert trained(multi, renderer.tokenizer) == [*first, *([stop] if stop else []), *second, last]


@pytest.mark.parametrize("style", ONE_ROW)
def test_a_system_message_changes_no_trained_token(style: str, tmp_path: Path) -> None:
    with renderer_of(style, tmp_path) as renderer:
        if style in NO_SYSTEM:
            with pytest.raises(DataError, match=NO_SYSTEM[style]):
                renderer.render(RECORDS["system"])
            return
        rows = renderer.render(RECORDS["system"])
        (plain,) = renderer.render(RECORDS["multi"])
        assert [token for row in rows for token in trained(row, renderer.tokenizer)] == trained(
            plain, renderer.tokenizer
        )


def test_a_thinking_template_trains_each_answer_as_it_is_asked_for(tmp_path: Path) -> None:
    with renderer_of("qwen3", tmp_path) as renderer:
        rows = renderer.render(RECORDS["multi"])
        assert [trained(row, renderer.tokenizer) for row in rows] == [
            [*NO_THOUGHT, *LEVEL[0], "<|im_end|>"],
            [*NO_THOUGHT, *LEVEL[1], "<|im_end|>"],
        ]


@pytest.mark.parametrize(("style", "record"), WHOLE)
def test_the_whole_text_with_the_mask(style: str, record: str, tmp_path: Path) -> None:
    with renderer_of(style, tmp_path) as renderer:
        rows = renderer.render(RECORDS[record])
        assert [marked(row, renderer.tokenizer) for row in rows] == WHOLE[style, record]
