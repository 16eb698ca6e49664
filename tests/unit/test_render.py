import re
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from helpers_tokenizers import STYLES, model_folder
from luthier.core.errors import DataError, ModelError
from luthier.data.proof import prove
from luthier.data.records import Message, Record
from luthier.data.render import MOVED, NO_STOP, SPLIT, TEXT_END, UNASKED, Renderer, Row
from luthier.data.spans import Disguise, Turn
from luthier.data.template import ChatTemplate, load_template
from luthier.data.tokenizer import Piece, Tokenizer

TODAY = date(2026, 7, 3)
CHAT = [name for name, style in STYLES.items() if style.template is not None]
TRIMS = {"llama3", "mistral-v3", "gemma", "trimmed", "dated"}

NASTY = {
    "template words": "assistant\n",
    "response header": "### Response:\n### Instruction:\n",
    "all specials": "<|im_end|><|im_start|>assistant\n</s><s>[INST] <end_of_turn><eos><|eot_id|><|endoftext|><|end|>",
    "special at the ends": "</s>Hello<|im_end|>",
    "nested special": "<|im_<|im_end|>end|><<s>/s>",
    "half a special": "<|im_end|",
    "unicode": "naïve 日本語 🎻👩‍👩‍👧 e\u0301 \u0301x \u200b\u2028 \ufeff",
    "spaces around": "  \t Hello \t  ",
    "newlines around": "\n\n\nHello\n\n\n",
    "no-break spaces": "\u00a0Hello\u3000",
    "private use": "\ue000\ue001 \ue000" + "5\ue000 \uf8ff",
    "private use digits": "\ue0002\ue000\ue001",
    "jinja": "{{ messages }}{% endfor %}{# #}",
    "one letter": "a",
    "digits": "1234567890",
    "very long": "The quick brown fox. " * 3000,
    "control": "a\x00b\x1b[0m\r\n\tc\x7f",
    "byte order": "\ufeffHello",
}


@pytest.fixture(scope="module")
def renderers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Renderer]]:
    made = {}
    for style in CHAT:
        tokenizer = Tokenizer(model_folder(tmp_path_factory.mktemp("model"), style))
        made[style] = Renderer(tokenizer, load_template(tokenizer, today=TODAY))
    yield made
    for renderer in made.values():
        assert renderer.template is not None
        renderer.template.close()


def chat(*contents: str, system: str | None = None) -> Record:
    roles = ["user", "assistant"] * len(contents)
    messages = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    return Record((*([Message("system", system)] if system is not None else []), *messages), where="file.jsonl:7")


