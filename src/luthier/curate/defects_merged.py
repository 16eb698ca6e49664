"""Two rows that ran into one: with labels between them, or without a mark, so that only what they speak of shows it."""

import re
from typing import Final

from luthier.curate.pair import Evidence, Pair
from luthier.curate.prompts import ABOUT_MARKERS

_BEFORE: Final = r"^[ \t]*(?:[*#_>\[<(]+[ \t]*)?(?:\d{1,3}[.)][ \t]*)?(?:next |new |another |follow-?up )?"
_AFTER: Final = r"[ \t]*\d{0,2}[*_]*(?:[\])>]+[ \t]*[:：]?|[ \t]*[:：])[*_]*"
_QUESTION: Final = re.compile(
    rf"{_BEFORE}(?:question|q|query|instructions?|task|prompt|problem|user|human|frage|anweisung|aufgabe|pregunta"
    r"|instrucci[oó]n|consigne|domanda|istruzione|pergunta|instrução|vraag|opdracht|fråga|pytanie|zadanie|polecenie"
    rf"|вопрос|задание|问题|問題|问|指令|用户){_AFTER}[ \t]*(?:\S|\n[ \t]*\S)",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER: Final = re.compile(
    rf"{_BEFORE}(?:answer|a|output|response|solution|completion|assistant|ai|bot|antwort|ausgabe|lösung|respuesta"
    rf"|salida"
    r"|réponse|sortie|risposta|resposta|saída|antwoord|svar|odpowiedź|ответ|вывод|回答|答案|答|输出|助手)"
    rf"{_AFTER}",
    re.IGNORECASE | re.MULTILINE,
)
_MAKES_QUESTIONS: Final = re.compile(
    r"\bq ?(?:&|and|/) ?a\b|\bquiz|\btrivia|\bfaqs?\b|flash ?card|riddle|\bjoke|knock|interview|worksheet|\bexam\b"
    r"|exercise"
    r"|practice|template|few-shot|\b(?:writ|creat|generat|list|mak|giv|provid|com|design|compos|formulat|suggest"
    r"|ask|draft"
    r"|prepar|produc|build|devis|invent|pos|shar|show|wrote|made)\w*\b[^.\n]{0,60}\b(?:questions?|problems?|prompts?"
    r"|examples?|tasks?|instructions?)\b",
    re.IGNORECASE,
)


def second_pair(pair: Pair) -> Evidence | None:
    """Behind an answer comes a further question with its answer, both labelled: "Question: … Answer: …".

    For review. The labels begin a line, in eleven languages. Not a defect, so not flagged: where the prompt asks for
    questions, tasks, examples or a dialogue, or has such labels itself; an answer that begins with the label; inside a
    code fence. Not caught: a label alone.
    """
    text = pair.answer
    if not text or pair.kind == "text" or not (":" in text or "：" in text or "]\n" in text or "] " in text):
        return None
    first = _QUESTION.search(text)
    if first is None or not text[: first.start()].strip():
        return None
    second = _ANSWER.search(text, first.end())
    if second is None or ABOUT_MARKERS.search(pair.prompt + pair.system) or _MAKES_QUESTIONS.search(pair.prompt):
        return None
    if text.count("```", 0, first.start()) % 2 or _QUESTION.search(pair.prompt) or _ANSWER.match(text):
        return None
    return Evidence(
        f"{first[0].strip()[:40]!r} and {second[0].strip()!r} follow the answer", first.start(), second.end()
    )


_VERBS: Final = (
    "write create generate make give list name explain describe define summarize summarise translate convert "
    "compute calculate find solve implement design develop construct build compose provide suggest classify "
    "categorize identify extract compare discuss analyze analyse rewrite rephrase paraphrase edit fix debug "
    "refactor optimize optimise demonstrate show tell draft devise formulate produce outline propose recommend "
    "brainstorm sort rank modify transform perform determine schreib schreibe schreiben erstelle erstellen nenne "
    "nennen erkläre erklären beschreibe beschreiben gib geben übersetze übersetzen fasse écris écrivez crée créez "
    "donne donnez explique expliquez décris décrivez traduis traduisez nomme escribe escriba crea da explica "
    "describe traduce nombra enumera haz scrivi spiega descrivi traduci elenca escreva crie descreva traduza liste "
    "schrijf maak geef leg beschrijf vertaal noem skriv förklara beskriv napisz utwórz wyjaśnij opisz przetłumacz "
    "podaj wymień напиши напишите создай создайте объясни объясните опиши опишите переведи переведите назови "
    "назовите перечисли перечислите"
)
_POLITE: Final = "please kindly now next then also"
_REQUEST: Final = "can could would will"
_QUESTIONS: Final = "what who when where why which how"
_AFTER_QUESTION: Final = "is are was were do does did can could should would will has have many much kind type long old"
_MARKS: Final = ("?", "？", "؟")
_CONTENT: Final = re.compile(r"[^\W\d_]{4,}|\d{2,}")
# Words of tasks, not of what they are about; six letters, as words are compared by their beginning.
_COMMON: Final = (
    "that this with from have were they their there which what when will would many much then than them each more "
    "your write create function takes returns return string given input output using following python javascript "
    "code program script implement design these those about into some also only other first after before been does "
    "make like find list number name given total"
)
_VERB_SET, _POLITE_SET, _REQUEST_SET, _QUESTION_SET, _AFTER_SET = (
    frozenset(words.split()) for words in (_VERBS, _POLITE, _REQUEST, _QUESTIONS, _AFTER_QUESTION)
)
_COMMON_SET: Final = frozenset(word[:6] for word in _COMMON.split())
_PARTS: Final = 40  # lines of a prompt, and twice as many of an answer; longer ones are documents
_RULE: Final = re.compile(r"\s*[-*=_#~]{3,}\s*")
_LINE: Final = re.compile(r"[^\n]*\S[^\n]*")
_PART_ENDS: Final = re.compile(r"[\n.!?。！？]")
_SENTENCE: Final = re.compile(r"\S.*?(?:[.!?](?=\s|[A-Z][a-z])|[。！？]|$)")


def _asks(part: str) -> bool:
    """Whether a line is a question or begins as an instruction does."""
    text = part.strip()
    if text.endswith(_MARKS):
        return True
    words = text.split(None, 3)
    if len(words) < 3 or text[-1] == ":" or len(text) > 1500:
        return False
    first = words[0].strip("*_#>-•.,!\"'“").lower()
    if first in _POLITE_SET:
        words = words[1:]
        first = words[0].lower()
    second = words[1].lower()
    if first in _REQUEST_SET:
        return second == "you"
    if first in _QUESTION_SET:
        return second in _AFTER_SET
    return first in _VERB_SET and words[0][-1].isalnum() and (second[0].isalnum() or second[0] in "‘“\"'")


def _content(text: str) -> set[str]:
    return {word[:6].lower() for word in _CONTENT.findall(text)} - _COMMON_SET


def _parts(text: str) -> list[re.Match[str]]:
    """The lines of a text that are not blank; of a single line its sentences, even without a blank between them."""
    return list((_LINE if "\n" in text.strip() else _SENTENCE).finditer(text))


def _score(one: set[str], other: set[str], before: set[str], behind: set[str]) -> tuple[int, int]:
    """(the smaller number of words in place less twice those out of place, words in place) of two tasks and answers."""
    here, there = len(one & before), len(other & behind)
    return min(here, there) - 2 * (len(one & behind) + len(other & before)), here + there


def two_tasks(pair: Pair) -> Evidence | None:
    """Two prompts in one and two answers in one: the first half answers the first task alone, the second the second.

    For review, since a person may ask for two things. A later line of the prompt (sentence, where there is one line)
    must ask as one before it does, and there must be a place to part the answer such that the words which only one of
    the tasks has occur in its own part of the answer, and hardly in the other's: `score` is the smaller number of words
    in place less twice those out of place, and must be 1 or more; between two paragraphs 0 is enough where two words
    are in place. What is asked decides, in any language that is written with words. Not a defect, so not flagged: an
    input that is a text, data or code; parts of one task, which share their words. Not caught: tasks of like words, or
    with an answer of a few words.
    """
    if not pair.answer or len(pair.prompt) > LONGEST or len(pair.answer) > LONGEST:
        return None
    prompt = pair.prompt.strip()
    if not _PART_ENDS.search(prompt, 0, len(prompt) - 1):  # one part, as most are
        return None
    asked = _parts(pair.prompt)
    if not 1 < len(asked) <= _PARTS:
        return None
    asking = [_asks(part[0]) for part in asked]
    if sum(asking) < 2:
        return None
    starts = [
        at
        for at in range(1, len(asked))
        if (asking[at] or asking[at - 1]) and any(asking[at:]) and any(asking[:at]) and asked[at - 1][0][-1] != ":"
    ]
    told = _parts(pair.answer)
    if not starts or not 1 < len(told) <= 2 * _PARTS:
        return None
    said = [_content(part[0]) for part in told]
    halves = [(set().union(*said[:cut]), set().union(*said[cut:])) for cut in range(1, len(told))]
    best, found = -1, 0
    for at in starts:
        start = asked[at].start()
        first, second = _content(pair.prompt[:start]), _content(pair.prompt[start:])
        least = 0 if "\n\n" in pair.prompt[asked[at - 1].end() : start] else 1
        for before, behind in halves:
            score, placed = _score(first - second, second - first, before, behind)
            if score > best and score >= least and placed > 1:
                best, found = score, start
    if best < 0:
        return None
    return Evidence("two tasks, each with its own answer", found, len(pair.prompt), best, in_answer=False)


def task_in_answer(pair: Pair) -> Evidence | None:
    """A further task stands inside the answer with its answer behind it, and neither is about what was asked.

    For review. A line of the answer asks as prompts do; the words of the prompt occur before it and not behind, its own
    behind it and not before or in the prompt; the score as in `two_tasks`, 1 or more, or 0 where the line has a label
    or stands under a ruled line. Not a defect, so not flagged:
    questions and advice within an answer, which share its words. Not caught: a task whose answer has a few words.
    """
    text = pair.answer
    if not text or "\n" not in text or pair.kind == "text" or len(text) > LONGEST or len(pair.prompt) > LONGEST:
        return None
    told = _parts(text)
    if not 2 < len(told) <= 2 * _PARTS:
        return None
    asked: set[str] = set()
    for at in range(1, len(told) - 1):
        line = told[at][0]
        above, head = told[at - 1][0], line[:30]
        marked = any(mark in head for mark in ":：]>") and _QUESTION.match(line) is not None
        marked = marked or (not above[-1].isalnum() and _RULE.fullmatch(above) is not None)
        if not marked and not _asks(line):
            continue
        start, end = told[at].span()
        asked = asked or _content(pair.prompt)
        task, before, behind = _content(line), _content(text[:start]), _content(text[end:])
        score, placed = _score(asked, task, before, behind)
        if score - 2 * len(asked & task) >= (0 if marked else 1) and placed > 1:
            return Evidence(f"a further task: {told[at][0].strip()[:80]!r}", start, end)
    return None


LONGEST: Final = 20_000  # characters of a text that is looked at
