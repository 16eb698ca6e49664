"""Records of every kind for property tests, as hypothesis strategies; and rows that may be anything."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from luthier.data.formats_values import compact
from luthier.data.records import Message, Record

FAST = settings(
    max_examples=50, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
TEXT = ANY_TEXT.filter(str.strip) | st.sampled_from(["Human: a", "\n\nHuman: a\n\nAssistant: b", '{"name": 1}', "[]"])
NAME = st.sampled_from(["weather", "search", "f"])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3), max_leaves=5
)
ARGUMENTS = st.dictionaries(ANY_TEXT, VALUE, max_size=3)
META = st.dictionaries(st.sampled_from(["source", "n", "Ж", "turns"]), VALUE, max_size=2)


@st.composite
def tool_schemas(draw: st.DrawFn) -> str:
    """The tools of a record."""
    names = draw(st.lists(NAME, min_size=1, max_size=2, unique=True))
    return compact([{"name": name, "description": draw(ANY_TEXT), "parameters": draw(ARGUMENTS)} for name in names])


@st.composite
def answers(draw: st.DrawFn, tools: bool) -> list[Message]:
    """Calls and their results, any number of times, and the answer."""
    turns: list[Message] = []
    for _ in range(draw(st.integers(0, 2)) if tools else 0):
        calls = [{"name": draw(NAME), "arguments": draw(ARGUMENTS)} for _ in range(draw(st.integers(1, 2)))]
        turns.append(Message("assistant", draw(st.just("") | TEXT), compact(calls)))
        turns += [Message("tool", draw(ANY_TEXT), "", call["name"]) for call in calls]
    return [*turns, Message("assistant", draw(TEXT))]


@st.composite
def conversations(draw: st.DrawFn, tools: bool) -> list[Message]:
    """A whole conversation."""
    turns = [Message("system", text) for text in draw(st.lists(ANY_TEXT, max_size=1))]
    for _ in range(draw(st.integers(1, 3))):
        turns += [Message("user", draw(TEXT)), *draw(answers(tools))]
    return turns


@st.composite
def records(draw: st.DrawFn, kind: str) -> Record:
    """A record of one of the kinds, with or without tools, group and meta."""
    rest: dict[str, Any] = {"group": draw(st.sampled_from(["", "g 1"])), "meta": draw(META)}
    if kind == "text":
        return Record(text=draw(TEXT), **rest)
    tools = draw(st.booleans())
    rest["tools"] = draw(tool_schemas()) if tools else ""
    if kind == "preference":
        prompt = [*draw(conversations(tools)), Message("user", draw(TEXT))]
        sides = [draw(answers(tools)) + draw(st.just([]) | st.just([*more])) for more in _more(draw)]
        if sides[0] == sides[1]:
            sides[1] = [*sides[0][:-1], Message("assistant", sides[0][-1].content + "!")]
        if draw(st.booleans()):
            prompt = prompt[-1:]
        return Record(messages=tuple(prompt), chosen=tuple(sides[0]), rejected=tuple(sides[1]), **rest)
    label = draw(st.booleans()) if kind == "labelled" else None
    return Record(messages=tuple(draw(conversations(tools))), label=label, **rest)


def _more(draw: st.DrawFn) -> list[list[Message]]:
    """What may follow the first answer of either side of a pair."""
    return [[Message("user", draw(TEXT)), Message("assistant", draw(TEXT))] for _ in range(2)]


_NAMES = """messages conversations prompt completion instruction input output question answer text chosen rejected
label kto_tag system history tools completions group meta"""
COLUMNS = st.sampled_from(_NAMES.split())
ODD_TEXT = ANY_TEXT | st.sampled_from(
    ["a\0b", "a\ud800b", "", " ", "true", "{}", '{"name": "f"}', "{'name': 'f', 'arguments': {}}", "[", "Human:"]
)
ODD_TURN = st.dictionaries(
    st.sampled_from(
        ["role", "from", "content", "value", "tool_calls", "function_call", "tool_call_id", "name", "weight", "score"]
    ),
    st.sampled_from(["user", "human", "gpt", "assistant", "system", "tool", "function_call", "observation", "users"])
    | st.lists(st.fixed_dictionaries({"name": NAME, "arguments": VALUE}), max_size=2)
    | ODD_TEXT
    | SCALAR,
    max_size=5,
)
ODD_VALUE = st.lists(ODD_TURN, max_size=4) | ODD_TURN | ODD_TEXT | VALUE
ODD_ROW = st.dictionaries(COLUMNS, ODD_VALUE, max_size=6)
