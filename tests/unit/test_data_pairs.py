"""Preference pairs and labelled answers in the shapes that are in use become one form."""

from typing import Any

import pytest

from luthier.data.formats import detect, leftovers, parse
from luthier.data.formats_values import TRAILING_USER
from luthier.data.records import Message, Record


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def share(role: str, content: str) -> dict[str, str]:
    return {"from": role, "value": content}


ASK, GOOD, BAD = turn("user", "Ask"), turn("assistant", "Good"), turn("assistant", "Bad")
EARLIER = [turn("user", "Hello"), turn("assistant", "Hi")]
HH = "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Ask\n\nAssistant: "
ONE = [Message("user", "Ask")]
TWO = [Message("user", "Hello"), Message("assistant", "Hi"), *ONE]
BRIEF = [Message("system", "Brief"), *ONE]

PAIRS: dict[str, tuple[dict[str, Any], list[Message], dict[str, Any]]] = {
    "TRL, texts": ({"prompt": "Ask", "chosen": "Good", "rejected": "Bad"}, ONE, {}),
    "TRL, turns": ({"prompt": [*EARLIER, ASK], "chosen": [GOOD], "rejected": [BAD]}, TWO, {}),
    "TRL, whole conversations": ({"chosen": [*EARLIER, ASK, GOOD], "rejected": [*EARLIER, ASK, BAD]}, TWO, {}),
    "LLaMA-Factory, ShareGPT": (
        {
            "conversations": [share("system", "Brief"), share("human", "Ask")],
            "chosen": share("gpt", "Good"),
            "rejected": share("gpt", "Bad"),
        },
        BRIEF,
        {},
    ),
    "LLaMA-Factory, OpenAI": ({"messages": [ASK], "chosen": GOOD, "rejected": BAD}, ONE, {}),
    "LLaMA-Factory, Alpaca": (
        {"instruction": "As", "input": "k", "chosen": "Good", "rejected": "Bad", "system": "Brief"},
        [Message("system", "Brief"), Message("user", "As\n\nk")],
        {},
    ),
    "HH-RLHF": ({"chosen": HH + "Good", "rejected": HH + "Bad"}, TWO, {}),
    "HH-RLHF with its prompt": ({"prompt": HH.rstrip(), "chosen": " Good", "rejected": " Bad"}, TWO, {}),
    "HH-RLHF, all of it": ({"prompt": HH.rstrip(), "chosen": HH + "Good", "rejected": HH + "Bad"}, TWO, {}),
    "UltraFeedback, binarized": (
        {
            "prompt": "Ask",
            "prompt_id": "77",
            "chosen": [ASK, GOOD],
            "rejected": [ASK, BAD],
            "messages": [ASK, GOOD],
            "score_chosen": 8.5,
            "score_rejected": 7.0,
        },
        ONE,
        {"prompt_id": "77", "score_chosen": 8.5, "score_rejected": 7.0},
    ),
    "UltraFeedback, answers as columns": (
        {"instruction": "Ask", "chosen_response": "Good", "rejected_response": "Bad", "chosen_avg_rating": 5},
        ONE,
        {"chosen_avg_rating": 5},
    ),
    "Orca": ({"system": "Brief", "question": "Ask", "chosen": "Good", "rejected": "Bad"}, BRIEF, {}),
    "Orca, distilabel": ({"system": "", "input": "Ask", "chosen": "Good", "rejected": "Bad"}, ONE, {}),
    "columns of a table": (
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD], "text": None, "messages": [], "label": None},
        ONE,
        {},
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str) -> None:
    row, prompt, left = PAIRS[name]
    assert detect(row)[0] == "preference"
    record, repairs = parse(row, "preference", "f:1")
    assert record == Record(
        messages=tuple(prompt),
        chosen=(Message("assistant", "Good"),),
        rejected=(Message("assistant", "Bad"),),
        where="f:1",
    )
    assert (repairs, leftovers(row, "preference")) == ([], left)


def test_ratings_choose_the_best_and_the_worst() -> None:
    rated = [{"response": text, "overall_score": score} for text, score in (("ok", 6), ("Good", 9), ("Bad", "2.5"))]
    row = {"instruction": "Ask", "completions": rated, "source": "x"}
    record, _ = parse(row, detect(row)[0], "")
    assert (record.messages, record.chosen[0].content, record.rejected[0].content) == (tuple(ONE), "Good", "Bad")
    assert leftovers(row, "preference") == {"completions": rated, "source": "x"}


