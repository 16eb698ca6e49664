"""An answer is what it would be alone: whatever others are answered beside it, and whenever those end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_models import KINDS, decoder_of, full_adapter, make_twin
from helpers_numerics import assert_same, randn
from luthier.kernels.segments import Segments
from luthier.models import cache as cache_file
from luthier.models.decoder import Decoder
from luthier.models.generate import Conversations, Sampling, generate, generate_batch
from luthier.models.lora import Adapter

NO_STOPS: frozenset[int] = frozenset()
WINDOWS = {"mistral": {"sliding_window": 9}, "qwen2": {"use_sliding_window": True, "sliding_window": 7,
           "max_window_layers": 1}}  # fmt: skip


def letters(tokens: Sequence[int]) -> str:
    return "".join(chr(0x100 + token) for token in tokens)


def prompts_of(*lengths: int, seed: int = 3) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 160, (length,), generator=generator).tolist() for length in lengths]


def both(decoder: Decoder, prompts: list[list[int]], **more: Any) -> tuple[list[list[int]], list[list[int]]]:
    """The answers in one batch, and each alone."""
    together = generate_batch(decoder, prompts, decode=letters, **more)
    assert [answer.text for answer in together] == [letters(answer.tokens) for answer in together]
    return [answer.tokens for answer in together], [list(generate(decoder, prompt, **more)) for prompt in prompts]


@pytest.fixture(scope="module", params=[*KINDS, "windows of mistral", "windows of qwen2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = tmp_path_factory.mktemp("model")
    kind = request.param.rpartition(" ")[2]
    make_twin(folder, kind, **(WINDOWS[kind] if "windows" in request.param else {}))
    return decoder_of(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = tmp_path_factory.mktemp("llama")
    make_twin(folder, "llama", max_position_embeddings=64)
    return decoder_of(folder)


def test_a_batch_is_each_alone(decoder: Decoder) -> None:
    prompts = prompts_of(5, 1, 33, 12, 2)
    free = [list(generate(decoder, prompt, stop_ids=NO_STOPS, max_new_tokens=24)) for prompt in prompts]
    stop_ids = frozenset(tokens[2 + 4 * i] for i, tokens in enumerate(free[:4]))
    together, alone = both(decoder, prompts, stop_ids=stop_ids, max_new_tokens=24)
    assert together == alone
    assert len({len(tokens) for tokens in alone}) > 1, "they should leave at different times"


def test_a_batch_is_each_alone_with_an_adapter(decoder: Decoder) -> None:
    prompts, adapter = prompts_of(5, 9, 1), full_adapter(decoder)
    together, alone = both(decoder, prompts, stop_ids=NO_STOPS, max_new_tokens=12, adapter=adapter)
    assert together == alone
    assert together != both(decoder, prompts, stop_ids=NO_STOPS, max_new_tokens=12)[0]


@pytest.mark.parametrize("kind", [{}, {"dora": True}, {"targets": ["k_proj", "up_proj", "lm_head", "embed_tokens"]}])
def test_every_step_has_the_logits_of_the_whole_stream(
    decoder: Decoder, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only the likeliest token: all logits of a batch, through leavers, against the forward without a cache."""
    prompts, adapter = prompts_of(5, 1, 33, 12), full_adapter(decoder, **kind)
    if kind.get("dora"):
        with torch.no_grad():
            for pair in (pair for pairs in adapter.layers for pair in pairs.values()):
                for magnitude in pair.magnitudes:
                    magnitude.copy_(torch.linspace(0.5, 1.5, len(magnitude)))
    talk = Conversations(decoder, prompts, max_new_tokens=20, adapter=adapter)
    for table in (adapter.head, adapter.embedding):
        if table is not None:
            for matrix in (table.a, table.b):
                matrix.detach().copy_(randn(*matrix.shape) * 0.1)
    whole, seen = [list(prompt) for prompt in prompts], []
    given, logits_of = [], Decoder.logits

    def watched(self: Decoder, hidden: torch.Tensor, adapter: Adapter | None) -> torch.Tensor:
        seen.append(logits_of(self, hidden, adapter))
        return seen[-1]

    monkeypatch.setattr(Decoder, "logits", watched)
    for step in range(20):
        going = list(talk.going)
        made = talk.step()
        for row, which in enumerate(going):
            segments = Segments.of([len(whole[which])])
            with torch.no_grad():
                hidden = decoder.hidden(torch.tensor(whole[which]), segments, adapter)
                truth = logits_of(decoder, hidden[-1:], adapter)
            assert_same(seen[-1][row : row + 1], truth, tolerance=2e-5)
        for which, token in made:
            whole[which].append(token)
        given.append(len(made))
        if step in (3, 7):
            talk.leave(2 if step == 3 else 0)
    assert given == [4] * 4 + [3] * 4 + [2] * 12


