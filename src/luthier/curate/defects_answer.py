"""Defects of an answer that its words show: empty, an echo, a pretence, template markers."""

import re
from typing import Final

from luthier.curate.defects_refusal import refuses
from luthier.curate.pair import Evidence, Pair
from luthier.curate.prompts import ABOUT_ENCODING, ABOUT_MARKERS

_PLACEHOLDER: Final = re.compile(
    r"[<\[({]*\s*(?P<word>no[\s_-]?output|no[\s_-]?input|output|response|answer|your (?:answer|response)(?: here)?"
    r"|insert (?:answer|response|output|text)(?: here)?|(?:answer|response|output) (?:here|goes here)|lorem ipsum"
    r"|n\s?/\s?a|not applicable|to ?do|tbd|[.…]{2,}|…|[-_]{2,})\s*[>\])}]*\s*\.?",
    re.IGNORECASE,
)
_OPTION: Final = re.compile(
    r"n/?a\b|not (?:applicable|available|found|given|known|mentioned|stated|provided|specified)|todo|tbd|otherwise|else"
    r"|if (?:there|none|no|not|it|you)|unknown|missing|empty|blank|morse|punctuation|symbol|ellips|character|operator"
    r"|abbreviat|acronym|placeholder|output|print|dots?\b|dash|underscore|nothing|lorem|response|answer",
    re.IGNORECASE,
)
_BRACKETED: Final = re.compile(r"\s*[<\[({]+.*[>\])}]+\s*\Z", re.DOTALL)


def empty_answer(pair: Pair) -> Evidence | None:
    """Nothing, or a word that stands for something that was never written: "<nooutput>", "N/A", "...".

    Not a defect: an empty text beside a tool call; "None" and "null", which are answers; "N/A" or dots where the prompt
    offers them, asks for symbols or asks what a program prints.
    """
    if pair.answer is None or len(pair.answer) > 60:
        return None
    text = pair.answer.strip()
    if not text:
        return None if pair.calls else Evidence("the answer is empty")
    match = _PLACEHOLDER.fullmatch(text)
    if match is None:
        return None
    word = match["word"].lower().replace("_", "").replace("-", "").replace(" ", "")
    sure = (word in ("nooutput", "noinput") and _BRACKETED.match(text)) or ("here" in word and _BRACKETED.match(text))
    if not sure and (_OPTION.search(pair.prompt) or pair.kind == "text"):
        return None
    return Evidence(f"the answer is only {text!r}")


# Tasks whose right answer may be what was given: nothing to correct, already sorted, the one candidate.
_KEEPS: Final = re.compile(
    r"\b(?:correct\w*|edit\w*|proof-?read\w*|gramma\w*|spell\w*|fix\w*|error\w*|mistake\w*|punctuat\w*|capitali[sz]\w*"
    r"|repeat\w*|copy|echo|say|output|print\w*|return\w*|format\w*|indent\w*|sort\w*|order\w*|arrange\w*|clean\w*"
    r"|remov\w*|delet\w*|filter\w*|extract\w*|identif\w*|find|select\w*|choos\w*|which|what|who|pick|detect\w*"
    r"|check\w*|verif\w*|valid\w*|normali[sz]\w*|dedup\w*|unique|if (?:necessary|needed|required)|as is|unchanged"
    r"|classif\w*|categori[sz]\w*|split|lower-?case|upper-?case|transcri\w*|quote|recite|cite|highlight\w*|keyword\w*"
    r"|merge|join|combin\w*|concat\w*|anagram|palindrom\w*|rearrang\w*|unscrambl\w*|reverse|spaces?|refactor"
    r"|optimi[sz]\w*"
    r"|encod\w*|decod\w*|debug\w*|escape|strip|trim|round|simplif\w*|type|same)\b",
    re.IGNORECASE,
)
_CHANGES: Final = re.compile(
    r"\b(?:paraphras\w*|rewrit\w*|rephras\w*|reword\w*|translat\w*|summari[sz]\w*|shorten\w*|condens\w*|expand\w*"
    r"|elaborat\w*|convert\w*|transform\w*|chang\w*|replac\w*|turn\b.*\binto|continu\w*|complet\w*|answer|explain"
    r"|describ\w*|respond|reply|writ(?:e|ing)|creat\w*|generat\w*|compos\w*|improv\w*|modif\w*|add|solve|calculat\w*"
    r"|interpret\w*|analy[sz]\w*|comment|evaluat\w*|different|own words|synonyms?)\b",
    re.IGNORECASE,
)
_EDGE: Final = " \t\r\n.,:;!?\"'`*()[]"


