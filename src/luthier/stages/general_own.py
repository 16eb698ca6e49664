"""General texts that the base writes itself, where the user gives none: offline, once, from fixed seeds.

What a model says when it is asked for nothing in particular is a sample of what it knows, and replaying it keeps that.
An instruct model is shown its own template up to where a user speaks, and goes on: that gives prompts, which it then
answers (Z. Xu et al., "Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing",
arXiv:2406.08464). A model without a template goes on from an empty text.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from luthier.core.errors import DataError
from luthier.core.seeds import stream_seed
from luthier.data.records import Message, Record
from luthier.data.render import Renderer
from luthier.models.decoder import Decoder
from luthier.models.generate import Answer, generate_batch
from luthier.models.sampling import Sampling
from luthier.stages.prepare import Say

VERSION = 2  # raise it when the same base writes other texts, or they are divided in another way
WANTED = 128
PROMPT_TOKENS, ANSWER_TOKENS = 24, 64
SPARE = 1.25  # texts that are asked for, for each that is wanted
ROUNDS = 3
MOST_REPEATED = 0.3  # of a text's runs of four tokens
_PROMPTS = Sampling(temperature=1.0, top_p=0.95)
_ANSWERS = Sampling(temperature=0.7, top_p=0.95)
_MARK = "qzxjqwvk"  # stands for a user's words; no template writes it

EMPTY, BROKEN, REPEATS, AGAIN = "empty", "broken characters", "repeats itself", "the same prompt again"


def own_texts(
    decoder: Decoder, renderer: Renderer, *, wanted: int = WANTED, say: Say | None = None
) -> tuple[list[Record], Counter[str]]:
    """Up to `wanted` records that the base wrote, and why others were left out.

    A record whose text was cut at its longest has "cut" in its meta: its last token is no end.

    Args:
        say: receives what is being written, texts done, texts in all.
    """
    opening = _opening(renderer)
    records: dict[str, Record] = {}
    dropped: Counter[str] = Counter()
    for number in range(ROUNDS):
        missing = wanted - len(records)
        if missing <= 0:
            break
        count = round(missing * SPARE) + 8
        write = _plain if opening is None else _talks
        for prompt, record in write(decoder, renderer, opening or [], count, number, dropped, say):
            if prompt in records:
                dropped[AGAIN] += 1
            elif len(records) < wanted:
                records[prompt] = record
    return list(records.values()), dropped


def _opening(renderer: Renderer) -> list[int] | None:
    """Ids of the template up to a user's first word; None without a template that takes one user turn."""
    if renderer.template is None:
        return None
    try:
        text = renderer.template.render([{"role": "user", "content": _MARK}], True)
    except DataError:
        return None
    before, mark, _ = text.partition(_MARK)
    return renderer.tokenizer.encode_rendered(before.rstrip(" ")) or None if mark else None


def _talks(
    decoder: Decoder,
    renderer: Renderer,
    opening: list[int],
    count: int,
    number: int,
    dropped: Counter[str],
    say: Say | None,
) -> list[tuple[str, Record]]:
    asked = _written(decoder, renderer, [opening] * count, PROMPT_TOKENS, _PROMPTS, ("prompt", number), say)
    prompts = [answer.text.strip() for answer in asked if _usable(answer, dropped)]
    prompts = list(dict.fromkeys(prompts))
    dropped[AGAIN] += sum(_fault(answer) == "" for answer in asked) - len(prompts)
    rendered: list[tuple[str, list[int]]] = []
    for prompt in prompts:
        try:
            rendered.append((prompt, renderer.render_prompt([Message("user", prompt)])))
        except DataError as error:
            dropped[error.what] += 1
    answers = _written(
        decoder, renderer, [ids for _, ids in rendered], ANSWER_TOKENS, _ANSWERS, ("answer", number), say
    )
    return [
        (prompt, Record((Message("user", prompt), Message("assistant", answer.text.strip())), meta=_meta(answer)))
        for (prompt, _), answer in zip(rendered, answers, strict=True)
        if _usable(answer, dropped)
    ]


def _plain(
    decoder: Decoder,
    renderer: Renderer,
    opening: list[int],
    count: int,
    number: int,
    dropped: Counter[str],
    say: Say | None,
) -> list[tuple[str, Record]]:
    tokenizer = renderer.tokenizer
    start = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    texts = _written(decoder, renderer, [[start]] * count, ANSWER_TOKENS, _PROMPTS, ("text", number), say)
    return [
        (text.text.strip(), Record(text=text.text.strip(), meta=_meta(text)))
        for text in texts
        if _usable(text, dropped)
    ]


def _written(
    decoder: Decoder,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    most: int,
    sampling: Sampling,
    name: tuple[str, int],
    say: Say | None,
) -> list[Answer]:
    """What the base goes on with. It stops at any special token: the next role's mark is no part of a text."""
    if not prompts:
        return []
    tokenizer = renderer.tokenizer
    return generate_batch(
        decoder,
        prompts,
        decode=tokenizer.decode,
        stop_ids=renderer.stop_ids() | frozenset(tokenizer.special_ids.values()),
        max_new_tokens=most,
        sampling=sampling,
        seeds=[stream_seed(0, "general", *name, place) for place in range(len(prompts))],
        progress=None if say is None else lambda done, total: say(f"the base writes {name[0]}s", done, total),
    )


def _meta(answer: Answer) -> dict[str, bool]:
    return {} if answer.complete else {"cut": True}


def _usable(answer: Answer, dropped: Counter[str]) -> bool:
    fault = _fault(answer)
    if fault:
        dropped[fault] += 1
    return not fault


def _fault(answer: Answer) -> str:
    """Why a text cannot be used, or ""."""
    if not answer.text.strip():
        return EMPTY
    if "\ufffd" in answer.text:
        return BROKEN
    return REPEATS if repeated_share(answer.tokens) > MOST_REPEATED else ""


def repeated_share(tokens: Sequence[int]) -> float:
    """Share of the runs of four tokens that occurred before in the same text; 0 for fewer than eight tokens."""
    if len(tokens) < 8:
        return 0.0
    runs = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), 4)
    return 1 - len(np.unique(runs, axis=0)) / len(runs)
