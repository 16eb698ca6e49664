"""The questions with options: that they are sound, and how they are scored."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers_models import decoder_of, full_adapter
from luthier.data.tokenizer import Tokenizer
from luthier.evaluate import choices
from luthier.evaluate.choices import Item, load_items, right_answers
from luthier.kernels.segments import Segments


def test_the_items_are_sound() -> None:
    items = load_items()
    assert len(items) >= 120
    assert len({item.question for item in items}) == len(items)
    for item in items:
        assert len(set(item.options)) == len(item.options) == choices.OPTIONS, item
        assert 0 <= item.answer < choices.OPTIONS
        assert item.question.strip() == item.question and item.question[-1] in "?.", item
        assert all(option and option.strip() == option for option in item.options), item
        # the words of the right answer must not stand in the question alone of all options
        named = [option.lower() in item.question.lower() for option in item.options]
        assert not (named[item.answer] and sum(named) == 1), item


def test_the_kinds_are_mixed_and_no_place_is_favoured() -> None:
    items = load_items()
    kinds = Counter(item.kind for item in items)
    assert kinds.keys() == {"knowledge", "reasoning", "language"} and min(kinds.values()) >= 30
    places = Counter(item.answer for item in items)
    assert max(places.values()) - min(places.values()) <= 4


@pytest.fixture(scope="module")
def two(chat_model: Path) -> tuple:
    decoder = decoder_of(chat_model)
    return decoder, Tokenizer(chat_model), full_adapter(decoder)


ITEMS = [
    Item("knowledge", "What is a lute?", ("an instrument", "a colour", "a", "Hello again"), 0),
    Item("reasoning", "Who builds a violin?", ("blue", "A luthier builds the violin.", "nobody"), 1),
    Item("language", "Say hello.", ("Hello!", "again", "instrument", "The harp"), 3),
]


@pytest.mark.parametrize("adapted", [False, True])
def test_scores_are_mean_log_probabilities_of_the_options_tokens(two: tuple, adapted: bool) -> None:
    decoder, tokenizer, adapter = two
    adapter = adapter if adapted else None
    best = []
    for item in ITEMS:
        prompt = tokenizer.encode(f"Question: {item.question}\nAnswer:")
        scores = []
        for option in item.options:
            ids = torch.tensor(prompt + tokenizer.encode(f" {option}"))
            with torch.no_grad():
                logits = decoder.logits(decoder.hidden(ids, Segments.of([len(ids)]), adapter), adapter)
            logps = torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), ids[1:]]
            scores.append(logps[len(prompt) - 1 :].mean().item())
        best.append(int(np.argmax(scores)))
    for place in range(3):
        asked = [Item(i.kind, i.question, i.options, place) for i in ITEMS]
        right = right_answers(decoder, tokenizer, asked, adapter=adapter, micro_batch_tokens=512)
        assert right.tolist() == [place == found for found in best]


def test_how_items_are_packed_changes_nothing(two: tuple) -> None:
    decoder, tokenizer, adapter = two
    few = load_items()[::12]
    made = [
        right_answers(decoder, tokenizer, few, adapter=adapter, micro_batch_tokens=micro) for micro in (1, 200, 4096)
    ]
    assert all((other == made[0]).all() for other in made[1:])


def test_options_of_an_item_stay_together(two: tuple) -> None:
    _, tokenizer, _ = two
    rows = [choices._rows(tokenizer, item) for item in ITEMS]
    batches = choices._batches(rows, 60)
    assert len(batches) > 1 and [row for batch in batches for row in batch] == [row for one in rows for row in one]
    assert sorted(len(batch) for batch in batches) != [1] * 11
    starts = np.cumsum([0, *(len(batch) for batch in batches)]).tolist()
    assert set(starts) <= {0, 4, 7, 11}