def _echo(pair: Pair) -> str:
    """Which of "prompt" and "input" the answer is, but for line ends and outer punctuation; "" for neither."""
    if not pair.answer or not pair.prompt or pair.kind == "text" or len(pair.answer) > len(pair.prompt) + 20:
        return ""
    if pair.answer.strip(_EDGE)[-12:] not in pair.prompt[-60:]:
        return ""
    asked, given, made = (
        "\n".join(line.rstrip() for line in text.strip(_EDGE).split("\n"))
        for text in (pair.prompt, pair.input, pair.answer)
    )
    if len(made.split()) < 4 or _KEEPS.search(pair.instruction):
        return ""
    return "prompt" if made == asked else "input" if made == given else ""


def repeats_input(pair: Pair) -> Evidence | None:
    """The answer is the prompt, or the input that the prompt says to make something else of, over again.

    Not a defect: where leaving it may be right (correct, edit, sort, extract, classify, "repeat after me" …); fewer
    than four words (a name translates to itself); code of which only the indentation changed. Not caught: an echo with
    small changes.
    """
    echo = _echo(pair)
    if not echo or (echo == "input" and not _CHANGES.search(pair.instruction)):
        return None
    return Evidence(f"the answer is the {echo} over again")


def is_input(pair: Pair) -> Evidence | None:
    """The answer is the input, and the task may have wanted that ("Tell me about …", with a passage). For review."""
    if _echo(pair) != "input" or repeats_input(pair):
        return None
    return Evidence("the answer is the input over again")


_AI: Final = re.compile(
    r"\b(?:as|i['’]?m|i am|being)(?: just| only| simply)? an? (?:helpful )?(?:\w+ )?"
    r"(?:ai|artificial intelligence|language model|large language model|chatbot|virtual assistant)"
    r"(?: (?:language )?model| assistant| chatbot)?\b"
    r"|\bmy (?:training data|knowledge cutoff|knowledge cut-off)\b|\btrained by openai\b",
    re.IGNORECASE,
)
_ABOUT_AI: Final = re.compile(
    r"\b(?:ai|a\.i\.|artificial|model|models|chatbot|chatgpt|gpt|openai|bot|robot|assistant|you|your|yourself)\b",
    re.IGNORECASE,
)


def speaks_as_ai(pair: Pair) -> Evidence | None:
    """The answer speaks of itself as a language model, which nobody asked about.

    Not a defect, so not flagged: a prompt about "you" or AI; a refusal, which has its own reason; a preference.
    """
    if not pair.answer or pair.kind != "conversation" or not ("an ai" in pair.low or "model" in pair.low or
                                                              "my training" in pair.low or "my knowledge" in pair.low
                                                              or "chatbot" in pair.low or "openai" in pair.low
                                                              or "assistant" in pair.low):  # fmt: skip
        return None
    match = _AI.search(pair.answer)
    if match is None or _ABOUT_AI.search(pair.prompt) or refuses(pair):
        return None
    return Evidence(pair.answer[max(0, match.start() - 40) : match.end() + 40], match.start(), match.end())


_PRETENDS: Final = re.compile(
    r"\A\W*[\[<(](?:image|picture|photo|drawing|video|audio|music|insert (?:image|picture"
    r"|drawing))\b[^\])>]{0,80}[\])>]"
    r"|\bi(?:['’]ve| have)(?: just)? (?:sent|e-?mailed|attached|booked|ordered|purchased|called|scheduled"
    r"|uploaded|drawn"
    r"|painted) (?:it|you|the|an|your|a|this|that)\b"
    r"|\b(?:the|your) (?:e-?mail|message|text) (?:has been|was) sent\b|!\[[^\]\n]*\]\(https?://\S+\)"
    r"|\bhttps?://(?:i\.)?imgur\.com/\S+|\bhere(?: is|['’]s) (?:the|a|an|your) (?:image|picture|photo|drawing|video)\b",
    re.IGNORECASE,
)
_DONE: Final = ("[image", "[picture", "[photo", "[drawing", "<image", "(image", "[video", "[audio", "[music", "[insert",
                "sent", "mailed", "attached", "booked", "ordered", "purchased", "called", "scheduled", "uploaded",
                "drawn", "painted", "](http", "imgur", "image", "picture", "photo", "drawing", "video")  # fmt: skip


def pretends(pair: Pair) -> Evidence | None:
    """To a request that text cannot fulfil, the answer claims to have done it: "[image]", "I've sent the e-mail".

    Not a defect: with tools; in a text that somebody else is to say (a letter, a story); in an answer with code.
    """
    if not pair.answer or pair.tools or pair.kind == "text" or needs_hands(pair) is None:
        return None
    if not any(word in pair.low for word in _DONE):
        return None
    match = _PRETENDS.search(pair.answer)
    return Evidence(pair.answer[match.start() : match.end() + 40], match.start(), match.end()) if match else None


