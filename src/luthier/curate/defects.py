"""Defects of instruction rows, one small rule a class. `RULES` is the list; the rules say what they do not catch.

What is dropped is what no reading of the row makes right; what may be right is flagged. Rules for web pages (Gopher,
C4, FineWeb) have no place here: they take good mathematics, code and short answers for bad prose.

Answers are looked at where they are trained on: the assistant turns of a conversation, the chosen continuation of a
preference, a labelled answer that is wanted. A defect in a rejected or unwanted answer is no reason to drop: it is
what the answer is rejected for. Prompts are looked at in every kind; plain text has neither, and is only asked for
repetition, lost characters and chat markers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from luthier.curate.defects_answer import (
    chat_marker,
    empty_answer,
    is_input,
    lost_characters,
    needs_hands,
    pretends,
    repeats_input,
    speaks_as_ai,
)
from luthier.curate.defects_code import cut_python, cut_statement
from luthier.curate.defects_format import broken_json, broken_python, cut_json
from luthier.curate.defects_length import cut_in_code, cut_in_sentence, ends_open, heavy_loop, loop
from luthier.curate.defects_merged import second_pair, task_in_answer, two_tasks
from luthier.curate.defects_prompt import (
    attachment,
    merged_instructions,
    missing_input,
    missing_input_likely,
    picture_input,
    several_templates,
    unread_page,
)
from luthier.curate.defects_refusal import needless_refusal, refusal
from luthier.curate.example import Entry, Example
from luthier.curate.pair import Evidence, Pair, pairs_of
from luthier.curate.step import Step


@dataclass(frozen=True, slots=True)
class Rule:
    """A class of defect.

    Attributes:
        reason: its name in the ledger.
        action: what happens to the example.
        find: the evidence in a pair, or None.
    """

    reason: str
    action: Literal["flag", "drop"]
    find: Callable[[Pair], Evidence | None]


RULES: Final = (
    Rule("empty answer", "drop", empty_answer),
    Rule("answer repeats the input", "drop", repeats_input),
    Rule("answer is the input", "flag", is_input),
    Rule("merged instructions", "drop", merged_instructions),
    Rule("several templates in a prompt", "flag", several_templates),
    Rule("merged rows suspected", "flag", second_pair),
    Rule("merged rows suspected", "flag", two_tasks),
    Rule("merged rows suspected", "flag", task_in_answer),
    Rule("missing input", "drop", missing_input),
    Rule("missing input suspected", "flag", missing_input_likely),
    Rule("page that was not read", "drop", unread_page),
    Rule("picture as input", "drop", picture_input),
    Rule("attachment mentioned", "flag", attachment),
    Rule("asks for what text cannot do", "flag", needs_hands),
    Rule("pretends to have done it", "drop", pretends),
    Rule("cut in a sentence", "drop", cut_in_sentence),
    Rule("cut in code", "drop", cut_in_code),
    Rule("cut in code", "drop", cut_python),
    Rule("ends openly", "flag", ends_open),
    Rule("ends openly", "flag", cut_statement),
    Rule("needless refusal", "drop", needless_refusal),
    Rule("refusal", "flag", refusal),
    Rule("speaks as an AI", "flag", speaks_as_ai),
    Rule("chat marker", "drop", chat_marker),
    Rule("repetition loop", "drop", heavy_loop),
    Rule("repetition", "flag", loop),
    Rule("lost characters", "flag", lost_characters),
    Rule("cut in JSON", "drop", cut_json),
    Rule("broken JSON", "flag", broken_json),
    Rule("broken Python", "flag", broken_python),
)


def defects(examples: Sequence[Example]) -> list[Entry]:
    """What the rules find, in their order; each reason once an example."""
    entries = []
    rules = [(rule, rule.find) for rule in RULES]
    for example in examples:
        found: set[str] = set()
        for pair in pairs_of(example):
            for rule, find in rules:
                evidence = find(pair)
                if evidence is not None and rule.reason not in found:
                    found.add(rule.reason)
                    field = pair.answer_field if evidence.in_answer else pair.prompt_field
                    entries.append(
                        Entry(
                            example.id,
                            rule.action,
                            rule.reason,
                            field,
                            evidence.start,
                            evidence.end,
                            evidence.score,
                            detail=evidence.detail,
                        )
                    )
    return entries


DEFECTS: Final = Step("defects", 2, defects)
