"""Defects of a prompt: what it needs is not there, it is several prompts, or it asks for what text cannot do."""

import re
from typing import Final

from luthier.curate.defects_refusal import missing
from luthier.curate.pair import Evidence, Pair

_NUMBERED: Final = re.compile(r"^\s*(?:###[ \t]*)?\d{1,3}\.[ \t]*instruction[ \t]*:", re.IGNORECASE | re.MULTILINE)
_TEMPLATE: Final = re.compile(r"^\s*#{2,}[ \t]*(?:instruction|response)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_MAKES_TASKS: Final = re.compile(
    r"\b(?:generat|creat|writ|com(?:e|ing) up with|list|giv|produc|design|evolv|rewrit)\w*\b[^.\n]{0,80}"
    r"\b(?:instruction|task|prompt|step|direction)s?\b",
    re.IGNORECASE,
)


def merged_instructions(pair: Pair) -> Evidence | None:
    """Numbered instructions of a list ("12. Instruction: …") in one prompt: several tasks under one answer.

    It comes from generated lists that were split wrongly; which task the answer belongs to cannot be told.
    Not a defect: a prompt that asks to make instructions. Not caught: tasks merged without such a label.
    """
    if "instruction" not in pair.asked or pair.kind == "text":
        return None
    match = _NUMBERED.search(pair.prompt)
    if match is None or _MAKES_TASKS.search(pair.prompt):
        return None
    return Evidence(match[0].strip(), match.start(), match.end(), in_answer=False)


def several_templates(pair: Pair) -> Evidence | None:
    """Two or more "### Instruction:" or "### Response:" in a prompt: merged rows, or examples shown on purpose.

    Which of the two cannot be told, so it is for review.
    """
    if "##" not in pair.prompt or pair.asked.count("instruction") + pair.asked.count("response") < 2:
        return None
    found = list(_TEMPLATE.finditer(pair.prompt))
    if len(found) < 2 or _MAKES_TASKS.search(pair.prompt):
        return None
    return Evidence(f"{len(found)} template headings", found[0].start(), found[-1].end(), in_answer=False)


_THING: Final = (
    r"(?:text|texts|sentences?|paragraphs?|passage|passages|article|story|poem|essay|e-?mail|letter|review"
    r"|tweet|snippet"
    r"|code|document|dialogue|conversation|statements?|quote|quotation|words|phrases?|equation|expression|table|data"
    r"|dataset|list|numbers|items|options|names|excerpt|abstract|headline|blog post|post|speech|recipe|report|input)"
)
_COLON: Final = re.compile(
    r"\b(?:the following|these|this|the given|given|below|the provided)\b[^.?!:\n]{0,120}:\W*\Z", re.IGNORECASE
)
_EDITS: Final = re.compile(
    r"\A\W*(?:please |can you |could you )?(?:summari[sz]e|rewrite|rephrase|reword|paraphrase|translate|edit|proofread"
    r"|correct|classify|categori[sz]e|identify|analy[sz]e|simplify|shorten|expand|convert|transform|change|modify|sort"
    r"|arrange|reorder|rearrange|rank|reduce|evaluate|calculate|determine|find|extract|complete|continue|fix|improve"
    r"|punctuate|combine|merge|parse|interpret|condense|fill in)\b",
    re.IGNORECASE,
)
_POINTS: Final = re.compile(
    rf"\b(?:the (?:following|given|provided|below)|these|this) (?:\w+ ){{0,2}}{_THING}\b(?! of\b)", re.IGNORECASE
)
_PASSAGE: Final = re.compile(
    r"\b(?:given|from|using|based on|according to|read|in|after reading|refer(?:ring)? to|summari[sz]e"
    r"|explain|debug|fix"
    r"|refactor|optimi[sz]e|review)\s+(?:(?:this|the following|the given|the provided|the below)\s+(?:\w+[ +#]+){0,2}"
    r"(?:text|paragraph|passage|article|excerpt|story|e-?mail|conversation|code|function|snippet)"
    r"|(?:a|the) (?:given )?reference (?:text|passage|paragraph|article)"
    r"|the (?:text|paragraph|passage|article|excerpt|code) (?:below|above|provided|given))\b",
    re.IGNORECASE,
)
_REFERRING: Final = ("follow", "given", "provided", "below", "above", "this ", "these ", "reference")
_SHOWN: Final = re.compile(r"[\"“”‘`<{=]|:\s*\S.{30}|\s['’]\w")
_HOLDS: Final = re.compile(r"[\"“”‘`\[({<=|]|:\s*\S|\d|\s['’]\w|,\s*\w+,|[.?!]\s+\S+(?:\s+\S+){3}|;|\bof [A-Z]\w+ ")
_LABELS: Final = re.compile(
    r"(?:answer|solution|output|response|result|label|summary|translation|a|assistant|ai|bot|sql|python|code"
    r"|title)[ \t]*:"
    r"\W*\Z",
    re.IGNORECASE,
)
_NO_INPUT: Final = re.compile(r"[<\[({]*\s*(?:no[\s_-]?input|none|n/?a|no input provided)\s*[>\])}]*\.?", re.IGNORECASE)


