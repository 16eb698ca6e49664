"""Defects that the shape of an answer shows: it stops in the middle, or it runs in circles."""

import re
from typing import Final

from luthier.curate.pair import Evidence, Pair

AT_LEAST: Final = 20  # words of an answer before its end says anything: shorter ones are labels, names and titles

_NEVER_LAST: Final = "the an and or their its our your my his because although whose into every"
_RARELY_LAST: Final = (
    "a of to with for in on at by from is are was were be been has have had that which who when where while if than as "
    "this these those not but so through between during about can could will would should may might must"
)
_SURE: Final = frozenset(_NEVER_LAST.split())
_LIKELY: Final = frozenset(_RARELY_LAST.split())
_LETTERED: Final = re.compile(r"\b(?:option|answer|choice|letter|vitamin|type|class|grade|part|is|plan|side) a\Z")
_LAST: Final = re.compile(r"([a-z]+)[,-]?\Z")
_ENDED: Final = re.compile(r"[.!?:;…。！？)\]}>\"'”’»*_`|~$=/\\]\s*\Z")
_ITEM: Final = re.compile(r"\s*(?:[-*+•·–—|>#\\]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)]|[A-Z][\w ]{0,30}:)\s")
_SENTENCE: Final = re.compile(r"[.!?][\"'”’)\]]*(?:\s|\Z)")
TAIL_WANTED: Final = re.compile(
    r"\b(?:continue|complete|finish|next word|fill|blank|poem|lyrics|haiku|verse|song|rhyme|rap|limerick|autocomplete"
    r"|sentence fragment|opening|opening line|beginning|first (?:line|half|part)|prefix|without punctuation"
    r"|no punctuation"
    r"|lower-?case|tokenize|keywords?|prepositions?|conjunctions?|articles?|stop ?words?|pronouns?)\b",
    re.IGNORECASE,
)


# Words that nothing ends on, for answers of any length: articles, and what joins a clause to the next.
_OPENING: Final = {
    "en": "the an and or their its our your my because although whose into every if than which when while a",
    "de": "der dem den des ein eine einer einem einen eines und oder weil dass sowie beim vom zum zur für deren dessen",
    "fr": "le la les un une des du et ou que qui de à dans pour avec par aux leur leurs dont",
    "es": "el la los las un una unos unas y e o de del que en con por para al su sus cuyo",
    "it": "il lo la gli le un una uno e o di del della dei delle che in con per da nel nella al alla dal",
    "pt": "o a os as um uma e ou de do da dos das que em na nos nas com por para ao seu sua",
    "nl": "de het een en of van voor met omdat zodat hun onze naar",
    "sv": "en ett och eller att som med av för från till hos vars",
    "pl": "i oraz lub albo w z do że który która które dla przez ponieważ od",
    "ru": "и или в на с к по из у для что который которая которые от чтобы потому",
}
_OPENINGS: Final = {name: frozenset(words.split()) for name, words in _OPENING.items()}
_LOWER: Final = re.compile(r"[^\W\d_]+\Z")


def _stops_short(pair: Pair) -> Evidence | None:
    """An answer in prose whose last word opens what should follow, in the language whose such words it has most of."""
    text = (pair.answer or "").rstrip()
    if not text[-1:].isalpha() or pair.kind == "text" or len(pair.words) < 3 or len(text) > 4000:
        return None
    match = _LOWER.search(text[-16:])
    word = match[0] if match else ""
    if not any(word in words for words in _OPENINGS.values()):
        return None
    said = [part.lower() for part in pair.words]
    name = max(_OPENINGS, key=lambda name: sum(part in _OPENINGS[name] for part in said))
    if word not in _OPENINGS[name] or (name != "en" and sum(part in _OPENINGS[name] for part in said) < 3):
        return None
    if TAIL_WANTED.search(pair.prompt) or _LETTERED.search(text[-30:]) or pair.looks_like_code:
        return None
    if any(_ITEM.match(part) for part in text.split("\n")) and len(said) < AT_LEAST:
        return None
    if text.rpartition("\n")[2].count(" ") < 2 or len(pair.prompt) < 10:
        return None
    return Evidence(f"ends in {text[-40:]!r}", max(0, len(text) - 60), len(text))


_ENTRY: Final = re.compile(r"\s*\S.{0,80}?(?::| [-–—→]) ?\S")


