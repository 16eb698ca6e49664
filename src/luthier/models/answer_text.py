"""The text of an answer while its tokens come."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


class AnswerText:
    """Tokens in, text out, up to the first stop string.

    Text comes out when it is settled: a character of several tokens when its last one is there, and what may be the
    beginning of a stop string when it turns out to be none.

    Attributes:
        text: what came out so far.
        ended: a stop string was found; the text ends before it.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        assert all(stops), "an empty string would end every answer"
        self._decode, self._stops = decode, tuple(stops)
        self._tokens: list[int] = []
        self.text, self.ended = "", False

    def add(self, token: int) -> str:
        """The text that `token` settles, often "" in the middle of a character."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        # An unfinished character decodes to U+FFFD, and there are decoders that look back.
        if not text.startswith(self.text) or text.endswith("\ufffd"):
            return ""
        return self._take(text, len(text) - self._open(text))

    def finish(self) -> str:
        """The rest, when no token follows."""
        return "" if self.ended else self._take(text := self._decode(self._tokens), len(text))

    def _take(self, text: str, settled: int) -> str:
        """Let `text` out as far as it is settled, or up to the first stop string."""
        begin = len(self.text)
        found = [place for stop in self._stops if (place := text.find(stop, begin)) >= 0]
        if found:
            self.ended, settled = True, min(found)
        piece = text[begin:settled]
        self.text += piece
        return piece

    def _open(self, text: str) -> int:
        """Characters at the end of `text` that may be the beginning of a stop string."""
        lengths = [length for stop in self._stops for length in range(1, len(stop)) if text.endswith(stop[:length])]
        return max(lengths, default=0)