def _bare(pair: Pair) -> str:
    """The prompt when it is all there is to go by and is one paragraph; "" otherwise."""
    if not pair.first or pair.system or pair.tools or not pair.prompt:
        return ""
    prompt = pair.prompt.strip()
    head, _, rest = prompt.partition("\n\n")
    if _NO_INPUT.fullmatch(rest.strip()):
        prompt = head.strip()
    return "" if "\n" in prompt or len(prompt) > 300 or missing(pair.low) else prompt


def missing_input(pair: Pair) -> Evidence | None:
    """The prompt ends in a colon after "the following …", and nothing follows: the answer made its own input up.

    Not a defect: later turns, which refer to what was said; a system turn or tools that may hold it; labels at the
    end ("Answer:"); an answer that asks for the input. Not caught here: prompts that do not end in a colon.
    """
    if ":" not in pair.prompt[-12:] and "input" not in pair.asked[-20:]:
        return None
    prompt = _bare(pair)
    match = _COLON.search(prompt) if prompt else None
    if match is None or _LABELS.search(prompt):
        return None
    return Evidence(match[0].strip(), match.start(), match.end(), in_answer=False)


def missing_input_likely(pair: Pair) -> Evidence | None:
    """One short paragraph that works on "the following text", "this passage" or "the code below", and holds none.

    For review: some such prompts stand for any input ("Sort the following list" answered with a program).
    Not a defect, so not flagged: a colon with something behind it, a quotation; where a sentence or a list would do,
    also a number or a list; "a given string" in a programming task. Not caught: prompts of several paragraphs or over
    200 characters.
    """
    asked = pair.asked
    if len(asked) > 300 or not any(word in asked for word in _REFERRING):
        return None
    prompt = _bare(pair)
    if not prompt or len(prompt) > 200 or _COLON.search(prompt):
        return None
    match = None if _SHOWN.search(prompt) else _PASSAGE.search(prompt)
    if match is None and len(prompt) <= 160 and _EDITS.match(prompt) and not _HOLDS.search(prompt):
        match = None if pair.wants_code else _POINTS.search(prompt)
    if match is None:
        return None
    return Evidence(match[0], match.start(), match.end(), in_answer=False)


_URL_ONLY: Final = re.compile(r"(?:<|\()?(?:https?://|www\.)\S+\s*", re.IGNORECASE)
_READS: Final = re.compile(
    r"\b(?:summari[sz]|read|review|analy[sz]|critique|describe|rewrite|rephrase|paraphrase|edit|proofread"
    r"|translate|explain"
    r"|extract|evaluate|classify|categori[sz]|comment|outline|identify|what (?:is|does|are)|find|tell me|give)\w*\b.*"
    r"\b(?:article|page|website|web ?site|post|video|blog|text|story|news|document|link|content|essay|report|paper"
    r"|tweet|image|photo|picture|url|source|passage|speech|review)\b",
    re.IGNORECASE,
)
_OF_URL: Final = re.compile(r"\b(?:domain|protocol|parse|pars|shorten|valid|url (?:is|for)|format|scheme|host)", re.I)
_NO_ACCESS: Final = re.compile(
    r"\b(?:can['’]?t|cannot|can not|unable to|not able to|don['’]?t have|do not have)\b[^.]{0,60}"
    r"\b(?:access|open|browse|view|visit|read|see)\b",
    re.IGNORECASE,
)