_HANDS: Final = re.compile(
    r"\A\W*(?:please |can you |could you |would you |i want you to |i need you to |now )*"
    r"(?:(?:draw|sketch|paint|illustrate|photograph|design|create|generate|make|produce|render|show|give|find|take)\b"
    r"(?: me)?(?: (?:an?|the|some|your|my|one|this))?(?: [\w'’-]+){0,3}? "
    r"(?:image|picture|photo|photograph|drawing|painting|sketch|illustration|cartoon|logo|portrait|collage"
    r"|gif|animation"
    r"|video|film clip|audio|audio clip|podcast recording|sound|wallpaper)s?\b(?! (?:description|caption"
    r"|script|title|idea"
    r"|prompt|name|slogan|tag|url|alt|processing|classif\w*|recogni\w*|of the (?:future|text))s?)"
    r"|(?:draw|sketch|paint) (?:me )?(?:an? |the |some )(?!conclusion|comparison|parallel|distinction"
    r"|line between|lesson"
    r"|inference|analogy|contrast|attention|flow|table|tree|diagram|graph|plot|chart|circle|square|rectangle"
    r"|triangle|line"
    r"|box|grid|map of the)\w+"
    r"|(?:play|sing|record) (?:me |us )?(?:an? |the |some )(?:\w+ ){0,2}(?:song|music|tune|video|audio|sound|playlist)"
    r"|(?:send|forward) (?:an? |the |this |my |out )?(?:\w+ ){0,2}(?:e-?mail|sms|text message|message) to\b"
    r"|(?:book|reserve|order|buy|purchase) (?:me |us )?(?:an? |the )?(?:flight|ticket|table|room|hotel|taxi|uber|pizza)"
    r"|set (?:an? |the |my )?(?:alarm|timer|reminder)\b|call (?:my|the) (?:mother|mom|father|dad|wife|husband"
    r"|boss|doctor"
    r"|police))",
    re.IGNORECASE,
)
_BY_TEXT: Final = re.compile(r"ascii|emoji|svg|mermaid|in words|describe|description|caption|storyboard", re.IGNORECASE)
_HONEST: Final = re.compile(r"\bi (?:can['’]?t|cannot|am (?:not able|unable)|do not have the ability)|text-based")


def needs_hands(pair: Pair) -> Evidence | None:
    """The prompt asks for a picture, sound, mail or booking, and no tool is there. For review only.

    Not a defect, so not flagged: code, ASCII art, SVG or a description asked for or given; an answer that says that it
    cannot; a conversation with tools. Not caught: requests that do not begin with the verb.
    """
    if not pair.first or pair.tools or pair.kind == "text":
        return None
    match = _HANDS.match(pair.prompt)
    if match is None or pair.wants_code or _BY_TEXT.search(pair.prompt):
        return None
    if pair.answer and ("```" in pair.answer or "<svg" in pair.low or _HONEST.search(pair.low)):
        return None
    return Evidence(match[0], match.start(), match.end(), in_answer=False)


_MARKER: Final = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|begin_of_text|end_of_text|user"
    r"|assistant|system"
    r"|end)\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
    r"|^#{2,}[ \t]*(?:Instruction|Response|Human|Assistant)[ \t]*:"
    r"|^Below is an instruction that describes a task",
    re.MULTILINE,
)


def chat_marker(pair: Pair) -> Evidence | None:
    """Tokens of a chat template inside an answer or a text: a model would learn to write the other side's turns.

    Not a defect: where the prompt speaks of templates, tokens, datasets, dialogues and the like, or holds the marker
    itself; inside a code fence. Repair has cut those at the end; these are in the middle.
    """
    text = pair.answer
    if not text or not (">" in text or "]" in text or "#" in text or "Below" in text):
        return None
    if not ("<|" in text or "_of_turn>" in text or "INST]" in text or "SYS>>" in text or "##" in text
            or "Below is an instruction" in text):  # fmt: skip
        return None
    match = _MARKER.search(text)
    if match is None or match[0] in pair.prompt or ABOUT_MARKERS.search(pair.prompt + pair.system):
        return None
    if text.count("```", 0, match.start()) % 2 or text[match.start() - 1 : match.start()] in ("`", '"', "'"):
        return None
    return Evidence(match[0], match.start(), match.end())


def lost_characters(pair: Pair) -> Evidence | None:
    """U+FFFD in the answer: a character that could not be read, and that no repair brings back. For review.

    Not a defect, so not flagged: where the prompt is about encodings.
    """
    if not pair.answer or "\ufffd" not in pair.answer or ABOUT_ENCODING.search(pair.prompt):
        return None
    at = pair.answer.index("\ufffd")
    return Evidence(pair.answer[max(0, at - 30) : at + 30], at, at + 1)