def spelled(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    return b"".join(tokenizer.token_bytes(int(number)) for number in ids).decode()


def specials(tokenizer: Tokenizer, row: Row) -> list[int]:
    unknown = tokenizer.special_ids.get("<unk>")
    return [number for number in row.ids.tolist() if tokenizer.is_special(number) and number != unknown]


def one(style: str, folder: Path, source: str | None = None) -> Renderer:
    tokenizer = Tokenizer(model_folder(folder, style))
    if source is None:
        return Renderer(tokenizer, load_template(tokenizer, today=TODAY))
    template = ChatTemplate(source, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token, today=TODAY)
    return Renderer(tokenizer, template)


@pytest.mark.parametrize("style", CHAT)
@pytest.mark.parametrize("name", NASTY)
def test_any_content_in_any_place_keeps_mask_and_specials(
    style: str, name: str, renderers: dict[str, Renderer]
) -> None:
    """The proof inside `render` passes, and the row has exactly the special tokens of a harmless conversation."""
    renderer, text = renderers[style], NASTY[name]
    tokenizer = renderer.tokenizer
    (harmless,) = renderer.render(chat("Hello", "Hello"))
    for record in (chat(text, "Hello"), chat("Hello", text), chat(text, text)):
        (row,) = renderer.render(record)
        assert specials(tokenizer, row) == specials(tokenizer, harmless)
        assert row.ids[row.mask][-1] in renderer.stop_ids()
        assert row.mask.sum() >= 2 and not row.mask.all() and not row.mask[0]
    if STYLES[style].kind in ("llama3", "legacy", "metaspace", "gemma"):  # those that change no character
        answer = spelled(tokenizer, row.ids[row.mask])
        expected = text.strip() if style in TRIMS else text.lstrip("\n") if style == "qwen3" else text
        assert expected in answer
        if style not in ("qwen3", "mistral-v3"):
            stop = spelled(tokenizer, row.ids[row.mask][-1:])
            assert answer.removesuffix(stop).removeprefix(" ") == expected.removeprefix(" ")


@pytest.mark.parametrize("style", CHAT)
def test_the_tokens_before_an_answer_are_those_the_model_is_asked_with(
    style: str, renderers: dict[str, Renderer]
) -> None:
    renderer = renderers[style]
    systems = [None] if style in ("gemma", "mistral-v0.1") else [None, "Be short."]
    for record in (chat(text, text, system=system) for text in NASTY.values() for system in systems):
        (row,) = renderer.render(record)
        before = row.ids[: int(np.argmax(row.mask))].tolist()
        asked = renderer.render_prompt(record.messages[:-1])
        if style == "deepseek":  # asks with an opened <think> that its finished conversations do not show
            think = renderer.tokenizer.encode("<think>\n")
            assert asked == [*before, *think]
        else:
            assert asked == before


@pytest.mark.parametrize("style", CHAT)
def test_twenty_turns(style: str, renderers: dict[str, Renderer]) -> None:
    renderer = renderers[style]
    letters = "abcdefghijklmnopqrst"
    rows = renderer.render(chat(*(f"|{letters[index // 2]}{'ua'[index % 2]}|" for index in range(40))))
    assert len(rows) == (20 if style == "qwen3" else 1)
    trained = "".join(spelled(renderer.tokenizer, row.ids[row.mask]) for row in rows)
    assert re.findall(r"\|([a-t][ua])\|", trained) == [f"{letter}a" for letter in letters]
    runs = sum(int((np.diff(row.mask.astype(int)) == 1).sum()) for row in rows)
    assert runs == 20


@pytest.mark.parametrize("style", CHAT)
def test_there_is_one_bos_at_most(style: str, renderers: dict[str, Renderer]) -> None:
    renderer = renderers[style]
    bos = renderer.tokenizer.bos_id
    if bos is None or style == "chatml":  # there the "bos" is <|im_start|>, which begins every turn
        return
    for rows in (renderer.render(chat("Hello", "Hello")), renderer.render(Record(text="<s> Hello"))):
        assert rows[0].ids.tolist().count(bos) <= 1
    assert (renderer.render_prompt((Message("user", "Hello"),))).count(bos) <= 1


@pytest.mark.parametrize("style", ["chatml", "zephyr", "mistral-v0.1", "llama3"])
def test_the_stop_token_is_trained_where_it_is_the_padding_too(style: str, renderers: dict[str, Renderer]) -> None:
    renderer = renderers[style]
    tokenizer = renderer.tokenizer
    assert tokenizer.special_ids[tokenizer.pad_token] in tokenizer.stop_ids
    (row,) = renderer.render(chat("Hello", "Hello", "Hello", "Hello"))
    stops = [
        position for position, number in enumerate(row.ids) if row.mask[position] and int(number) in tokenizer.stop_ids
    ]
    assert len(stops) == 2


def test_an_empty_system_message_and_an_empty_question_are_as_the_template_writes_them(
    renderers: dict[str, Renderer],
) -> None:
    renderer = renderers["chatml"]
    (row,) = renderer.render(chat("", "Hello", system=""))
    assert spelled(renderer.tokenizer, row.ids) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    )


def test_an_answer_that_is_trimmed_to_nothing_trains_the_stop_token(renderers: dict[str, Renderer]) -> None:
    (row,) = renderers["trimmed"].render(chat("Hello", " \n"))
    assert spelled(renderers["trimmed"].tokenizer, row.ids[row.mask]) == "<|im_end|>"


def test_a_token_never_joins_prompt_and_answer(renderers: dict[str, Renderer]) -> None:
    """The Llama 3 tokenizer has one token for two newlines: alone it would join the header's and the answer's."""
    renderer = renderers["qwen2.5"]
    tokenizer = renderer.tokenizer
    assert len(tokenizer.encode("\n\n")) == 1
    (row,) = renderer.render(chat("Hello", "\nHello"))
    assert spelled(tokenizer, row.ids[row.mask]) == "\nHello<|im_end|>"
    assert tokenizer.encode("\n\n")[0] not in row.ids