def unread_page(pair: Pair) -> Evidence | None:
    """All the input there is is an address, and the task is to work on what the page says: the answer made it up.

    Not a defect: with tools; code that fetches or parses; questions about the address itself; an answer that says it
    cannot open it. Not caught: an address inside a sentence, with the text itself or not.
    """
    if not pair.first or pair.tools or pair.kind == "text" or not ("http" in pair.asked or "www." in pair.asked):
        return None
    given = pair.input or pair.instruction.rpartition(":\n")[2] if "\n" in pair.prompt else ""
    if not given or not _URL_ONLY.fullmatch(given) or not _READS.search(pair.instruction):
        return None
    if pair.wants_code or _OF_URL.search(pair.instruction) or _NO_ACCESS.search(pair.low):
        return None
    at = pair.prompt.rindex(given)
    return Evidence(given, at, at + len(given), in_answer=False)


_PICTURE: Final = re.compile(
    r"<image>|<img>|<\|image\|>|\[(?:an? |the )?(?:image|picture|photo|video|audio)[^\]\n]{0,60}\]"
    r"|[\w ./\\:-]{1,80}\.(?:jpe?g|png|gif|bmp|webp|mp4|mov|avi|mp3|wav)",
    re.IGNORECASE,
)
_ATTACHED: Final = re.compile(
    r"\b(?:the|this|an?|my|see) (?:attached|enclosed|uploaded) (?:\w+ )?(?:image|picture|photo|file|document"
    r"|video|audio"
    r"|screenshot|pdf|spreadsheet|table|chart|graph|diagram|figure)\b|\bsee attached\b"
    r"|\b(?:image|picture|photo|screenshot|figure|diagram|chart) (?:below|above|attached|provided)\b",
    re.IGNORECASE,
)


def picture_input(pair: Pair) -> Evidence | None:
    """The input is a picture, sound or film that is not there: "<image>", "[image]", "cat.jpg" alone.

    Not a defect: tasks about code or file names; with tools; an answer that says it cannot see it.
    """
    if not pair.first or pair.tools or pair.kind == "text":
        return None
    given, prompt = pair.input, pair.prompt.strip()
    alone = bool(given) and len(given) < 100 and _PICTURE.fullmatch(given.strip(" .()\"'"))
    token = prompt.startswith(("<image>\n", "<|image|>\n")) or prompt.endswith(("\n<image>", "\n<|image|>"))
    if (
        (not alone and not token)
        or pair.wants_code
        or "file" in pair.asked
        or _NO_ACCESS.search(pair.low)
        or missing(pair.low)
    ):
        return None
    return Evidence(given if alone else "<image>", in_answer=False)


def attachment(pair: Pair) -> Evidence | None:
    """The prompt speaks of an attached file or a picture below, and a record holds only text. For review.

    Not a defect, so not flagged: with tools; a letter to be written that mentions one; an answer that says it sees
    none.
    """
    asked = pair.asked
    if not pair.first or pair.tools or not ("attached" in asked or "enclosed" in asked or "uploaded" in asked
                                            or " below" in asked or " above" in asked):  # fmt: skip
        return None
    match = _ATTACHED.search(pair.prompt)
    if match is None or pair.wants_code or _NO_ACCESS.search(pair.low) or missing(pair.low):
        return None
    if re.search(r"\b(?:e-?mail|letter|message|cover|memo)\b", asked):
        return None
    return Evidence(match[0], match.start(), match.end(), in_answer=False)
