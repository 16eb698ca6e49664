"""The text of an answer: characters over several tokens, stop strings over token borders."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.models.answer_text import AnswerText


def decode_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def pieces_of(data: bytes, stops: Sequence[str] = ()) -> tuple[list[str], AnswerText]:
    """A byte a token; stops when the text says so."""
    text, pieces = AnswerText(decode_bytes, stops), []
    for byte in data:
        pieces.append(text.add(byte))
        if text.ended:
            break
    pieces.append(text.finish())
    assert "".join(pieces) == text.text
    return pieces, text


def test_a_character_comes_out_whole() -> None:
    pieces, text = pieces_of("aé€😀b".encode())
    assert text.text == "aé€😀b" and [piece for piece in pieces if piece] == ["a", "é", "€", "😀", "b"]


def test_a_broken_character_comes_out_at_the_end() -> None:
    pieces, text = pieces_of("a€".encode()[:-1])
    assert text.text == "a\ufffd" and pieces == ["a", "", "", "\ufffd"] and not text.ended
    assert pieces_of(b"a\xffb")[1].text == "a\ufffdb"


def test_a_stop_string_over_borders_is_cut_off() -> None:
    pieces, text = pieces_of(b"Yes.\nUser: more", ["\nUser:", "###"])
    assert text.ended and text.text == "Yes."
    assert pieces[:5] == ["Y", "e", "s", ".", ""], "what may begin a stop string is held back"


def test_what_only_looked_like_a_stop_string_comes_out() -> None:
    pieces, text = pieces_of(b"a##b#", ["###"])
    assert text.text == "a##b#" and not text.ended
    assert pieces == ["a", "", "", "##b", "", "#"]


def test_the_first_stop_string_counts() -> None:
    assert pieces_of(b"one two three", ["three", "two"])[1].text == "one "
    assert pieces_of(b"abcd", ["cd", "bcd"])[1].text == "a"
    assert pieces_of(b"stop", ["stop"])[1].text == ""


def test_a_token_of_much_text_ends_at_its_first_stop_string() -> None:
    words = ["Hello", " END and", " END"]
    text = AnswerText(lambda tokens: "".join(words[token] for token in tokens), ["END"])
    assert [text.add(token) for token in (0, 1)] == ["Hello", " "] and text.ended and text.finish() == ""


def test_a_stop_string_of_a_split_character() -> None:
    assert pieces_of("ja…nein".encode(), ["…"])[1].text == "ja"


def test_text_that_changes_behind_is_held_until_the_end() -> None:
    """A decoder that looks back: nothing that came out is taken back."""
    text = AnswerText(lambda tokens: {1: "ab", 2: "xbc", 3: "xbcd"}[len(tokens)])
    assert [text.add(0) for _ in range(3)] == ["ab", "", ""] and text.finish() == "cd"


def test_an_empty_stop_string_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        AnswerText(decode_bytes, [""])


@given(st.text("ab€", max_size=14), st.lists(st.text("ab€", min_size=1, max_size=3), max_size=3))
def test_any_text_and_any_stops(whole: str, stops: list[str]) -> None:
    _, text = pieces_of(whole.encode(), stops)
    places = [whole.find(stop) for stop in stops if stop in whole]
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    if not places:
        assert text.text == whole and not text.ended
    else:
        # It ends with the first token that completes a stop string, before the earliest that is complete then.
        there = [whole[: min(ends)].find(stop) for stop in stops if stop in whole[: min(ends)]]
        assert text.text == whole[: min(there)] and text.ended
