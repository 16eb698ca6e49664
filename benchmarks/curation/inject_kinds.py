"""What each injected defect does to a row. Every function draws from the given `Random` alone."""

import re
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import inject_private
from inject_text import (
    ACCENTED,
    CONTRACTIONS,
    OPENINGS,
    PERSONAL_CODE,
    PERSONAL_PROSE,
    PERSONAL_UNNAMED,
    SECRET_CODE,
    SECRET_PROSE,
    SYNONYMS,
    UNNAMED,
    Tables,
)

WORD: Final = re.compile(r"\w+")
PLAIN: Final = re.compile(
    r"[^\W\d_]{2,}"
)  # what edits replace: no numbers, for a row with other numbers is another row
SENTENCE: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
NUMBER: Final = re.compile(r"(?<![\w.])\d+(?![\w.]*\w)")
ASKS_FOR_ONE: Final = re.compile(
    r"translat|language|german|french|spanish|dutch|russian|italian|portuguese|polish|swedish|chinese", re.IGNORECASE
)
CODE_DOMAINS: Final = ("code", "human_eval")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a pool. `key` is its name in this benchmark; the pipeline never sees it."""

    key: str
    domain: str
    prompt: str
    answer: str
    category: str = ""

    @property
    def words(self) -> int:
        """Words in prompt and answer together."""
        return len(WORD.findall(self.prompt)) + len(WORD.findall(self.answer))


@dataclass(frozen=True, slots=True)
class Made:
    """A damaged row. `variant` says which way; `values` are texts that must be gone from it afterwards."""

    row: Row
    variant: str = ""
    values: tuple[str, ...] = ()


def edit_words(row: Row, share: float, vocabulary: list[str], random: Random) -> Made | None:
    """Replace `share` of the row's words by other words of the pool; numbers stay as they are.

    None when the share is less than one word, or the row has fewer plain words than that.
    """
    number = round(share * row.words)
    places = [(field, match) for field in ("prompt", "answer") for match in PLAIN.finditer(getattr(row, field))]
    if share * row.words < 1 or len(places) < number:
        return None
    texts = {"prompt": row.prompt, "answer": row.answer}
    chosen = sorted(random.sample(range(len(places)), number), reverse=True)
    for index in chosen:  # from the end, so that earlier places stay right
        field, match = places[index]
        word = random.choice(vocabulary)
        while word.lower() == match.group().lower():
            word = random.choice(vocabulary)
        texts[field] = texts[field][: match.start()] + word + texts[field][match.end() :]
    return Made(replace(row, **texts), f"{100 * share:g} %")


def paraphrase(row: Row, random: Random) -> Made | None:
    """The same in other words, as far as tables reach: contractions, synonyms, two sentences swapped, an opening.

    This is a weak paraphrase: most words stay. A model's paraphrase would be harder to see.
    """
    answer, prompt = row.answer, row.prompt
    sentences = SENTENCE.split(answer)
    if len(sentences) > 2 and "\n" not in answer and row.domain not in CODE_DOMAINS:
        at = random.randrange(1, len(sentences) - 1)
        sentences[at], sentences[at + 1] = sentences[at + 1], sentences[at]
        answer = " ".join(sentences)
    for one, other in (*CONTRACTIONS, *SYNONYMS):
        old, new = (one, other) if random.random() < 0.5 else (other, one)
        prompt = re.sub(rf"\b{re.escape(old)}\b", new, prompt)
        if row.domain not in CODE_DOMAINS:
            answer = re.sub(rf"\b{re.escape(old)}\b", new, answer)
    if row.domain != "human_eval":
        prompt = random.choice(OPENINGS).format(prompt)
    return Made(replace(row, prompt=prompt, answer=answer)) if (prompt, answer) != (row.prompt, row.answer) else None


def truncate(row: Row, random: Random) -> Made | None:
    """Cut the answer after a random word in its middle 80 %; before a full stop, only the missing stop can show it."""
    words = list(WORD.finditer(row.answer))
    if len(words) < 10:
        return None
    cut = words[random.randint(len(words) // 10, len(words) * 9 // 10)].end()
    following = row.answer[cut : cut + 1]
    return Made(
        replace(row, answer=row.answer[:cut]),
        "end of sentence" if following and following in ".!?" else "inside a sentence",
    )


def swap(one: Row, other: Row) -> tuple[Made, Made]:
    """Each row gets the other's answer."""
    return Made(replace(one, answer=other.answer)), Made(replace(other, answer=one.answer))


def sloppy(data: bytes) -> str:
    """Bytes read as windows-1252, with the five that it leaves open read as latin-1, as browsers do."""
    return "".join(
        bytes([byte]).decode("latin-1" if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else "cp1252") for byte in data
    )


