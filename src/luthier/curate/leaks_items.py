"""Evaluation files as items: which fields of a row are the prompt, and which the answer.

Known are rows like those of GSM8K (question, answer), HumanEval (prompt, canonical_solution), MBPP (text, code), IFEval
(prompt), MT-bench (turns, reference), and of every format that is trained on. An evaluation row may lack an answer.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.curate.leaks_index import Item
from luthier.data.read import read_rows

# The first key of a row that holds a text (or several) is the prompt; all of the answers' keys count.
PROMPTS: Final = ("question", "prompt", "instruction", "problem", "query", "turns", "messages", "conversations",
                  "conversation", "text")  # fmt: skip
ANSWERS: Final = ("answer", "canonical_solution", "completion", "response", "output", "solution", "reference",
                  "reference_answer", "code", "target", "chosen")  # fmt: skip
_MORE: Final = ("input", "context")  # what belongs to an instruction
_USER: Final = ("user", "human")
_ASSISTANT: Final = ("assistant", "gpt", "model")


def read_items(path: Path) -> list[Item]:
    """The items of an evaluation file, or of every data file in a folder.

    Raises:
        DataError: the file cannot be read, or a row has no prompt.
    """
    return [item_of(row, where) for where, row in read_rows(path, on_bad_row="stop", counts=Counter())]


def item_of(row: Mapping[str, Any], where: str) -> Item:
    """A row as an item. A prompt of several turns counts as a whole, and its first turn on its own.

    Raises:
        DataError: none of the known keys holds a prompt.
    """
    for key in PROMPTS:
        users, assistants = _texts(row.get(key))
        if users:
            break
    else:
        raise DataError(
            f"no prompt in this evaluation row: its keys are {', '.join(map(str, row)) or 'none'}",
            where=where,
            fix=f"name the prompt one of {', '.join(PROMPTS)}, and the answer, if any, one of {', '.join(ANSWERS)}",
        )
    prompts = ["\n".join(users), users[0]]
    if key == "instruction":  # alone it is often "Summarise this text", which says nothing
        more = [text for name in _MORE if isinstance(text := row.get(name), str) and text.strip()]
        prompts = ["\n\n".join([*users, *more])]
    answers = assistants
    for name in ANSWERS:
        said, answered = _texts(row.get(name))
        answers = [*answers, *said, *answered]
    return Item(Path(where).name, tuple(dict.fromkeys(prompts)), tuple(dict.fromkeys(answers)))


def _texts(value: Any) -> tuple[list[str], list[str]]:
    """(texts of the user or of nobody in particular, texts of the assistant) that a field holds."""
    users: list[str] = []
    assistants: list[str] = []
    for part in value if isinstance(value, list) else [value]:
        role = part.get("role", part.get("from")) if isinstance(part, Mapping) else None
        text = part.get("content", part.get("value")) if isinstance(part, Mapping) else part
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            continue
        if (role is None or role in _USER) and str(text).strip():
            users.append(str(text))
        elif role in _ASSISTANT:
            assistants.append(str(text))
    return users, assistants
