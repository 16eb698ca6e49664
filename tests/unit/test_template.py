import os
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from helpers_templates import TEMPLATES
from helpers_tokenizers import model_folder
from luthier.core.errors import DataError, ModelError
from luthier.data import template as template_module
from luthier.data.template import ChatTemplate, load_template
from luthier.data.tokenizer import Tokenizer

TODAY = date(2026, 7, 3)
HI = [{"role": "user", "content": "Hi"}]
made: list[ChatTemplate] = []


def make(source: str, **special_tokens: str) -> ChatTemplate:
    made.append(ChatTemplate(source, **{"bos_token": "<s>", "eos_token": "</s>", **special_tokens}, today=TODAY))
    return made[-1]


@pytest.fixture(autouse=True)
def close_all() -> Iterator[None]:
    yield
    while made:
        made.pop().close()


def test_it_renders_messages_and_special_tokens() -> None:
    chat = make("{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{{ eos_token }}")
    assert chat.render(HI, False) == "<s>[user] Hi</s>"


def test_a_special_token_without_spelling_is_undefined() -> None:
    assert (
        make("{{ bos_token is defined }} {{ pad_token is defined }}", bos_token="").render(HI, False) == "False False"
    )


def test_characters_of_all_kinds_go_through_unchanged() -> None:
    text = '\x00\x1b[31m\r\n\u2028 \ue000 🎻 e\u0301 \ud800 "\\{{ 7 * 7 }}{% raw %}'
    assert make("{{ messages[0].content }}").render([{"role": "user", "content": text}], False) == text


def test_blocks_are_trimmed_as_chat_templates_expect() -> None:
    assert make("a\n  {% if true %}\nb\n  {% endif %}\nc").render(HI, False) == "a\nb\nc"


def test_the_tools_of_chat_templates_are_there() -> None:
    source = (
        "{% set ns = namespace(n=0) %}{% for m in [1, 2, 3, 4] %}{% if m == 2 %}{% continue %}{% endif %}"
        "{% if m == 4 %}{% break %}{% endif %}{% set ns.n = ns.n + m %}{% endfor %}{{ ns.n }}"
        "{{ {'b': '<é>', 'a': 1} | tojson }}{{ dict(a=1).a }}{{ dict.fromkeys('x') }}{{ tools is none }}"
    )
    assert make(source).render(HI, False) == '4{"b": "<é>", "a": 1}1{\'x\': None}True'


def test_generation_tags_leave_no_trace() -> None:
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}a{{ x }}{% endgeneration %}{{ x }}"
    assert make(source).render(HI, False) == "a21"


def test_today_is_the_day_it_was_given() -> None:
    chat = make("{{ strftime_now('%Y-%m-%d %H:%M') }}")
    assert chat.render(HI, False) == "2026-07-03 00:00"


def test_the_fingerprint_holds_the_day_only_where_it_is_told() -> None:
    def fingerprint(source: str, eos: str, day: int) -> str:
        return ChatTemplate(source, bos_token="", eos_token=eos, today=date(2026, 1, day)).fingerprint

    assert fingerprint("a", "e", 1) == fingerprint("a", "e", 2)
    told = "{{ strftime_now('%d') }}"
    assert len({fingerprint("a", "e", 1), fingerprint("b", "e", 1), fingerprint("a", "f", 1)}) == 3
    assert fingerprint(told, "e", 1) != fingerprint(told, "e", 2)


def test_the_template_s_own_words_reach_the_person() -> None:
    chat = make(TEMPLATES["gemma"])
    with pytest.raises(DataError, match="refuses this conversation: System role not supported"):
        chat.render([{"role": "system", "content": "x"}], False)
    with pytest.raises(DataError, match="roles must alternate"):
        chat.render([*HI, *HI], False)


def test_errors_are_of_one_conversation_and_the_rest_goes_on() -> None:
    chat = make("{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}")
    results = chat.render_many([([{"role": "user", "content": text}], False) for text in ("a", "bad", "b")])
    assert (results[0], str(results[1]), results[2]) == ("a", "the chat template refuses this conversation: no", "b")


def test_many_large_conversations_neither_block_nor_mix() -> None:
    chat = make("{{ messages[0].content }}")
    texts = [f"{index} " + "ä" * (index * 400) for index in range(300)]  # 18 million characters
    assert chat.render_many([([{"role": "user", "content": text}], False) for text in texts]) == texts


def test_requests_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "_BATCH_CHARS", 10)
    conversations = [([{"role": "user", "content": "a" * 6}], False)] * 5
    assert [len(batch) for batch in template_module._batches(conversations)] == [2, 2, 1]


