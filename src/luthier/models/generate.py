"""Answers: all prompts through the flat stream once, then a token a step for every conversation that goes on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from random import Random

import torch
import torch.nn.functional as F

from luthier.core.seeds import stream_seed
from luthier.kernels.segments import Segments
from luthier.models.answer_text import AnswerText, Decode
from luthier.models.answering import put_together
from luthier.models.cache import Cache
from luthier.models.decoder import CPU_ROWS, Decoder
from luthier.models.fallback import FallbackDecoder
from luthier.models.fallback_cache import FallbackCache
from luthier.models.fallback_spec import AnySpec
from luthier.models.lora import Adapter
from luthier.models.sampling import Sampling as Sampling
from luthier.models.sampling import choose

CACHE_BYTES = 2**30  # of keys and values held at once by `generate_batch`, unless one conversation needs more
MIN_SHARED = 8  # tokens; a shorter common beginning is not worth a segment of its own


@dataclass(frozen=True)
class Answer:
    """tokens: without the stop token. complete: it ended by itself, and was not cut."""

    tokens: list[int]
    text: str
    complete: bool


class Conversations:
    """Conversations that are answered together.

    Each token is computed from its own conversation alone, with its own position and its own random stream. What the
    others change is the number of rows of a product, and with it at most the order in which a product sums: the same
    answer to the bit where sums come out the same, else logits that differ in their last bits (float32: about 1e-6 of
    the largest; bf16: about 1e-2), which shows where two tokens are that nearly equally likely.

    Attributes:
        going: of each conversation that goes on, its number among the prompts.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        adapter: Adapter | None = None,
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Nothing is computed yet; arguments as in `generate_batch`."""
        self._decoder, self._adapter = (decoder, None) if adapter is None else put_together(decoder, adapter)
        self._sampling = sampling or Sampling()
        self._prompts, self._limit = [list(prompt) for prompt in prompts], max(map(len, prompts)) + max_new_tokens
        seeds = [self._sampling.seed] * len(prompts) if seeds is None else seeds
        self._randoms = [Random(stream_seed(seed, "generate")) for seed in seeds]
        self._cache: Cache | FallbackCache | None = None
        self._segments: Segments | None = None  # of one token each
        self._newest: list[int] = []  # of each conversation that goes on, its newest token
        self.going = list(range(len(prompts)))

    @torch.no_grad()
    def step(self) -> list[tuple[int, int]]:
        """The next token of every conversation that goes on, as (conversation, token)."""
        hidden = self._begin() if self._cache is None else self._go_on()
        logits = self._decoder.logits(hidden, self._adapter)[: len(self.going)]
        greedy = self._sampling.temperature == 0
        draws = [] if greedy else [self._randoms[which].random() for which in self.going]
        self._newest = choose(logits, self._sampling, draws)
        return list(zip(self.going, self._newest, strict=True))

    def leave(self, which: int) -> None:
        """End conversation `which`: it gets no more tokens, and its place in the cache is free."""
        place = self.going.index(which)
        self._cache.leave(place)
        for places in (self.going, self._newest):
            places[place] = places[-1]
            places.pop()

    def _begin(self) -> torch.Tensor:
        """The last hidden state of each prompt, (N or more, D); what all begin with is computed once."""
        decoder, prompts = self._decoder, self._prompts
        if isinstance(decoder, FallbackDecoder):
            self._cache = FallbackCache(decoder, self._adapter, prompts)
            return self._cache.begin()
        border = decoder.spec.border  # beyond it tokens turn otherwise, those of a common beginning too
        alike = border is None or len({len(prompt) > border for prompt in prompts}) == 1
        shared = min(_common_length(prompts), min(map(len, prompts)) - 1)
        stream, parents = prompts, None
        if len(prompts) > 1 and shared >= MIN_SHARED and alike:
            stream = [prompts[0][:shared], *(prompt[shared:] for prompt in prompts)]
            parents = [None, *(0 for _ in prompts)]
        segments = Segments.of([len(part) for part in stream], decoder.device, parents=parents)
        members = range(len(stream) - len(prompts), len(stream))
        self._cache = Cache(segments, members, self._limit, decoder.norm)
        tokens = torch.tensor([token for part in stream for token in part], device=decoder.device)
        lasts = torch.tensor([segments.starts[member + 1] - 1 for member in members], device=decoder.device)
        lasts = torch.cat([lasts, lasts[-1:].expand(self._missing())])
        return decoder.hidden(tokens, segments, self._adapter, rows=lasts, cache=self._cache)

    def _go_on(self) -> torch.Tensor:
        """The hidden states of the newest tokens, (N or more, D)."""
        if isinstance(self._cache, FallbackCache):
            return self._cache.go_on(self._newest)
        device, missing = self._decoder.device, self._missing()
        tokens, positions = torch.tensor([self._newest, self._cache.positions], device=device)
        if self._segments is None or len(self._segments.spans) != len(tokens) + missing:
            self._segments = Segments.of([1] * (len(tokens) + missing), device)
        positions = F.pad(positions, (0, missing))
        segments = replace(self._segments, positions=positions, plans={"reach": positions + 1})
        return self._decoder.hidden(F.pad(tokens, (0, missing)), segments, self._adapter, cache=self._cache)

    def _missing(self) -> int:
        """Rows added so that a CPU, which compiles a product for each number of rows, meets few numbers."""
        number = len(self.going)
        if self._decoder.device.type != "cpu":
            return 0
        return (1 << (number - 1).bit_length() if number <= CPU_ROWS else -(-number // CPU_ROWS) * CPU_ROWS) - number


def _common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))


def _room(spec: AnySpec, prompt: Sequence[int], max_new_tokens: int) -> int:
    """Tokens that an answer may have."""
    return min(max_new_tokens, spec.most_tokens(len(prompt)) - len(prompt))


def generate(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    adapter: Adapter | None = None,
    sampling: Sampling | None = None,
) -> Iterator[int]:
    """Yield one answer's tokens as they are made; the stop token ends it and is not yielded.

    Args:
        prompt: token ids, at least one; they and the answer must fit the model's positions (the answer is cut).
        stop_ids: any of them ends the answer.
        max_new_tokens: at most so many are yielded.
        adapter: the trained weights, or None for the base.
        sampling: None is greedy.
    """
    room = _room(decoder.spec, prompt, max_new_tokens)
    talk = Conversations(decoder, [prompt], max_new_tokens=room, adapter=adapter, sampling=sampling)
    for _ in range(room):
        ((_, token),) = talk.step()
        if token in stop_ids:
            return
        yield token


def generate_batch(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    decode: Decode,
    stop_ids: frozenset[int],
    stops: Sequence[str] = (),
    max_new_tokens: int,
    adapter: Adapter | None = None,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    cache_bytes: int = CACHE_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Answer all prompts, as many at a time as fit `cache_bytes`; prompts of similar length go together.

    Args:
        prompts: token ids, at least one each; as in `generate`.
        decode: the text of an answer's tokens.
        stops: strings that end an answer, wherever they come up in its text; it is returned without.
        seeds: one a prompt; without, all have that of `sampling`.
        cache_bytes: keys and values held at once, reckoned with every answer at its longest. One conversation may
            have more.
        progress: called with (answers that are done, answers in all) at each token; what it raises goes through.

    Returns:
        The answers in the order of the prompts.
    """
    rooms = [_room(decoder.spec, prompt, max_new_tokens) for prompt in prompts]
    made: list[list[int]] = [[] for _ in prompts]
    texts = [AnswerText(decode, stops) for _ in prompts]
    complete, done = [False] * len(prompts), sum(room <= 0 for room in rooms)
    for batch in _batches(decoder, prompts, rooms, cache_bytes):
        talk = Conversations(
            decoder,
            [prompts[which] for which in batch],
            max_new_tokens=max(rooms[which] for which in batch),
            adapter=adapter,
            sampling=sampling,
            seeds=None if seeds is None else [seeds[which] for which in batch],
        )
        while talk.going:
            for place, token in talk.step():
                which = batch[place]
                complete[which] = token in stop_ids
                if not complete[which]:
                    made[which].append(token)
                    if stops:
                        texts[which].add(token)
                        complete[which] = texts[which].ended
                if complete[which] or len(made[which]) == rooms[which]:
                    talk.leave(place)
                    done += 1
            if progress is not None:
                progress(done, len(prompts))
    for text in texts if stops else ():
        text.finish()
    answers = [text.text for text in texts] if stops else [decode(tokens) for tokens in made]
    return [Answer(*parts) for parts in zip(made, answers, complete, strict=True)]


def _batches(
    decoder: Decoder, prompts: Sequence[Sequence[int]], rooms: Sequence[int], cache_bytes: int
) -> Iterator[list[int]]:
    """Which prompts go together, the longest first; those without room for a token are in none."""
    spec = decoder.spec
    token_bytes = spec.cache_numbers * decoder.dtype.itemsize
    batch: list[int] = []
    columns = 0
    for which in sorted((i for i, room in enumerate(rooms) if room > 0), key=lambda i: -len(prompts[i])):
        columns = max(columns, len(prompts[which]) + rooms[which])
        if batch and (len(batch) + 1) * columns * token_bytes > cache_bytes:
            yield batch
            batch, columns = [], len(prompts[which]) + rooms[which]
        batch.append(which)
    if batch:
        yield batch
