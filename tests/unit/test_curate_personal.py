"""Placeholders: the same value the same one, edits that undo, evidence without the value, all kinds of record."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.curate.example import Example
from luthier.curate.fold import fold
from luthier.curate.personal import PERSONAL, REASONS, find, personal, personal_counts, redact
from luthier.curate.personal_presidio import find_names, load_analyzer, redact_names
from luthier.curate.personal_span import Span
from luthier.data.records import Message, Record

CARD, OTHER_CARD, MAIL = "4539 5787 6362 1486", "5425 2334 3010 9903", "maria.schmidt@firma.de"


def chat(*contents: str) -> Example:
    roles = ("user", "assistant")
    turns = tuple(Message(roles[index % 2], content) for index, content in enumerate(contents))
    return Example("e1", Record(messages=turns))


def cleaned(example: Example) -> Example:
    after, out, void = fold(example, personal([example]))
    assert out is None and void == 0
    return after


def contents(example: Example) -> list[str]:
    record = example.record
    return [turn.content for turn in record.messages + record.chosen + record.rejected]


def test_one_value_has_one_placeholder_in_all_turns() -> None:
    example = chat(
        f"My cards are {CARD} and {OTHER_CARD}; write to {MAIL}.",
        f"Card {CARD.replace(' ', '')} is blocked, {MAIL.upper()} informed. Card {OTHER_CARD} works.",
    )
    assert contents(cleaned(example)) == [
        "My cards are [CARD_1] and [CARD_2]; write to [EMAIL_1].",
        "Card [CARD_1] is blocked, [EMAIL_1] informed. Card [CARD_2] works.",
    ]


def test_chosen_and_rejected_share_the_prompt_s_placeholders() -> None:
    record = Record(
        messages=(Message("user", f"Is {MAIL} right?"),),
        chosen=(Message("assistant", f"Yes, {MAIL}."),),
        rejected=(Message("assistant", f"No: otto@firma.de, not {MAIL}."),),
    )
    assert contents(cleaned(Example("e1", record))) == [
        "Is [EMAIL_1] right?",
        "Yes, [EMAIL_1].",
        "No: [EMAIL_2], not [EMAIL_1].",
    ]


def test_plain_text_and_labelled_answers() -> None:
    assert cleaned(Example("e1", Record(text=f"Mail {MAIL}"))).record.text == "Mail [EMAIL_1]"
    labelled = Example("e1", Record(messages=(Message("user", "hi"), Message("assistant", MAIL)), label=False))
    assert contents(cleaned(labelled)) == ["hi", "[EMAIL_1]"]


def test_placeholders_are_not_found_again_and_numbers_not_given_twice() -> None:
    once = cleaned(chat(f"{MAIL} {CARD} SSN 512-48-7736 phone +49 89 63648018", "ok"))
    assert personal([once]) == []
    more = chat(once.record.messages[0].content + " and otto@firma.de", "ok")
    assert contents(cleaned(more))[0].endswith("and [EMAIL_2]")


def test_any_two_values_side_by_side_are_replaced_once_and_for_all() -> None:
    values = [
        MAIL, CARD, "DE44500105175407324931", "512-48-7736", "+49 89 63648018", "450 0840", "81.169.145.30",
        "3c:22:fb:9a:01:7e", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "111222333", "943 476 5919", "4539578763621486",
    ]  # fmt: skip
    for first in values:
        for second in values:
            for text in (f"phone {first}, {second}", f"BSN {first} {second}", f"card: {first}\n{second}"):
                once = cleaned(chat(text, "ok"))
                assert personal([once]) == [], (text, once.record.messages[0].content)


PIECES = [
    *(MAIL, CARD, "DE44500105175407324931", "512-48-7736", "+49 89 63648018", "450 0840", "81.169.145.30", "12", "x"),
    *("3c:22:fb:9a:01:7e", "111222333", "943 476 5919", "4539578763621486", "q7Xk2Lm9Vb4Rz8Wc1Tn6Hd", "[EMAIL_1]"),
    *(
        "phone ",
        "BSN ",
        "card ",
        "SSN: ",
        "at ",
        "api_key = ",
        "://u:",
        "@",
        "(",
        ")",
        " ",
        "\n",
        "-",
        ".",
        ", ",
        "\\n",
    ),
    *("２０", "\u00a0", "é"),
]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=12).map("".join))
def test_any_text_gives_ordered_spans_and_their_replacement_is_final(text: str) -> None:
    spans = find(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(before.end <= after.start for before, after in pairwise(spans))
    if text.strip():
        once = cleaned(Example("e1", Record(text=text)))
        again = cleaned(once)
        assert again.record.text == once.record.text


def test_an_entry_says_what_and_why_and_never_the_value() -> None:
    text = f"Please write to {MAIL} or otto@firma.de about card {CARD}."
    entries = personal([chat(text, "ok")])
    assert [(entry.action, entry.reason, entry.field, entry.score) for entry in entries] == [
        ("edit", "e-mail address", "messages.0.content", 2.0),
        ("edit", "payment card", "messages.0.content", 1.0),
    ]
    mail, card = entries
    assert mail.before == text and mail.before[mail.start : mail.end] == MAIL
    assert card.before == mail.after and card.before[card.start : card.end] == CARD
    start = text.index(MAIL)
    assert mail.detail.startswith(
        f"EMAIL: [EMAIL_1] ma…de, address at .de, {start}–{start + len(MAIL)}; [EMAIL_2] ot…de,"
    )
    assert "Luhn, Visa range" in card.detail
    for entry in entries:
        assert not any(value in entry.detail + entry.reason for value in (MAIL, "otto@firma.de", CARD))


def test_a_field_with_many_values_has_one_entry_a_kind_and_a_short_detail() -> None:
    mails = [f"person{number}@firma.de" for number in range(500)]
    (entry,) = personal([Example("e1", Record(text=", ".join(mails)))])
    assert entry.score == 500 and entry.after.endswith("[EMAIL_500]") and len(entry.detail) < 1200
    assert "488 more" in entry.detail


def test_taking_the_edits_back_gives_the_text_back() -> None:
    example = chat(f"{MAIL} or {CARD}?", "[EMAIL_7]")
    entries = personal([example])
    assert entries[0].before == example.record.messages[0].content
    assert fold(example, [])[0] == example
    assert contents(fold(example, entries)[0]) == ["[EMAIL_8] or [CARD_1]?", "[EMAIL_7]"]


def test_tool_calls_stay_json() -> None:
    calls = [{"name": "send", "arguments": {"to": MAIL, "card": 4539578763621486, "n": 3, "body": f'"hi"\n{MAIL}'}}]
    turn = Message("assistant", "", tool_calls=json.dumps(calls, sort_keys=True, separators=(",", ":")))
    example = Example("e1", Record(messages=(Message("user", f"Mail {MAIL}"), turn, Message("assistant", "done"))))
    after = cleaned(example)
    (call,) = json.loads(after.record.messages[1].tool_calls)
    assert call["arguments"] == {"to": "[EMAIL_1]", "card": "[CARD_1]", "n": 3, "body": '"hi"\n[EMAIL_1]'}
    entry = personal([example])[1]
    assert entry.field == "messages.1.tool_calls" and MAIL not in entry.detail
    assert personal([after]) == []


def test_a_batch_decides_each_example_alone() -> None:
    examples = [chat(MAIL, "a"), chat("nothing", "b"), chat(f"otto@firma.de, {MAIL}", "c")]
    together = personal(examples)
    assert together == [entry for example in examples for entry in personal([example])]
    assert [entry.after for entry in together] == ["[EMAIL_1]", "[EMAIL_1], [EMAIL_2]"]
    assert (PERSONAL.name, PERSONAL.run) == ("personal", personal)


def test_counts_by_kind() -> None:
    calls = json.dumps([{"name": "f", "arguments": {"to": MAIL}}])
    example = Example(
        "e1", Record(messages=(Message("user", f"{MAIL} {CARD} {MAIL}"), Message("assistant", "", calls)))
    )
    assert personal_counts(personal([example])) == {"EMAIL": 3, "CARD": 1}
    calls = json.dumps([{"name": "f", "arguments": {"to": MAIL, "card": CARD}}])
    example = Example("e1", Record(messages=(Message("user", "hi"), Message("assistant", "", calls))))
    assert personal_counts(personal([example])) == {"CARD": 1, "EMAIL": 1}
    assert personal_counts([]) == {}


def test_every_kind_has_a_reason() -> None:
    kinds = ("EMAIL", "PHONE", "CARD", "IBAN", "BTC", "IP", "MAC", "KEY", "ID", "PERSON", "LOCATION")
    assert set(kinds) == set(REASONS) and len(set(REASONS.values())) == len(kinds)


class StandIn:
    """An analyzer that knows two names."""

    def analyze(self, text: str, language: str, entities: list[str]) -> list[SimpleNamespace]:
        assert language == "en" and entities == ["PERSON", "LOCATION"]
        found = []
        for kind, word, score in [
            ("PERSON", "Maria Schmidt", 0.85),
            ("LOCATION", "12 Elm Street", 0.85),
            ("PERSON", "May", 0.3),
        ]:
            start = text.find(word)
            while start >= 0:
                found.append(SimpleNamespace(entity_type=kind, start=start, end=start + len(word), score=score))
                start = text.find(word, start + 1)
        return found


def test_names_through_an_analyzer() -> None:
    example = chat("Maria Schmidt lives at 12 Elm Street since May.", "MARIA? Maria Schmidt.")
    entries = redact_names([example], StandIn())
    assert contents(fold(example, entries)[0]) == [
        "[PERSON_1] lives at [LOCATION_1] since May.",
        "MARIA? [PERSON_1].",
    ]
    assert personal_counts(entries) == {"PERSON": 2, "LOCATION": 1}
    assert find_names("[Maria Schmidt]", StandIn()) == []  # a placeholder that looks like a name


def test_any_finder_can_be_used() -> None:
    entries = redact([chat("x7y", "x")], lambda text: [Span(1, 2, "PERSON", "mine")] if "7" in text else [])
    assert [(entry.before, entry.after, entry.reason) for entry in entries] == [
        ("x7y", "x[PERSON_1]y", "person's name")
    ]


def test_without_presidio_the_error_names_the_command() -> None:
    try:
        import presidio_analyzer  # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match=r"pip install 'luthier\[presidio\]'"):
            load_analyzer()
    else:
        pytest.skip("presidio is installed here")
