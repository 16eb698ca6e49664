"""Keys and values kept while conversations are answered."""

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.kernels.segments import Segments

GROWTH = 128  # columns added at least when the cache is full


class Cache:
    """Keys and values of N conversations that go on together, a token each a step.

    All end at the same column: n tokens fill the n columns before `end`. So a step writes one column for all of them,
    a window is a slice, and the columns before a conversation's beginning, which it must not see, stay the same ones.

    Memory: N times the columns of the longest conversation, 2·G·K numbers each a layer. There is room for the prompts
    and a little more at first; a full layer grows by half, and never beyond `limit` columns (rounded up to eight).

    Attributes:
        filled: whether the prompts are in; until then the cache takes them, afterwards single tokens.
        number: N, the conversations that go on.
    """

    def __init__(self, segments: Segments, members: Sequence[int], limit: int, like: Tensor) -> None:
        """For the stream of all prompts.

        Args:
            segments: where the stream is cut.
            members: (N,) of each conversation the segment it ends with; what that sees is its prompt.
            limit: the most tokens a conversation will have.
            like: a tensor of the device and dtype wanted.
        """
        prompts = [segments.rows(member) for member in members]
        self.end = max(map(len, prompts))
        # What is left of a short prompt is filled with its own first token: nothing sees it, but it must be finite.
        rows = [torch.cat([rows[:1].expand(self.end - len(rows)), rows]) for rows in prompts]
        self._rows = torch.cat(rows).to(like.device)  # (N·end,)
        self._limit, self._like = limit, like
        self._layers: list[Tensor] = []  # (2, N or more, G, columns, K) each
        self._begins = [self.end - len(rows) for rows in prompts]
        self.filled = False
        self._look()

    @property
    def number(self) -> int:
        """Conversations that go on."""
        return len(self._begins)

    @property
    def positions(self) -> list[int]:
        """The position that each conversation's next token has."""
        return [self.end - begin for begin in self._begins]

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Take the prompts of the next layer out of the stream: (T, G, K) keys and values."""
        assert layer == len(self._layers) and not self.filled
        _, heads, size = keys.shape
        data = keys.new_empty(2, self.number, heads, self._columns(self.end), size)
        for part, rows in zip(data, (keys, values), strict=True):
            taken = rows.index_select(0, self._rows).view(self.number, self.end, heads, size)
            part[:, :, : self.end] = taken.transpose(1, 2)
        self._layers.append(data)

    def add(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Add (N, G, K) keys and values of one token each.

        Returns:
            All keys and values of the layer, (N, G, L, K), and the mask for them as in `attention_to_cache`.
        """
        data = self._layers[layer]
        if data.shape[3] == self.end:
            grown = data.new_empty(2, self.number, data.shape[2], self._columns(self.end), data.shape[4])
            grown[:, :, :, : self.end] = data[:, : self.number]
            data = self._layers[layer] = grown
        data = data[:, : self.number]
        data[0, :, :, self.end] = keys
        data[1, :, :, self.end] = values
        seen = slice(self._first, self.end + 1)
        return data[0, :, :, seen], data[1, :, :, seen], None if self._mask is None else self._mask[..., seen]

    def advance(self) -> None:
        """All layers have what they were to have of this pass."""
        if self.filled:
            self.end += 1
        self.filled = True

    def leave(self, place: int) -> None:
        """End the conversation at `place`; the last one takes its place."""
        last = self.number - 1
        if place != last:
            for data in self._layers:
                data[:, place] = data[:, last]
            self._begins[place] = self._begins[last]
        self._begins.pop()
        if self._begins:
            self._look()

    def _columns(self, filled: int) -> int:
        """Columns a layer gets when so many are full."""
        return -(-min(filled + max(filled // 2, GROWTH), self._limit) // 8) * 8

    def _look(self) -> None:
        """Work out what is hidden: no column that all see, if all begin alike."""
        self._first, self._mask = min(self._begins), None
        if max(self._begins) > self._first:
            columns = torch.arange(self._columns(self._limit))
            hidden = columns < torch.tensor(self._begins).view(-1, 1, 1, 1)  # (N, 1, 1, columns)
            mask = torch.zeros(hidden.shape, dtype=self._like.dtype).masked_fill_(hidden, float("-inf"))
            self._mask = mask.to(self._like.device)