def test_what_all_begin_with_is_computed_once(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    common, *rests = prompts_of(20, 4, 1, 7)
    prompts, streams = [*(common + rest for rest in rests), common], []
    hidden = Decoder.hidden

    def watched(self: Decoder, tokens: torch.Tensor, *others: Any, **more: Any) -> torch.Tensor:
        streams.append(len(tokens))
        return hidden(self, tokens, *others, **more)

    monkeypatch.setattr(Decoder, "hidden", watched)
    together, alone = both(decoder, prompts, stop_ids=NO_STOPS, max_new_tokens=9)
    assert together == alone
    # The prompt that is nothing but the common beginning keeps its last token for itself.
    assert streams[0] == 19 + (5 + 2 + 8 + 1)


def test_the_same_prompt_twice(llama: Decoder) -> None:
    (prompt,) = prompts_of(11)
    together, alone = both(llama, [prompt, prompt, prompt], stop_ids=NO_STOPS, max_new_tokens=9)
    assert together == alone and together[0] == together[1] == together[2]


def test_drawn_answers_have_a_stream_each(llama: Decoder) -> None:
    prompts = prompts_of(5, 8, 5, 20)
    sampling, seeds = Sampling(1.5, 0.9, 0), [4, 5, 4, 7]
    together = generate_batch(
        llama, prompts, decode=letters, stop_ids=frozenset([7, 9]), max_new_tokens=30, sampling=sampling, seeds=seeds
    )
    for answer, prompt, seed in zip(together, prompts, seeds, strict=True):
        own = Sampling(1.5, 0.9, seed)
        alone = generate(llama, prompt, stop_ids=frozenset([7, 9]), max_new_tokens=30, sampling=own)
        assert answer.tokens == list(alone)
    again = generate_batch(
        llama, [prompts[0]] * 3, decode=letters, stop_ids=NO_STOPS, max_new_tokens=9, sampling=sampling, seeds=[1, 2, 1]
    )
    assert again[0] == again[2] != again[1]


def test_the_cache_grows_without_a_seam(llama: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(5, 1, 17)
    calm, _ = both(llama, prompts, stop_ids=frozenset(range(9)), max_new_tokens=40)
    monkeypatch.setattr(cache_file, "GROWTH", 1)
    together, alone = both(llama, prompts, stop_ids=frozenset(range(9)), max_new_tokens=40)
    assert together == alone == calm


def test_the_cache_has_room_for_what_is_there(llama: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_file, "GROWTH", 8)
    talk = Conversations(llama, prompts_of(4), max_new_tokens=50)
    columns = []
    for _ in range(50):
        talk.step()
        columns.append(talk._cache._layers[0].shape[3])
    assert columns[0] == 16 and columns == sorted(columns) and columns[-1] == 56 and len(set(columns)) > 3


def test_few_at_a_time_give_the_same(llama: Decoder) -> None:
    prompts, finished = prompts_of(5, 1, 17, 9, 30), []
    wide = both(llama, prompts, stop_ids=NO_STOPS, max_new_tokens=6)[0]
    spec = llama.spec
    conversation = spec.num_layers * 2 * spec.qkv_sizes[1] * 4 * 30
    answers = generate_batch(
        llama, prompts, decode=letters, stop_ids=NO_STOPS, max_new_tokens=6, cache_bytes=2 * conversation,
        progress=lambda done, total: finished.append((done, total)),
    )  # fmt: skip
    assert [answer.tokens for answer in answers] == wide
    assert finished == sorted(finished) and finished[-1] == (5, 5)


def test_prompts_at_the_position_limit(llama: Decoder) -> None:
    """The model has 64 positions: what does not fit is cut, and what has no room gets nothing."""
    prompts = prompts_of(64, 63, 3, 60, 70)
    answers = generate_batch(llama, prompts, decode=letters, stop_ids=NO_STOPS, max_new_tokens=10)
    assert [len(answer.tokens) for answer in answers] == [0, 1, 10, 4, 0]
    assert not any(answer.complete for answer in answers)
    alone = [list(generate(llama, prompt, stop_ids=NO_STOPS, max_new_tokens=10)) for prompt in prompts]
    assert [answer.tokens for answer in answers] == alone


@pytest.mark.parametrize("number", [0, 1])
def test_no_token_or_one(llama: Decoder, number: int) -> None:
    together, alone = both(llama, prompts_of(4, 2), stop_ids=NO_STOPS, max_new_tokens=number)
    assert together == alone and [len(tokens) for tokens in together] == [number, number]


def test_no_prompts(llama: Decoder) -> None:
    assert generate_batch(llama, [], decode=letters, stop_ids=NO_STOPS, max_new_tokens=5) == []


def test_all_end_at_once(llama: Decoder) -> None:
    answers = generate_batch(
        llama, prompts_of(4, 2, 8), decode=letters, stop_ids=frozenset(range(160)), max_new_tokens=5
    )
    assert [(answer.tokens, answer.text, answer.complete) for answer in answers] == [([], "", True)] * 3


def test_stop_strings_in_a_batch(llama: Decoder) -> None:
    prompts = prompts_of(6, 3, 10)
    free = generate_batch(llama, prompts, decode=letters, stop_ids=NO_STOPS, max_new_tokens=20)
    stop = free[0].text[6:8]  # across a token border
    held = generate_batch(llama, prompts, decode=letters, stop_ids=NO_STOPS, stops=[stop], max_new_tokens=20)
    for answer, whole in zip(held, free, strict=True):
        place = whole.text.find(stop)
        assert answer.complete == (place >= 0)
        assert answer.text == (whole.text if place < 0 else whole.text[:place])
        assert answer.tokens == (whole.tokens if place < 0 else whole.tokens[: place + 2])
    assert held[0].complete and not all(answer.complete for answer in held)


def test_bf16_batches_answer(tmp_path: Path) -> None:
    """In bf16 sums of other products may round otherwise, so here only the first step's logits are compared."""
    make_twin(tmp_path, "llama")
    decoder = decoder_of(tmp_path, torch.bfloat16)
    prompts, rows = prompts_of(5, 1, 33), []
    logits_of = decoder.logits
    decoder.logits = lambda hidden, _: rows.append(logits_of(hidden)) or rows[-1]  # type: ignore[method-assign]
    talk = Conversations(decoder, prompts, max_new_tokens=3)
    for _ in range(3):
        assert len(talk.step()) == 3
    for which, prompt in enumerate(prompts):
        Conversations(decoder, [prompt], max_new_tokens=1).step()
        assert_same(rows[0][which : which + 1], rows[-1][:1], tolerance=2e-2)