def _stub(pair: Pair) -> Evidence | None:
    """A list of "this: that" whose last line has only a "this"."""
    text = (pair.answer or "").rstrip()
    if not text[-1:].isalpha() or text.count("\n") < 3 or pair.kind == "text" or pair.looks_like_code:
        return None
    *others, last = (part for part in text.split("\n") if part.strip())
    if len(others) < 3 or len(last.split()) > 3 or _ENTRY.match(last) or not all(map(_ENTRY.match, others)):
        return None
    return (
        None
        if TAIL_WANTED.search(pair.prompt)
        else Evidence("the last entry is a stub", len(text) - len(last), len(text))
    )


def _last_line(pair: Pair) -> str:
    """The last line of a prose answer that does not end a sentence; "" where the end says nothing."""
    text = pair.answer
    if not text or len(text) < 80:
        return ""
    text = text.rstrip()
    if not text or not (text[-1].isascii() and (text[-1].isalpha() or text[-1] in ",-")) or len(pair.words) < AT_LEAST:
        return ""
    line = text.rpartition("\n")[2]
    if line.count(" ") < 5 or TAIL_WANTED.search(pair.prompt) or pair.looks_like_code:
        return ""
    return line


def cut_in_sentence(pair: Pair) -> Evidence | None:
    """The answer ends on a word that no English sentence ends on: "the", "and", "because", "such as".

    Needs 20 words, and 6 in the last line. Not a defect: code, poems, fragments that the prompt asks for. Not caught: a
    cut after a word that may end a sentence (see `ends_open`), a cut after a full stop, other languages.
    """
    line = _last_line(pair)
    match = _LAST.search(line) if line else None
    if match is None:
        return None
    if match[1] not in _SURE and not line.endswith((" such as", " as well as", " in order to", " due to", " based on")):
        return None
    end = len((pair.answer or "").rstrip())
    return Evidence(f"ends in {line[-60:]!r}", end - len(line[-60:]), end)


def ends_open(pair: Pair) -> Evidence | None:
    """The answer may have been cut: weaker signs than `cut_in_sentence` and `cut_in_code`, for review.

    One of: a last word that rarely ends a sentence, or a comma; a bracket or quotation mark that stays open in the last
    line; a code fence that is never closed; the only one of at least five sentences that has no full stop. People do
    leave out full stops, so its absence alone is no sign.
    """
    text = pair.answer
    if text and text.count("```") % 2 and cut_in_code(pair) is None and "```" not in pair.prompt:
        at = text.rindex("```")
        return Evidence("a code fence is never closed", at, at + 3)
    line = _last_line(pair)
    if not line:
        return _stops_short(pair) or _stub(pair)
    if cut_in_sentence(pair) is not None:
        return None
    assert text is not None
    end = len(text.rstrip())
    match = _LAST.search(line)
    word = match[1] if match else ""
    sign = ""
    if line[-1] in ",-" or (word in _LIKELY and not _LETTERED.search(line)):
        sign = f"ends in {line[-40:]!r}"
    elif line.count("(") > line.count(")") or line.count("“") > line.count("”") or line.count('"') % 2:
        sign = "a bracket or quotation mark stays open"
    elif not _ITEM.match(line) and _alone_without_stop(text, line):
        sign = "the last sentence alone has no full stop"
    return Evidence(sign, end - len(line[-60:]), end) if sign else None


def _alone_without_stop(text: str, line: str) -> bool:
    lines = [part.strip() for part in text.strip().split("\n") if part.strip()]
    if any(not _ENDED.search(part) for part in lines[:-1]) or any(_ITEM.match(part) for part in lines):
        return False
    last = _SENTENCE.split(line)[-1]
    return len(_SENTENCE.findall(text)) >= 4 and last.count(" ") >= 3


_LITERAL: Final = re.compile(
    r'"""[\s\S]*?(?:"""|\Z)|\'\'\'[\s\S]*?(?:\'\'\'|\Z)|/\*[\s\S]*?(?:\*/|\Z)|<!--[\s\S]*?(?:-->|\Z)'
    r'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|`(?:\\.|[^`\\])*`|(?<![:\w])//[^\n]*|(?:^|(?<=\s))#(?:[ !][^\n]*|\n)'
    r"|(?:^|(?<=\s))--[ ][^\n]*|\\."
)
_BRACKETS: Final = re.compile(r"[()\[\]{}]")
_CLOSES: Final = {")": "(", "]": "[", "}": "{"}


def open_brackets(code: str) -> list[str]:
    """The brackets that code opens and never closes, outside strings and comments; [] if they do not nest at all."""
    stack: list[str] = []
    for match in _BRACKETS.finditer(_LITERAL.sub('""', code)):
        char = match[0]
        if char in "([{":
            stack.append(char)
        elif stack and stack[-1] == _CLOSES[char]:
            stack.pop()
        else:
            return []
    return stack