def mojibake(row: Row, random: Random) -> tuple[Row, Made]:
    """(the row as it should be, the row as it came): UTF-8 read as latin-1, as windows-1252, or twice as the latter."""
    clean = row
    if row.answer.isascii():
        mark = "# " if row.domain in CODE_DOMAINS else ""
        clean = replace(row, answer=f"{row.answer}\n{mark}{random.choice(ACCENTED)}")
    variant = random.choice(("latin-1", "cp1252", "cp1252 twice"))
    answer = clean.answer
    if variant == "latin-1":
        answer = answer.encode().decode("latin-1")
    for _ in range({"latin-1": 0, "cp1252": 1, "cp1252 twice": 2}[variant]):
        answer = sloppy(answer.encode())
    return clean, Made(replace(clean, answer=answer), variant)


def merge(row: Row, other: Row, random: Random, tables: Tables) -> Made:
    """Two rows that ran into one."""
    variant = random.choice(tuple(tables.merges))
    fields = {
        "prompt": row.prompt,
        "answer": row.answer,
        "other_prompt": other.prompt,
        "other_answer": other.answer,
        "number": random.randint(2, 19),
    }
    answer, prompt = tables.merges[variant]
    return Made(replace(row, prompt=(prompt or "{prompt}").format(**fields), answer=answer.format(**fields)), variant)


def refuse(row: Row, random: Random, tables: Tables) -> Made:
    """The answer is a refusal."""
    start = " ".join(row.prompt.split()[:6])
    return Made(replace(row, answer=random.choice(tables.refusals).format(start)))


def wrong_number(row: Row, random: Random) -> Made | None:
    """The last whole number of the answer is another one with as many digits."""
    found = list(NUMBER.finditer(row.answer))
    if not found:
        return None
    last = found[-1]
    value = last.group()
    while value == last.group():
        value = inject_private.digits(random, len(value))
    return Made(replace(row, answer=row.answer[: last.start()] + value + row.answer[last.end() :]))


def personal(row: Row, random: Random) -> Made:
    """A sentence with someone's data, in the answer or before the prompt; in code it is a comment."""
    sort = random.choice(tuple(inject_private.PERSONAL))
    value = inject_private.PERSONAL[sort](random)
    named = random.random() >= UNNAMED
    text = random.choice(PERSONAL_PROSE[sort] if named else PERSONAL_UNNAMED).format(value)
    variant = sort if named else f"{sort}, no word for it"
    if row.domain in CODE_DOMAINS:
        text = random.choice(PERSONAL_CODE).format(text)
    elif random.random() < 0.5:
        return Made(replace(row, prompt=f"{text} {row.prompt}"), variant, (value,))
    return Made(replace(row, answer=f"{row.answer}\n{text}"), variant, (value,))


def secret(row: Row, random: Random) -> Made:
    """A key of a service in the answer, as an assignment or in a sentence."""
    sort = random.choice(tuple(inject_private.SECRETS))
    name, make = inject_private.SECRETS[sort]
    value = make(random)
    lines = SECRET_CODE if row.domain in CODE_DOMAINS else SECRET_PROSE
    text = random.choice(lines).format(name=name, value=value)
    return Made(replace(row, answer=f"{text}\n{row.answer}"), sort, (value,))


def prompt_leak(row: Row, other: Row, random: Random, tables: Tables) -> Made:
    """Marks of a prompt format before the answer, or after it with the start of another conversation."""
    variant = random.choice((*tables.leaks_after, *tables.leaks_before))
    if variant in tables.leaks_after:
        answer = row.answer + tables.leaks_after[variant].format(prompt=other.prompt, answer=other.answer)
    else:
        answer = tables.leaks_before[variant].format(own=row.prompt) + row.answer
    return Made(replace(row, answer=answer), variant)


def wrong_language(row: Row, random: Random, tables: Tables) -> Made | None:
    """The answer is some sentences in another language; None where the prompt may be asking for one."""
    if re.search(
        r"translat|language|german|french|spanish|dutch|russian|italian|portuguese|polish|swedish|chinese",
        row.prompt,
        re.IGNORECASE,
    ):
        return None
    variant = random.choice(tuple(tables.languages))
    return Made(replace(row, answer=" ".join(random.sample(tables.languages[variant], random.randint(2, 5)))), variant)


def leak_copy(row: Row, vocabulary: list[str], random: Random) -> Made | None:
    """A copy for the training pool of a row that is held out: as it is, its prompt alone, wrapped, or edited."""
    variant = random.choice(("exact", "exact", "same prompt", "wrapped", "edited 10 %"))
    match variant:
        case "exact":
            return Made(row, variant)
        case "same prompt":
            return Made(replace(row, answer=f"Here is my solution.\n\n{row.answer}"), variant)
        case "wrapped":
            return Made(replace(row, prompt=f"Solve this task.\n\n{row.prompt}\n\nThink step by step."), variant)
    made = edit_words(row, 0.1, vocabulary, random)
    return made and Made(made.row, variant)