def test_sides_may_go_on_and_part_after_an_answer() -> None:
    chosen = [ASK, GOOD, turn("user", "More"), GOOD]
    rejected = [ASK, GOOD, turn("user", "Else"), BAD]
    record, _ = parse({"chosen": chosen, "rejected": rejected}, "preference", "")
    assert record.messages == tuple(ONE)  # the answer they share stays in the sides: a prompt ends with the user
    assert [message.content for message in record.chosen] == ["Good", "More", "Good"]
    assert [message.content for message in record.rejected] == ["Good", "Else", "Bad"]


def test_one_side_may_be_the_beginning_of_the_other() -> None:
    chosen = [ASK, GOOD, turn("user", "More"), GOOD]
    record, _ = parse({"chosen": chosen, "rejected": chosen[:2]}, "preference", "")
    assert record.messages == tuple(ONE)
    assert len(record.chosen) == 3 and len(record.rejected) == 1


def test_a_prompt_of_turns_says_where_whole_conversations_part() -> None:
    chosen = [*EARLIER, ASK, GOOD]
    record, _ = parse({"prompt": EARLIER[:1], "chosen": chosen, "rejected": [*EARLIER, ASK, BAD]}, "preference", "")
    assert record.messages == (Message("user", "Hello"),)
    assert len(record.chosen) == 3


def test_a_user_turn_after_the_last_answer_is_cut() -> None:
    row = {"prompt": "Ask", "chosen": [GOOD, turn("user", "Thanks")], "rejected": [BAD]}
    record, repairs = parse(row, "preference", "")
    assert (len(record.chosen), [repair.reason for repair in repairs]) == (1, [TRAILING_USER])


def test_hh_texts_keep_every_character_but_the_space_behind_the_colon() -> None:
    start = "\n\nHuman:  two spaces \n\nAssistant: "
    record, _ = parse({"chosen": start + "a\n\nb", "rejected": start + "c "}, "preference", "")
    assert record.messages[0].content == " two spaces "
    assert (record.chosen[0].content, record.rejected[0].content) == ("a\n\nb", "c ")


TALK = [ASK, GOOD]
LABELLED: dict[str, tuple[dict[str, Any], bool]] = {
    "TRL, texts": ({"prompt": "Ask", "completion": "Good", "label": False}, False),
    "TRL, turns": ({"prompt": [ASK], "completion": [GOOD], "label": True}, True),
    "LLaMA-Factory": ({"messages": TALK, "kto_tag": True}, True),
    "LLaMA-Factory, demo": ({"messages": TALK, "label": False}, False),
    "ShareGPT": ({"conversations": [share("human", "Ask"), share("gpt", "Good")], "label": True}, True),
    "Alpaca": ({"instruction": "Ask", "input": "", "output": "Good", "kto_tag": False}, False),
    "CSV": ({"prompt": "Ask", "completion": "Good", "label": "True"}, True),
}


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_answers(name: str) -> None:
    row, label = LABELLED[name]
    assert detect(row)[0] == "labelled"
    record, _ = parse(row, "labelled", "")
    assert record == Record(messages=(Message("user", "Ask"), Message("assistant", "Good")), label=label)
    assert record.kind == "labelled"
    assert leftovers(row, "labelled") == {}


def test_numbers_are_labels_only_where_the_format_is_named() -> None:
    row = {"messages": TALK, "label": 0}
    assert detect(row)[0] == "messages"
    assert parse(row, "labelled", "")[0].label is False


def test_a_label_of_another_kind_is_kept_as_it_is() -> None:
    row = {"messages": TALK, "label": "spam"}
    assert detect(row)[0] == "messages"
    assert leftovers(row, "messages") == {"label": "spam"}


def test_a_missing_label_does_not_make_an_answer_a_demonstration() -> None:
    assert detect({"messages": TALK, "label": None})[0] == "labelled"


def test_ids_tell_kinds_apart() -> None:
    plain = parse({"messages": TALK}, "messages", "")[0]
    good = parse({"messages": TALK, "label": True}, "labelled", "")[0]
    bad = parse({"messages": TALK, "label": False}, "labelled", "")[0]
    assert len({plain.id, good.id, bad.id}) == 3
