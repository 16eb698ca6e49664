"""One answer at a time: the prompt through the flat stream once, then token by token over a cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luthier.core.seeds import stream_seed
from luthier.kernels.segments import Segments
from luthier.models.cache import Cache
from luthier.models.decoder import Decoder
from luthier.models.lora import Adapter


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_p keeps the smallest set of that mass."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """(V,) float32 → a token id."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = (logits / sampling.temperature).softmax(-1).cpu()
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        outside = ordered.cumsum(0) - ordered >= sampling.top_p  # the first token is always inside
        probabilities[order[outside]] = 0
    return int(torch.multinomial(probabilities, 1, generator=generator))


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    adapter: Adapter | None = None,
    sampling: Sampling | None = None,
) -> Iterator[int]:
    """Yield the answer's tokens as they are made; the stop token ends it and is not yielded.

    Args:
        prompt: token ids, at least one; they and the answer must fit the model's positions (the answer is cut).
        stop_ids: any of them ends the answer.
        max_new_tokens: at most so many are yielded.
    """
    sampling = sampling or Sampling()
    generator = torch.Generator().manual_seed(stream_seed(sampling.seed, "generate"))
    size = min(len(prompt) + max_new_tokens, decoder.spec.max_positions)
    cache = Cache(decoder.spec, size, decoder.embedding)
    tokens = torch.tensor(list(prompt), device=decoder.device)
    single = Segments.of([1], decoder.device)
    segments = Segments.of([len(prompt)], decoder.device)
    for _ in range(size - len(prompt)):
        last = torch.tensor([len(tokens) - 1], device=decoder.device)
        hidden = decoder.hidden(tokens, segments, adapter, rows=last, cache=cache)  # (1, D)
        token = _choose(decoder.logits(hidden)[0].float(), sampling, generator)
        if token in stop_ids:
            return
        yield token
        tokens, segments = torch.tensor([token], device=decoder.device), single
