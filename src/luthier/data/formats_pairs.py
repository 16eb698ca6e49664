"""Preference pairs and labelled answers.

A pair is written in one of these ways:

    prompt, chosen, rejected     each a text or a list of turns (TRL); prompt may also be question, or instruction and
                                 input (LLaMA-Factory's Alpaca), or conversations or messages (its ShareGPT)
    chosen, rejected             whole conversations, as lists of turns or as one text of "Human:" and "Assistant:"
                                 paragraphs (HH-RLHF); their common beginning is the prompt. A prompt beside them
                                 (UltraFeedback) has to be that beginning or a turn of it
    instruction, completions     several answers with ratings (UltraFeedback): the best is chosen, the worst rejected
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.data.formats_layouts import (
    CONVERSATIONS,
    INPUT,
    INSTRUCTION,
    PROMPT,
    TURN_LISTS,
    alpaca_prompt,
    conversation_turns,
    is_filled,
    key_of,
    needed_keys,
    system_turns,
    text_or_turns,
)
from luthier.data.formats_turns import Turn, check_turns, join_calls, read_turn, speaker_of, turn_list
from luthier.data.formats_values import Repair, kind_name, text_of
from luthier.data.records import Message

CHOSEN: Final = ("chosen", "chosen_response")
REJECTED: Final = ("rejected", "rejected_response")
LABEL: Final = ("label", "kto_tag")
_RATINGS: Final = ("overall_score", "rating", "score")
_LABELS: Final = {"true": True, "false": False, "1": True, "0": False}
_SPEAKER: Final = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_FIX: Final = "give a prompt, or whole conversations with a common beginning"


def preference_keys(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that make a row a preference pair, empty when it is none."""
    chosen, rejected = key_of(row, CHOSEN), key_of(row, REJECTED)
    if chosen is not None and rejected is not None and (is_filled(row, chosen) or is_filled(row, rejected)):
        return chosen, rejected
    completions = row.get("completions")
    if "instruction" in row and isinstance(completions, list) and completions and isinstance(completions[0], dict):
        return "instruction", "completions"
    return ()