def test_a_syntax_error_names_the_line() -> None:
    with pytest.raises(DataError, match=r"no valid jinja: line 2: .*(?s:.*)chat_template: FILE\.jinja"):
        make("a\n{% if %}").render(HI, False)


def test_a_mistake_in_the_template_is_an_error_of_the_template() -> None:
    with pytest.raises(DataError, match="the chat template failed: TypeError"):
        make("{{ 1 + messages[0].content }}").render(HI, False)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ strftime_now.__self__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{% set ns = namespace(__class__=1) %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    chat = make("{% if messages[0].content == 'x' %}ok{% else %}" + source + "{% endif %}")
    try:
        text = chat.render(HI, False)
    except DataError as error:
        assert "sandbox" in str(error) or "failed" in str(error)
    else:
        assert text == ""
    assert chat.render([{"role": "user", "content": "x"}], False) == "ok"


def test_an_endless_template_is_stopped_and_the_next_conversation_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "SECONDS", 0.5)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    chat = make("{% if messages[0].content == 'slow' %}" + loop + "{% endif %}{{ messages[0].content }}")
    began = time.monotonic()
    results = chat.render_many([([{"role": "user", "content": text}], False) for text in ("a", "slow", "b", "c")])
    assert time.monotonic() - began < 2
    assert (results[0], *results[2:]) == ("a", "b", "c")
    assert "ran longer than 0.5 s" in str(results[1])


def test_after_three_endless_conversations_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "SECONDS", 0.2)
    chat = make("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    with pytest.raises(DataError, match="3 times so far"):
        chat.render_many([(HI, False)] * 100)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ ('a' * 10**9) | length }}", "more memory"),
        ("{% set l = 'ab' * 10**8 %}{{ (l | list) | length }}", "more memory"),
        ("{{ messages[0].content * 50000 }}", "more than 65,544 characters"),
        ("{% for a in range(99999) %}{{ 'aaaaaaaaaa' }}{% endfor %}", "more than 65,544 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
        ("{{ range(10**9) | list }}", "Range too big"),
    ],
)
def test_memory_and_output_are_limited_and_the_worker_survives(source: str, message: str) -> None:
    # The size comes from the messages, so that jinja cannot compute it when it compiles.
    source = source.replace("10**9", "10**(messages | length + 8)").replace("10**8", "10**(messages | length + 7)")
    chat = make("{% if messages[0].content == 'x' %}ok{% else %}" + source + "{% endif %}")
    with pytest.raises(DataError, match=message):
        chat.render(HI, False)
    assert chat.render([{"role": "user", "content": "x"}], False) == "ok"


def test_memory_is_limited_while_the_template_is_compiled() -> None:
    with pytest.raises(DataError, match=r"more memory|more than 65,544 characters"):
        make("{{ 'a' * 10**9 }}").render(HI, False)


def test_long_messages_may_give_long_texts() -> None:
    assert (
        len(make("{{ messages[0].content * 4 }}").render([{"role": "user", "content": "a" * 100_000}], False))
        == 400_000
    )


def test_a_worker_that_is_killed_is_started_again() -> None:
    chat = make("{{ messages[0].content }}")
    assert chat.render(HI, False) == "Hi"
    assert chat._worker is not None
    os.kill(chat._worker._process.pid, 9)
    with pytest.raises(DataError, match="brought its process down"):
        chat.render(HI, False)
    assert chat.render(HI, False) == "Hi"


def test_close_ends_the_process_and_a_later_call_starts_another() -> None:
    with make("{{ messages[0].content }}") as chat:
        chat.render(HI, False)
        assert chat._worker is not None
        process = chat._worker._process
    assert process.poll() is not None
    assert chat.render(HI, False) == "Hi"


def test_the_process_ends_with_the_object() -> None:
    chat = ChatTemplate("a", bos_token="", eos_token="", today=TODAY)
    chat.render(HI, False)
    assert chat._worker is not None
    process = chat._worker._process
    del chat
    assert process.wait(timeout=5) is not None


def test_the_template_of_the_recipe_comes_first_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    tokenizer = Tokenizer(model_folder(tmp_path / "a", "chatml"))
    assert load_template(tokenizer, today=TODAY).source == TEMPLATES["chatml"]
    file = tmp_path / "mine.jinja"
    file.write_text("{{ eos_token }}", encoding="utf-8")
    with load_template(tokenizer, today=TODAY, file=file) as chat:
        assert chat.render(HI, False) == "<|im_end|>"
    with pytest.raises(DataError, match="cannot be read"):
        load_template(tokenizer, today=TODAY, file=tmp_path / "absent.jinja")
    with pytest.raises(ModelError, match=r"chat_template: FILE\.jinja in the recipe"):
        load_template(Tokenizer(model_folder(tmp_path / "b", "none")), today=TODAY)