def _opens_more(text: str) -> bool:
    return any(text.count(opening) > text.count(closing) for closing, opening in _CLOSES.items())


_OPEN_END: Final = re.compile(r"(?:[(\[{,=+*/&|<]|->|=>|\b(?:and|or|not|in|else|return|def|class|import|from))\s*\Z")


def cut_in_code(pair: Pair) -> Evidence | None:
    """Code that stops before it is complete: brackets are open, and the fence is not closed or the last line goes on.

    Both signs are needed. Not a defect: a snippet that opens a bracket on purpose and ends cleanly. Not caught: code
    cut at a place where all brackets happen to be closed, code in indentation languages cut between two lines.
    """
    text = pair.answer
    if not text or pair.kind == "text":
        return None
    fences = text.count("```")
    if fences % 2 and "```" not in pair.prompt:
        code = text[text.rindex("```") + 3 :]
    elif fences == 0 and any(map(text.__contains__, "([{")) and _opens_more(text) and pair.looks_like_code:
        code = text
        if not _OPEN_END.search(text) and text.rstrip()[-1:] in ")}];":
            return None
    else:
        return None
    left = open_brackets(code)
    if not left or "complete" in pair.asked or "continue" in pair.asked:
        return None
    end = len(text.rstrip())
    return Evidence(f"{''.join(left)} stays open", max(0, end - 60), end)


LOOP_AT_LEAST: Final = 30  # words of an answer before repetition is looked for
_MEANT: Final = re.compile(
    r"\b(?:repeat\w*|lyrics|song|songs|poem|rap|chant|refrain|chorus|mantra|times|pattern|sequence|loop"
    r"|\d+ copies|rhyme"
    r"|verse|stutter|echo|tongue|onomatopoeia|anaphora|say)\b",
    re.IGNORECASE,
)
_PERIOD: Final = 200  # words of the longest unit that is looked for


def _loops(words: list[str]) -> tuple[int, int, int]:
    """(words that repeat, period, index of the last one) of the longest loop: a run in which each word is that of a
    period ago, of at least 14 words and five rounds (three from 20 words a round on); zeros for none.

    A run is followed from a repeated 3-gram on, with the distance to its last occurrence as the period.
    """
    best = (0, 1, 0)
    seen: dict[tuple[str, str, str], int] = {}
    run = period = 0
    for index in range(len(words) - 2):
        gram = (words[index], words[index + 1], words[index + 2])
        gap = index - seen.get(gram, -(10**9))
        seen[gram] = index
        if gap > _PERIOD:
            run = 0
            continue
        run = run + 1 if gap == period else 1
        period = gap
        rounds = 5 if period < 20 else 3
        if run >= 12 and run + 2 > best[0] and run + 2 >= (rounds - 1) * period:
            best = (run + 2, period, index + 2)
    return best


def _find_loop(pair: Pair) -> Evidence | None:
    text = pair.answer
    if not text or len(text) < 60:
        return None
    words, different = pair.words, pair.different
    if len(words) * 25 < len(text) and not text.isascii():
        words = [char for char in text if not char.isspace()]  # a script without spaces
        different = len(set(words))
    if len(words) < LOOP_AT_LEAST or different * 2 > len(words):
        return None
    run, period, at = _loops(words)
    unit = words[at - period + 1 : at + 1]
    if not run or not any(map(str.isalpha, unit)):
        return None
    score = round((run + period) / len(words), 3)
    shown = ("" if words is not pair.words else " ").join(unit)
    return Evidence(f"{run / period + 1:.0f} times {shown[:120]!r}", score=score)


def heavy_loop(pair: Pair) -> Evidence | None:
    """The same words over and over, at least five times in direct succession (three from 20 words on), half the answer.

    Counted over answers of 30 words or more. Not a defect: songs, poems, sequences and whatever is to be repeated;
    code; numbers and symbols without words (tables, matrices). Not caught: loops whose rounds differ by a number or a
    word.
    """
    found = _find_loop(pair)
    if found is None or found.score is None or found.score < 0.5:
        return None
    return None if _MEANT.search(pair.prompt) or pair.wants_code or pair.looks_like_code else found


def loop(pair: Pair) -> Evidence | None:
    """The same, in a smaller part of the answer or where it may be meant: for review. Not in code."""
    found = _find_loop(pair)
    if (
        found is None
        or ((found.score or 0) >= 0.5 and not pair.wants_code)
        or pair.looks_like_code
        or _MEANT.search(pair.prompt)
    ):
        return None
    return found