def labelled_keys(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that make a row a labelled answer, empty when it is none."""
    label = key_of(row, LABEL)
    format = next((name for name in CONVERSATIONS if needed_keys(row, name)), None)
    return (*needed_keys(row, format), label) if label is not None and format is not None else ()


def is_label(value: Any) -> bool:
    """Whether a value of a label column says wanted or unwanted; null is a label that is missing."""
    return value is None or isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false"))


def read_labelled(row: Mapping[str, Any], repairs: list[Repair]) -> tuple[tuple[Message, ...], bool]:
    """The conversation and the label of its last answer.

    Raises:
        DataError: the label says neither yes nor no, or the conversation is not one.
    """
    key = labelled_keys(row)[-1]
    label = row[key] if isinstance(row[key], bool) else _LABELS.get(str(row[key]).lower())
    if label is None:
        raise DataError(f"no label: {key} is {kind_name(row[key])}", fix="a label is true (wanted) or false (unwanted)")
    format = next(name for name in CONVERSATIONS if needed_keys(row, name))
    return check_turns(conversation_turns(row, format, repairs), repairs), label


Pair = tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]  # prompt, chosen, rejected


def read_preference(row: Mapping[str, Any], repairs: list[Repair]) -> Pair:
    """Prompt, chosen and rejected of a row that has `preference_keys`.

    Raises:
        DataError: a side is missing or not an answer to the prompt, or both sides are the same.
    """
    if preference_keys(row) == ("instruction", "completions"):
        good, bad = _best_and_worst(row["completions"])
        return _checked(alpaca_prompt(row), [Turn("assistant", good)], [Turn("assistant", bad)], repairs)
    keys = preference_keys(row)
    chosen, rejected = (_side(row[key], key, repairs) for key in keys)
    if is_whole(row):
        for key, side in zip(keys, (chosen, rejected), strict=True):
            if not side or side[0].role not in ("system", "user"):
                raise DataError(f"no common beginning: {key} is not a whole conversation as the other is", fix=_FIX)
        size = _given(row, chosen, rejected, repairs) or _common(chosen, rejected)
        return _checked(system_turns(row) + chosen[:size], chosen[size:], rejected[size:], repairs)
    prompt = _prompt(row, repairs)
    if prompt and prompt[-1].role == "assistant" and not prompt[-1].content.strip():  # HH-RLHF: "…\n\nAssistant:"
        prompt.pop()
        chosen, rejected = (
            [Turn(turn.role, turn.content.removeprefix(" "), turn.calls) for turn in side]
            for side in (chosen, rejected)
        )
    return _checked(prompt, chosen, rejected, repairs)


def is_whole(row: Mapping[str, Any]) -> bool:
    """Whether the sides of a pair are whole conversations that begin with the prompt."""
    for key in preference_keys(row):
        value = row[key]
        if isinstance(value, str) and _is_dialogue(value):
            return True
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and speaker_of(first) in ("system", "user", "human"):
            return True
    return False


def prompt_keys(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns the prompt of a pair is read from."""
    whole = is_whole(row)
    lists = [key for spellings in TURN_LISTS.values() if (key := key_of(row, spellings)) and is_filled(row, key)]
    if lists and not whole:
        return (lists[0],)
    prompt = next((key for key in (*PROMPT, "input") if is_filled(row, key)), None)
    if (prompt is None or prompt == "input") and key_of(row, INSTRUCTION) and not whole:
        return tuple(key for key in ("instruction", key_of(row, INPUT), "history") if key in row)
    return (prompt,) if prompt is not None else ()


def _prompt(row: Mapping[str, Any], repairs: list[Repair]) -> list[Turn]:
    keys = prompt_keys(row)
    if not keys:
        raise DataError("no prompt: chosen and rejected stand alone and are no whole conversations", fix=_FIX)
    key = keys[0]
    if key == "instruction":
        return alpaca_prompt(row)
    if isinstance(row[key], str) and _is_dialogue(row[key]):
        return system_turns(row) + _dialogue(row[key], key)
    return system_turns(row) + text_or_turns(row[key], key, "user", repairs)


def _side(value: Any, key: str, repairs: list[Repair]) -> list[Turn]:
    if isinstance(value, dict):
        return [read_turn(value, repairs)]
    if isinstance(value, list):
        return join_calls(turn_list(value, key, repairs), repairs)
    text = text_of(value, key)
    return _dialogue(text, key) if _is_dialogue(text) else [Turn("assistant", text)]


def _is_dialogue(text: str) -> bool:
    """Whether a text is a conversation as HH-RLHF writes it."""
    return text.lstrip("\n").startswith("Human:") and "\n\nAssistant:" in text


def _dialogue(text: str, key: str) -> list[Turn]:
    """The turns of one; the space behind the colon is not part of them."""
    text = text_of(text, key)
    _, *parts = _SPEAKER.split(text.lstrip("\n"))
    return [
        Turn("user" if speaker == "Human" else "assistant", said.removeprefix(" "))
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _common(chosen: list[Turn], rejected: list[Turn]) -> int:
    """How many turns both conversations begin with, ending where an answer is due."""
    size = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one.message() != other.message():
            break
        size += 1
    # Where the answers are the same, or one is a beginning of the other, the pair differs in what follows an answer.
    while size and (size >= min(len(chosen), len(rejected)) or chosen[size].role != "assistant"):
        size -= 1
    if not size:
        raise DataError("no common beginning: chosen and rejected start with different turns", fix=_FIX)
    return size


def _given(row: Mapping[str, Any], chosen: list[Turn], rejected: list[Turn], repairs: list[Repair]) -> int:
    """The number of turns of a prompt that stands beside whole conversations; 0 where it does not say.

    Raises:
        DataError: it is not what they begin with.
    """
    keys = prompt_keys(row)
    if not keys:
        return 0
    value = row[keys[0]]
    if isinstance(value, str) and not _is_dialogue(value):
        size = _common(chosen, rejected)
        if not any(turn.content.strip() == value.strip() for turn in chosen[:size]):
            raise DataError(f"{keys[0]} is not the beginning: no turn that chosen and rejected begin with has its text")
        return size
    turns = [turn.message() for turn in _prompt({**row, "system": None}, repairs)]
    if turns and turns[-1].role == "assistant" and not turns[-1].content.strip():
        turns.pop()
    for side in (chosen, rejected):
        if [turn.message() for turn in side[: len(turns)]] != turns:
            raise DataError(f"{keys[0]} is not the beginning: chosen or rejected begins with other turns")
    return len(turns)


def _best_and_worst(completions: list[Any]) -> tuple[str, str]:
    """The texts of the first of the best and the last of the worst rated completions."""
    rated: list[tuple[float, str]] = []
    for item in completions:
        key = key_of(item, _RATINGS) if isinstance(item, dict) else None
        if key is None or not isinstance(item.get("response"), str):
            raise DataError("completions without ratings: each has a response and an overall_score, rating or score")
        try:
            rated.append((float(item[key]), item["response"]))
        except (TypeError, ValueError):
            raise DataError(f"completions without ratings: {key} is {kind_name(item[key])}") from None
    best, worst = max(rated, key=lambda pair: pair[0]), min(reversed(rated), key=lambda pair: pair[0])
    if not best[0] > worst[0]:
        raise DataError("no preference: all completions have the same rating")
    return text_of(best[1], "response"), text_of(worst[1], "response")


def _checked(prompt: list[Turn], chosen: list[Turn], rejected: list[Turn], repairs: list[Repair]) -> Pair:
    """The three parts as messages, each side checked as the end of the conversation that the prompt begins."""
    prompt = join_calls(prompt, repairs)
    if not prompt:
        raise DataError("no prompt: it has no turns", fix=_FIX)
    if prompt[-1].role not in ("user", "tool"):
        raise DataError(f"roles out of order: the prompt ends with {prompt[-1].role}, expected user or tool")
    sides = []
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side:
            raise DataError(f"no answer: {name} has no turns", fix="a pair needs a better and a worse answer")
        if side[0].role != "assistant":
            raise DataError(f"roles out of order: {name} begins with {side[0].role}, expected assistant")
        sides.append(check_turns(prompt + side, repairs))
    size = len(prompt)
    if sides[0] == sides[1]:
        raise DataError("chosen and rejected are the same", fix="a pair needs a better and a worse answer")
    return sides[0][:size], sides[0][size:], sides[1][size:]
