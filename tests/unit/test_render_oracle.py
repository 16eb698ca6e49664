"""Our texts and ids against transformers' `apply_chat_template`, for every template."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from helpers_tokenizers import STYLES, model_folder
from luthier.core.errors import DataError
from luthier.data.records import Message, Record
from luthier.data.render import Renderer
from luthier.data.template import load_template
from luthier.data.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

CHAT = [name for name, style in STYLES.items() if style.template is not None]
CONTENTS = [
    "Hello, how are you?",
    "naïve 日本語 🎻\n\ntwo",
    "def f():\n    return 1  # ok",
    "<think>\nhm\n</think>\n\nYes.",
]


def conversations() -> Iterator[list[dict[str, str]]]:
    for system in ([], [{"role": "system", "content": "Be short."}]):
        for turns in (1, 2, 3):
            yield system + [
                {"role": role, "content": CONTENTS[(turn + shift) % 4]}
                for turn in range(turns)
                for shift, role in enumerate(("user", "assistant"))
            ]


@pytest.fixture(params=CHAT)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Any, Renderer]]:
    folder = model_folder(tmp_path, request.param)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = Tokenizer(folder)
    with load_template(tokenizer, today=date.today()) as template:
        yield request.param, theirs, Renderer(tokenizer, template)


def test_texts_are_equal(pair: tuple[str, Any, Renderer]) -> None:
    _, theirs, renderer = pair
    template = renderer._need_template()
    for messages in conversations():
        for conversation, prompt in ((messages, False), (messages[:-1], True)):
            try:
                expected = theirs.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)
            except transformers.utils.chat_template_utils.jinja2.TemplateError as error:
                with pytest.raises(DataError, match=str(error)):
                    template.render(conversation, prompt)
            else:
                assert template.render(conversation, prompt) == expected


def test_ids_are_equal(pair: tuple[str, Any, Renderer]) -> None:
    style, theirs, renderer = pair
    compared = 0
    for messages in conversations():
        record = Record(tuple(Message(**message) for message in messages))
        try:
            rows = renderer.render(record)
        except DataError:
            continue
        expected = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
        ours = rows[-1].ids.tolist()
        if style.startswith("alpaca"):  # theirs ends with two newlines where ours ends with eos
            assert ours[-1] == renderer.tokenizer.eos_id
            text = theirs.apply_chat_template(messages, tokenize=False).rstrip("\n")
            if len(messages) < 4:  # in a longer one the answers in between are cut out, see test_render
                assert ours[:-1] == theirs(text, add_special_tokens=False)["input_ids"]
        elif not (style == "mistral-v3" and messages[0]["role"] == "system"):  # see test_masks
            assert ours == expected
        compared += 1
        asked = theirs.apply_chat_template(messages[:-1], tokenize=True, add_generation_prompt=True, return_dict=False)
        if style != "no-prompt":  # asks without the header, which only we can add
            assert renderer.render_prompt(record.messages[:-1]) == asked
    assert compared >= 3