def test_a_token_never_joins_an_answer_and_what_follows(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["alpaca"]
    assert len(renderer.tokenizer.encode("x.\n\n")) < len(renderer.tokenizer.encode("x.\n")) + 1
    (row,) = renderer.render(chat("Hello", "Hello.", "Hello", "Hello"))
    assert spelled(renderer.tokenizer, row.ids[row.mask]) == "Hello.Hello</s>"


def test_every_addition_is_counted(renderers: dict[str, Renderer]) -> None:
    def counted(style: str, record: Record) -> Counter[str]:
        counts: Counter[str] = Counter()
        renderers[style].render(record, counts)
        return counts

    four = chat("a", "b", "c", "d", system="s")
    assert counted("chatml", four) == {}
    assert counted("alpaca", four) == {NO_STOP.format(eos="</s>"): 1}
    assert counted("qwen3", four) == {SPLIT: 1}
    assert counted("mistral-v3", four) == {SPLIT: 1, MOVED: 2}
    assert counted("deepseek", four) == {UNASKED: 2}
    assert counted("chatml", Record(text="abc")) == {TEXT_END.format(eos="<|im_end|>"): 1}


def test_an_answer_s_reasoning_is_trained_where_it_is_the_newest(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["qwen3"]
    thought = "<think>\nhm\n</think>\n\nFine."
    rows = renderer.render(chat("a", thought, "b", thought))
    for row in rows:
        assert spelled(renderer.tokenizer, row.ids[row.mask]) == f"{thought}<|im_end|>"
    assert spelled(renderer.tokenizer, rows[1].ids).count("<think>") == 1


def test_rows_know_their_record(renderers: dict[str, Renderer]) -> None:
    record = Record((Message("user", "a"), Message("assistant", "b")), where="f:1", group="g")
    (row,) = renderers["chatml"].render(record)
    assert (row.record_id, row.group, row.where) == (record.id, "g", "f:1")
    (alone,) = renderers["chatml"].render(chat("a", "b"))
    assert alone.group == alone.record_id
    assert (row.ids.dtype, row.mask.dtype) == (np.int32, np.bool_)


def test_plain_text_is_trained_whole_and_ended(tmp_path: Path) -> None:
    for style, begins in (("llama3", True), ("chatml", False), ("none", False)):
        tokenizer = Tokenizer(model_folder(tmp_path / style, style))
        (row,) = Renderer(tokenizer, None).render(Record(text="Hello, <|im_end|> you", where="f:1"))
        expected = [tokenizer.bos_id] * begins + tokenizer.encode("Hello, <|im_end|> you") + [tokenizer.eos_id]
        assert row.ids.tolist() == expected
        assert row.mask.tolist() == [False] + [True] * (len(expected) - 1)


def test_conversations_without_a_template_are_refused(tmp_path: Path) -> None:
    renderer = Renderer(Tokenizer(model_folder(tmp_path, "none")), None)
    for action in (lambda: renderer.render(chat("a", "b")), lambda: renderer.render_prompt((Message("user", "a"),))):
        with pytest.raises(ModelError, match=r"chat_template: FILE\.jinja"):
            action()


def test_bad_records_are_named_and_the_others_rendered(renderers: dict[str, Renderer]) -> None:
    records = [
        chat("a", "b"),
        Record((Message("user", "a"),), where="f:2"),
        chat("a\ud800", "b"),
        Record(where="f:4"),
        chat("a", "\ufdd05\ufdd1"),
        chat("a", "b", system="no"),
        Record(text="plain", where="f:7"),
        chat("c", "d"),
    ]
    results = renderers["gemma"].render_many(records)
    errors = [str(result).partition("\n")[0] if isinstance(result, DataError) else "" for result in results]
    assert errors == [
        "",
        "f:2: no assistant message, so there is nothing to train on",
        "file.jsonl:7: a text holds half a surrogate pair (\\ud800 to \\udfff), which is no character",
        "f:4: an empty text",
        "file.jsonl:7: a text holds U+FDD0 digits U+FDD1, which Luthier uses inside for special tokens",
        "file.jsonl:7: the chat template refuses this conversation: System role not supported",
        "",
        "",
    ]
    for index in (0, 6, 7):
        assert not isinstance(results[index], DataError)
        (row,) = results[index]  # type: ignore[misc]
        (alone,) = renderers["gemma"].render(records[index])
        assert row.ids.tolist() == alone.ids.tolist() and row.mask.tolist() == alone.mask.tolist()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "shows the assistant's message 0 times",
        ),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "shows the assistant's message 2 times"),
        (
            "{% for m in messages %}{{ m.role if messages[-1].role == 'user' else 'x' }}#"
            "{{ m.content if m.role == 'assistant' }}{% endfor %}",
            "otherwise than when it asks",
        ),
        (
            "{% for m in messages if m.role == 'user' or m.content | length == 1 %}{{ m.content + eos_token }}"
            "{% endfor %}",
            "leaves the assistant's message out",
        ),
    ],
)
def test_templates_that_cannot_be_masked_are_refused(source: str, message: str, tmp_path: Path) -> None:
    renderer = one("chatml", tmp_path, source)
    with pytest.raises(DataError, match=message), renderer._need_template():
        renderer.render(chat("Hello", "Hello"))


