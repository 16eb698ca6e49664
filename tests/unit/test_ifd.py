"""Instruction-following difficulty: the same as worked out row by row, whatever shares a forward pass."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers_models import decoder_of, full_adapter
from luthier.curate.difficulty import DIFFICULTY, UNHELPED, difficulty_entries, record_to_score
from luthier.curate.example import Example
from luthier.data.records import Message, Record
from luthier.data.render import Renderer
from luthier.evaluate.ifd import NO_PROMPT, TOO_LONG, answers_alone, difficulty
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.stages.prepare import open_renderer

ASKED = (Message("user", "What is a lute?"), Message("assistant", "A lute is an instrument with strings."))
TALK = (*ASKED, Message("user", "Who builds it?"), Message("assistant", "A luthier builds the lute."))
SYSTEM = (Message("system", "Be brief."), *ASKED)


@pytest.fixture(scope="module")
def decoder(chat_model: Path) -> Decoder:
    return decoder_of(chat_model)


@pytest.fixture(scope="module")
def renderer(chat_model: Path) -> Iterator[Renderer]:
    made = open_renderer(chat_model, None, today=date(2026, 1, 1))
    yield made
    made.template.close()


def mean_loss(decoder: Decoder, prompt: list[int], answer: list[int]) -> float:
    """Mean loss of `answer` after `prompt`, from the logits of one sequence by itself."""
    ids = torch.tensor([*prompt, *answer])
    with torch.no_grad():
        logits = decoder.logits(decoder.hidden(ids, Segments.of([len(ids)])))
    logprobs = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
    return -float(logprobs[torch.arange(len(answer)), ids[len(prompt) :]].mean())


def test_the_ratio_of_two_perplexities_of_the_same_tokens(decoder: Decoder, renderer: Renderer) -> None:
    records = [Record(SYSTEM), Record(ASKED)]
    made = difficulty(records, decoder, renderer, micro_batch_tokens=4096)
    nobody = renderer.render_prompt([Message("user", "")])
    assert renderer.tokenizer.decode(nobody, skip_special=False).endswith("<|im_start|>assistant\n")
    for index, record in enumerate(records):
        (row,) = renderer.render(record)
        first = int(row.mask.argmax())
        answer = row.ids[row.mask].tolist()
        given = mean_loss(decoder, row.ids[:first].tolist(), answer)
        alone = mean_loss(decoder, nobody, answer)
        assert made.tokens[index] == len(answer)
        assert made.given[index] == pytest.approx(given, abs=1e-4)
        assert made.alone[index] == pytest.approx(alone, abs=1e-4)
        assert made.ifd[index] == pytest.approx(np.exp(given) / np.exp(alone), rel=1e-3)
        assert abs(given - alone) > 1e-3  # so that mixing them up would be seen


def test_every_answer_of_a_conversation_is_measured_alone(decoder: Decoder, renderer: Renderer) -> None:
    (row,) = renderer.render(Record(TALK))
    nobody = np.array(renderer.render_prompt([Message("user", "")]), np.int32)
    alone = answers_alone(row, nobody)
    shown = [renderer.tokenizer.decode(part.ids[part.mask], skip_special=False).strip() for part in alone]
    assert shown == [f"{TALK[1].content}<|im_end|>", f"{TALK[3].content}<|im_end|>"]
    assert all((part.ids[: len(nobody)] == nobody).all() and not part.mask[: len(nobody)].any() for part in alone)
    made = difficulty([Record(TALK)], decoder, renderer, micro_batch_tokens=4096)
    losses = [mean_loss(decoder, nobody.tolist(), part.ids[part.mask].tolist()) * part.mask.sum() for part in alone]
    assert made.alone[0] == pytest.approx(sum(losses) / row.mask.sum(), abs=1e-4)


def test_micro_batches_do_not_matter(decoder: Decoder, renderer: Renderer) -> None:
    records = [Record(TALK), Record(ASKED), Record(SYSTEM)] * 3
    seen: list[tuple[int, int]] = []
    told: list[tuple[int, int]] = []
    small = difficulty(records, decoder, renderer, micro_batch_tokens=64, progress=lambda *at: seen.append(at))
    large = difficulty(records, decoder, renderer, micro_batch_tokens=8192, expect=lambda *work: told.append(work))
    assert small.ifd == pytest.approx(large.ifd, rel=1e-4)
    assert small.ifd[0] == pytest.approx(small.ifd[3], rel=1e-4)
    assert seen[-1] == (21, 21) and len(seen) > 1
    nobody = len(renderer.render_prompt([Message("user", "")]))
    whole = sum(len(row.ids) for record in records for row in renderer.render(record))
    answers = int(large.tokens.sum())
    assert told == [
        (whole + 12 * nobody + answers, 2 * answers)
    ]  # 12 answers, each a second time after nobody's prompt


def test_what_cannot_be_measured_is_counted(decoder: Decoder, renderer: Renderer) -> None:
    long = Record((Message("user", "Go on. " * 400), Message("assistant", "No.")))
    silent = Record((Message("user", "Hello"),))
    made = difficulty([Record(text="plain"), long, silent, Record(ASKED)], decoder, renderer, micro_batch_tokens=4096)
    assert np.isnan(made.ifd[:3]).all() and np.isfinite(made.ifd[3])
    assert made.tokens[:3].tolist() == [0, 0, 0]
    assert made.skipped[NO_PROMPT] == 1 and made.skipped[TOO_LONG] == 1 and made.skipped.total() == 3
    nothing = difficulty([Record(text="plain")], decoder, renderer, micro_batch_tokens=4096)
    assert np.isnan(nothing.ifd).all()


def test_an_adapted_model_gives_another_difficulty(decoder: Decoder, renderer: Renderer) -> None:
    base = difficulty([Record(ASKED)], decoder, renderer, micro_batch_tokens=4096)
    adapter = full_adapter(decoder)
    adapted = difficulty([Record(ASKED)], decoder, renderer, adapter=adapter, micro_batch_tokens=4096)
    assert abs(base.given[0] - adapted.given[0]) > 1e-3


def test_what_is_scored_of_each_kind() -> None:
    def of(record: Record) -> Record | None:
        return record_to_score(Example("1", record))

    liked = Record(ASKED[:1], chosen=ASKED[1:], rejected=(Message("assistant", "No."),))
    assert of(liked).messages == ASKED and not of(liked).chosen
    assert of(Record(ASKED)).messages == ASKED
    assert of(Record(ASKED, label=True)) is not None and of(Record(ASKED, label=False)) is None
    assert of(Record(text="plain")) is None


def test_scores_are_recorded_and_unhelped_answers_flagged() -> None:
    entries = difficulty_entries(["a", "b", "c"], [0.4, 1.0, None], [20, 3, 0])
    assert [(entry.record, entry.action, entry.reason, entry.score) for entry in entries] == [
        ("a", "score", DIFFICULTY, 0.4),
        ("b", "score", DIFFICULTY, 1.0),
        ("b", "flag", UNHELPED, 1.0),
    ]
