"""What can be put right without losing anything: broken characters, "no input" notes, the next prompt in an answer.

Every kind of record is repaired, and of a preference both continuations: were only the wanted one repaired, a model
would learn that broken characters are what makes an answer unwanted. What is cut at the end of an answer is cut only
where the answer is wanted; in a rejected one the leak may be why it was rejected.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from luthier.curate.characters import drop_controls, drop_invisible, fix_encoding, fix_escapes
from luthier.curate.example import Entry, Example, fields_of
from luthier.curate.prompts import ABOUT_ENCODING, ABOUT_MARKERS, REFERS
from luthier.curate.step import Step

_CHARACTERS: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (
    ("broken LaTeX command", fix_escapes),
    ("control characters", drop_controls),
    ("broken encoding", fix_encoding),
    ("invisible characters", drop_invisible),
)

# The last paragraph of a prompt, saying that there is nothing in it. The first kind says nothing else.
_NOTE: Final = (
    r"[<\[({\"']*\s*(?:no[\s_-]?inputs?(?: (?:is |are )?(?:needed|required|necessary|provided|given|available))?"
    r"|input (?:is )?not (?:needed|required|necessary|applicable))"
)
_NONE: Final = r"[<\[({]*\s*(?:n\s?/\s?a|not applicable|none|null|nil|empty|no additional (?:input|context)|-{1,3})"
_LABEL: Final = r"(?:#{1,6}[ \t]*(?:input|context):?[ \t]*\n|(?:input|context):[ \t]*)?"
_NO_INPUT: Final = re.compile(
    rf"\n[ \t]*\n[ \t]*{_LABEL}(?:(?P<note>{_NOTE})|{_NONE})\s*[>\])}}\"']*\s*[.!]?\s*\Z", re.IGNORECASE
)

# What a model writes when it does not stop: a new example of the template it was trained on.
_INSTRUCTION: Final = re.compile(
    r"\n\s*(?:#{2,}[ \t]*(?:instructions?|human|user)[ \t]*:|(?:\d{1,3}\.[ \t]*|#{2,}[ \t]*)(?:instruction"
    r"|input)[ \t]*:"
    r"|instruction[ \t]*:(?=[^\n]*\n(?:[^\n]*\n){0,3}?\s*(?:input|output|response)[ \t]*:))",
    re.IGNORECASE,
)
_TURN: Final = re.compile(r"\n[ \t]*\n[ \t]*(?:human|user)[ \t]*:[ \t]*\S", re.IGNORECASE)
_SPEAKER: Final = re.compile(r"^[ \t]*[*_]*[A-Z][\w .'-]{0,24}[*_]*:(?!//)", re.MULTILINE)
_END: Final = re.compile(
    r"\s*(?:<\|(?:im_end|endoftext|eot_id|end_of_text|end)\|>|<end_of_turn>|</s>|<\|im_start\|>\s*(?:user|system)\b"
    r"|(?:<s>\s*)?\[INST\])"
)
# What stands before an answer. The indentation of its first line is the answer's own.
_AFTER: Final = r"(?:\s*\n|[ \t]*)"
_HEAD: Final = re.compile(
    r"\A\s*(?:#{2,}[ \t]*(?:response|answer|output|assistant)[ \t]*:|<\|im_start\|>\s*assistant\s*\n"
    rf"|<\|start_header_id\|>assistant<\|end_header_id\|>|<\|assistant\|>){_AFTER}",
    re.IGNORECASE,
)
# The prompt once more, template and all, with the answer behind it.
_ECHO: Final = re.compile(
    r"\A\s*(?:below is an? (?:instruction|conversation|question)\b[^\n]*\s*)?#{2,}[ \t]*instructions?[ \t]*:"
    rf".*?\n#{{2,}}[ \t]*(?:response|answer|output)[ \t]*:{_AFTER}",
    re.IGNORECASE | re.DOTALL,
)
_NAMED: Final = re.compile(rf"\A\s*(?:assistant|ai|response)[ \t]*:{_AFTER}", re.IGNORECASE)
_AGAIN: Final = re.compile(
    rf"\A\s*input[ \t]*:\s*(.*?)\s*\b(?:output|response)[ \t]*:{_AFTER}", re.IGNORECASE | re.DOTALL
)


def cut_no_input(prompt: str) -> str:
    """A prompt without a last paragraph that only says that there is no input.

    "None" or "N/A" may be the input itself, so they go only where the instruction points at nothing.
    """
    found = _NO_INPUT.search(prompt) if len(prompt) < 20_000 else None
    if found is None or not prompt[: found.start()].strip():
        return prompt
    return prompt if REFERS.search(prompt, 0, found.start()) else prompt[: found.start()].rstrip()


def cut_leak(answer: str, prompt: str) -> str:
    """An answer without template markers around it, without the prompt before it and the next prompt behind it.

    A prompt that is about templates, dialogues and the like may have to be answered with such words: then nothing is
    cut. Neither is anything where nothing would be left.
    """
    start = _begin(answer, prompt)
    rest = answer[start:]
    found = [match.start() for match in (_END.search(rest) if "<" in rest or "[INST]" in rest else None,) if match]
    low = rest.lower()
    if "instruction" in low or "input" in low or "##" in low:
        found += [match.start() for match in (_INSTRUCTION.search(rest),) if match]
    if "human:" in low or "user:" in low:
        turn = _TURN.search(rest)
        if turn is not None and not _SPEAKER.search(rest, 0, turn.start()) and not _SPEAKER.search(prompt):
            found.append(turn.start())
    if not found and not start:
        return answer
    cut = rest[: min(found)].rstrip() if found else rest
    strike = 0 <= answer.find("<s>") < answer.find("</s>")  # text that is struck out in HTML
    if not cut.strip() or ABOUT_MARKERS.search(prompt) or strike or "[INST]" in prompt:
        return answer
    return cut


def _begin(answer: str, prompt: str) -> int:
    """Where the answer begins behind what a template puts before it: 0 where nothing is."""
    first = answer[:24].lstrip().lower()
    if first.startswith(("#", "below is")) and (found := _ECHO.match(answer)):
        return found.end()
    if first[:1] in ("#", "<") and (found := _HEAD.match(answer)):
        return found.end()
    if first.startswith(("assistant", "ai", "response")) and (found := _NAMED.match(answer)):
        return 0 if _SPEAKER.search(prompt) or _SPEAKER.search(answer, found.end()) else found.end()
    if first.startswith("input") and (found := _AGAIN.match(answer)):
        return found.end() if " ".join(found[1].split()) == " ".join(prompt.split()) else 0
    return 0


def _edit(example: Example, field: str, reason: str, before: str, after: str) -> Entry:
    """An edit with the first place where the texts differ as its evidence."""
    start = next((at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), len(after))
    tail, room = 0, min(len(before), len(after)) - start
    while tail < room and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    return Entry(example.id, "edit", reason, field, start, len(before) - tail, before=before, after=after)


_PLAIN: Final = re.compile(r"[\n\r\t\x20-\x7e]*")


def _example(example: Example) -> list[Entry]:
    entries: list[Entry] = []
    record, asked, about = example.record, "", None
    for field, text, turn in fields_of(record):
        plain = text.isascii() and _PLAIN.fullmatch(text) and "\t" not in text
        changed = not plain
        while changed:  # what one repair uncovers is for another; each leaves less to repair
            changed = False
            for reason, fix in _CHARACTERS:
                after = fix(text)
                if after != text:
                    about = ABOUT_ENCODING.search(example.prompt) is not None if about is None else about
                    if about and fix is not drop_controls:
                        continue
                    entries.append(_edit(example, field, reason, text, after))
                    text, changed = after, True
        if turn is None:
            continue
        if turn.role == "user":
            asked, after = text, cut_no_input(text)
            if after != text:
                entries.append(_edit(example, field, "no-input note", text, after))
        elif turn.role == "assistant" and record.label is not False and not field.startswith("rejected"):
            after = cut_leak(text, asked)
            if after != text:
                entries.append(_edit(example, field, "leaked prompt", text, after))
    return entries


def repair(examples: Sequence[Example]) -> list[Entry]:
    """Edits that repair these examples; see the module."""
    return [entry for example in examples for entry in _example(example)]


REPAIR: Final = Step("repair", 1, repair)