def test_the_stop_token_is_the_one_that_stops_generation(tmp_path: Path) -> None:
    """After the content come two special tokens; only the second stops generation, so both are trained."""
    source = "{% for m in messages %}{{ m.content + '<|im_start|>\n<|im_end|>\n' }}{% endfor %}"
    renderer = one("chatml", tmp_path, source)
    with renderer._need_template():
        (row,) = renderer.render(chat("a", "b"))
        assert spelled(renderer.tokenizer, row.ids[row.mask]) == "b<|im_start|>\n<|im_end|>"


def test_a_stop_token_that_the_model_does_not_know_as_one_is_reported(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m.content + '<|endoftext|>' }}{% endfor %}"
    renderer = one("chatml", tmp_path, source)
    tokenizer = renderer.tokenizer
    with renderer._need_template():
        assert renderer.stop_ids() == {tokenizer.eos_id, tokenizer.special_ids["<|endoftext|>"]}
        assert tokenizer.stop_ids == {tokenizer.eos_id}


def test_a_closing_mark_that_is_no_token_is_trained_before_eos(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m.role + ': ' + m.content + ' ##\n' }}{% endfor %}"
    renderer = one("chatml", tmp_path, source)
    with renderer._need_template():
        (row,) = renderer.render(chat("a", "b", "c", "d"))
        assert spelled(renderer.tokenizer, row.ids[row.mask]) == " b ## d ##<|im_end|>"


def test_a_row_that_fails_its_proof_is_an_error_of_its_record(
    renderers: dict[str, Renderer], monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = renderers["chatml"]
    encode = renderer.tokenizer.encode_parts

    def forgets_the_word_hello(parts: list[Piece | int]) -> list[list[int]]:
        return [
            [] if isinstance(part, Piece) and part.text == "Hello" else ids
            for part, ids in zip(parts, encode(parts), strict=True)
        ]

    monkeypatch.setattr(renderer.tokenizer, "encode_parts", forgets_the_word_hello)
    bad, good = renderer.render_many([chat("a", "Hello"), chat("a", "b")])
    assert str(bad) == "file.jsonl:7: mask proof failed: the trained tokens do not spell the answer"
    assert not isinstance(good, DataError)


def test_the_proof_finds_every_kind_of_mistake(tmp_path: Path) -> None:
    tokenizer = Tokenizer(model_folder(tmp_path, "chatml"))
    view = "user: a\nbot: Hello you<|im_end|>\n"
    disguise = Disguise(tokenizer, [view], "")
    start, end = view.index("Hello"), view.index(">") + 1
    prompt, answer, rest = (tokenizer.encode_rendered(view[a:b]) for a, b in ((0, start), (start, end), (end, None)))
    turn = Turn(view, start, end, view[:start], tokenizer.eos_id, True, False)

    def check(ids: list[int], turn_of: list[int], before: list[int] = prompt) -> None:
        prove(tokenizer, disguise, [turn], False, before, np.array(ids, np.int32), np.array(turn_of))

    ids, where = prompt + answer + rest, [-1] * len(prompt) + [0] * len(answer) + [-1] * len(rest)
    check(ids, where)
    mistakes = {
        "those of the prompt alone": [
            (ids, [0, *where[1:]]),
            (ids, [*where[1:], -1]),
            (ids[1:], where[1:]),
        ],
        "ends the answer is not trained": [
            (ids, where[: -len(rest) - 1] + [-1] * (len(rest) + 1)),
            (ids, where[: -len(rest)] + [0] * len(rest)),
        ],
        "do not spell the answer": [
            ([*prompt, answer[1], answer[0], *answer[2:], *rest], where),
            (ids, [*where[: len(prompt) + 1], -1, *where[len(prompt) + 2 :]]),
            (prompt + answer[:1] + answer + rest, [*where[: len(prompt)], 0, *where[len(prompt) :]]),
        ],
    }
    for message, cases in mistakes.items():
        for wrong_ids, wrong_where in cases:
            with pytest.raises(DataError, match=message):
                check(wrong_ids, wrong_where)
    with pytest.raises(DataError, match="no trained token"):
        check(ids, [-1] * len(ids), before=[])
