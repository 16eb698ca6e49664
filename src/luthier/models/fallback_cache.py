"""What is kept while a decoder of `transformers` answers: of each conversation the module's own cache.

Each conversation is read by itself. Rows of a batch would have to be filled up before their first token, which is not
right for every decoder; alone, each is computed as in training. Modules that carry a state of a kind of their own, and
those that take no cache, pass over the whole conversation again for each token: slow, and the same answer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.models.fallback import FallbackDecoder
from luthier.models.lora import Adapter


class FallbackCache:
    """Conversations that go on, a token each a step."""

    def __init__(self, decoder: FallbackDecoder, adapter: Adapter | None, prompts: Sequence[Sequence[int]]) -> None:
        self._decoder, self._adapter = decoder, adapter
        self._tokens = [list(prompt) for prompt in prompts]  # of each conversation, all of them
        self._pasts: list[Any] = [None] * len(prompts)

    def begin(self) -> Tensor:
        """The last hidden state of each prompt, (N, D)."""
        return torch.cat([self._read(place, tokens) for place, tokens in enumerate(self._tokens)])

    def go_on(self, newest: Sequence[int]) -> Tensor:
        """The hidden states of the newest token of each conversation, (N, D)."""
        for tokens, token in zip(self._tokens, newest, strict=True):
            tokens.append(token)
        seen = [tokens[-1:] if self._decoder.keeps else tokens for tokens in self._tokens]
        return torch.cat([self._read(place, tokens) for place, tokens in enumerate(seen)])

    def leave(self, place: int) -> None:
        """End the conversation at `place`; the last one takes its place."""
        for kept in (self._tokens, self._pasts):
            kept[place] = kept[-1]
            kept.pop()

    def _read(self, place: int, tokens: Sequence[int]) -> Tensor:
        rows = torch.tensor([tokens], device=self._decoder.device)
        hidden, self._pasts[place] = self._decoder.run(
            rows, self._adapter, past=self._pasts[place], keep=self._decoder.keeps
        )
        return hidden[0, -1:]
