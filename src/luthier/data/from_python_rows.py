"""Questions and answers about one documented Python object. Every answer is taken from the source."""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from luthier.core.files import hash_bytes
from luthier.data.from_python_docs import description, first_sentence, parameter_texts
from luthier.data.from_python_source import PyObject

T = TypeVar("T")

LONGEST_ANSWER: Final = 1_500  # characters; longer descriptions are cut at a paragraph's end
SHORTEST_ANSWER: Final = 20  # characters
LONGEST_SIGNATURE: Final = 300  # characters
_TYPE: Final = re.compile(r"^[\w.\[\], |]+:\s+(?=[A-Z])")  # "bool: Whether ...", as properties are documented
_LONGEST_CALL: Final = 80  # characters of a call shown in a question

_EXPLAIN: Final = {
    "function": ("What does `{call}` do?", "What does the function `{name}` do?", "Explain `{call}`.",
                 "What is `{name}` for?", "Describe the function `{qualname}` of the module `{module}`."),
    "method": ("What does `{call}` do?", "What does the method `{name}` do?", "Explain `{call}`.",
               "Describe the method `{qualname}` of the module `{module}`."),
    "class": ("What is the class `{name}`?", "What is `{name}` for?", "Explain the class `{name}`.",
              "Describe the class `{qualname}` of the module `{module}`."),
    "property": ("What is the property `{name}`?", "Explain the property `{name}`.",
                 "Describe the property `{qualname}` of the module `{module}`."),
}  # fmt: skip
_WHICH: Final = (
    "Which {kind} of the module `{module}` fits this description? {sentence}",
    "I am looking for a {kind} in `{module}`: {sentence} What is it called?",
    "Name the {kind} in `{module}` that is documented like this: {sentence}",
    "What is the {kind} in `{module}` with this description called? {sentence}",
)
_ARGUMENT: Final = (
    "What does the argument `{argument}` of `{name}` mean?",
    "What does `{argument}` mean in `{call}`?",
    "Explain the argument `{argument}` of `{call}`.",
    "What is `{argument}` in a call of `{name}`?",
)
_SIGNATURE: Final = (
    "Complete the signature of `{name}`:",
    "How does the definition of `{name}` go on?",
    "Write the definition line of `{name}`, beginning like this:",
)


def pick(options: Sequence[T], *name: str) -> T:
    """One of the options, by a hash of the name: the same at every run."""
    return options[int(hash_bytes(*(part.encode() for part in name))[:8], 16) % len(options)]


def shown_call(item: PyObject) -> str:
    """How a call looks in a question: "json.dumps(obj, *, skipkeys=False, …)"."""
    if item.call is None:
        return item.name if item.kind in ("class", "property") else f"{item.name}()"
    call = item.call
    while len(call) > _LONGEST_CALL or any(call.count(left) != call.count(right) for left, right in ("()", "[]", "{}")):
        call = call.rpartition(", ")[0]
    return f"{item.name}({call})" if call == item.call else f"{item.name}({call}{', ' if call else ''}…)"


def questions(
    item: PyObject, sentences: Counter[tuple[str, str]], counts: Counter[str]
) -> Iterator[tuple[str, str, str]]:
    """(kind, question, answer) for all that can be asked about an object.

    Args:
        sentences: how often each (module, first sentence) occurs; only a description of one object is asked for.
        counts: gets the reasons for what was cut or not asked.
    """
    words = {"name": item.name, "qualname": item.qualname, "module": item.module, "call": shown_call(item)}
    words["kind"] = item.kind
    for kind, question, answer in _all(item, words, sentences, counts):
        if len(answer) < SHORTEST_ANSWER:
            counts[f"answer under {SHORTEST_ANSWER} characters"] += 1
        elif len(answer) > LONGEST_ANSWER:
            counts[f"answer over {LONGEST_ANSWER} characters"] += 1
        else:
            yield kind, question, answer


def _all(
    item: PyObject, words: dict[str, str], sentences: Counter[tuple[str, str]], counts: Counter[str]
) -> Iterator[tuple[str, str, str]]:
    doc = _TYPE.sub("", item.doc) if item.kind == "property" else item.doc
    text, cut = description(doc, LONGEST_ANSWER)
    counts["long description cut at the end of a paragraph"] += cut and bool(text)
    if text:
        yield "explain", pick(_EXPLAIN[item.kind], "explain", item.name).format(**words), finished(text)
    else:
        counts["no description to answer with"] += 1
    sentence = first_sentence(doc)
    own_name = item.qualname.rpartition(".")[2].lower()
    if sentence and len(sentence) <= 250:
        if sentences[item.module, sentence] > 1 or own_name in sentence.lower().split():
            counts["description that fits several objects or gives the name away"] += 1
        else:
            question = pick(_WHICH, "which", item.name).format(sentence=finished(sentence), **words)
            yield "which", question, _named(item)
        if item.definition and item.parameters:
            if len(item.definition) > LONGEST_SIGNATURE:
                counts[f"signature over {LONGEST_SIGNATURE} characters"] += 1
            else:
                yield "signature", *_signature(item, sentence, words)
    for parameter in item.parameters:
        meaning = parameter_texts(item.doc, [other.name for other in item.parameters]).get(parameter.name)
        if meaning:
            question = pick(_ARGUMENT, "argument", item.name, parameter.name).format(argument=parameter.name, **words)
            yield "argument", question, _meaning(meaning, parameter.default)


def _named(item: PyObject) -> str:
    if item.call is None or len(item.call) > LONGEST_SIGNATURE:
        return f"The {item.kind} is called `{item.name}`."
    if item.kind == "method":
        return f"`{item.name}`. Its definition begins with:\n\n```python\n{item.definition}:\n```"
    return f"`{item.name}`. It is called like this:\n\n```python\n{item.name}({item.call})\n```"


def _signature(item: PyObject, sentence: str, words: dict[str, str]) -> tuple[str, str]:
    owner = item.qualname.rpartition(".")[0]
    head, margin = (f"class {owner}:\n    ", "    ") if owner else ("", "")
    start = item.definition.partition("(")[0]
    question = pick(_SIGNATURE, "signature", item.name).format(**words)
    body = "..." if '"""' in sentence or "\\" in sentence else f'"""{finished(sentence).replace("`", "")}"""'
    return (
        f"{question}\n\n```python\n{head}{start}(\n```",
        f"```python\n{head}{item.definition}:\n{margin}    {body}\n```",
    )


def _meaning(text: str, default: str) -> str:
    text = finished(text[0].upper() + text[1:] if text[:1].islower() else text)
    if _is_literal(default) and len(default) <= 40 and "default" not in text.lower():
        return f"{text} The default is `{default}`."
    return text


def _is_literal(source: str) -> bool:
    """True for 5, None, "a", (): a value that says something; the name of a sentinel does not."""
    try:
        ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return False
    return True


def finished(text: str) -> str:
    """The text with a full stop where its last sentence has no end."""
    whole = (
        text.rstrip(")'\"]")[-1:] in ".!?" or text.endswith("```") or not (text[-1].isalnum() or text[-1] in ")`'\"]")
    )
    return text if whole else f"{text}."
