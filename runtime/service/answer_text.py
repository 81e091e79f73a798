"""One answer's tokens as pieces of text: decoded, cut at stop strings, with log probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.chat_format import AnswerStream
from runtime.logits import TokenLogprobs
from runtime.service.stop_strings import StopStrings


@dataclass(frozen=True)
class Piece:
    """Text that has become certain, and the log probabilities of the tokens behind it.

    ``offsets`` are where those tokens' texts begin in the whole answer, in characters.
    """

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    offsets: tuple[int, ...] = ()


class AnswerText:
    """Turns (token, log probabilities) into pieces as they come.

    A token counts as shown from the moment that text from its first character on is shown.
    """

    def __init__(self, decoder: AnswerStream, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = StopStrings(stops)
        self._decoded = 0
        self._shown = 0
        self._pending: list[tuple[int, TokenLogprobs]] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the answer."""
        return self._stops.stopped

    def push(self, token: int, logprobs: TokenLogprobs | None) -> Piece | None:
        """Add a token; return what it made certain, if anything."""
        if logprobs is not None:
            self._pending.append((self._decoded, logprobs))
        text = self._decoder.push(token)
        self._decoded += len(text)
        return self._piece(self._stops.push(text), last=False)

    def finish(self) -> Piece | None:
        """What was held back, now that no token follows."""
        if self.stopped:
            return None
        text = self._decoder.finish()
        self._decoded += len(text)
        shown = self._stops.push(text)
        return self._piece(shown + self._stops.finish(), last=True)

    def _piece(self, text: str, *, last: bool) -> Piece | None:
        self._shown += len(text)
        everything = last and not self.stopped
        ready = [one for one in self._pending if everything or one[0] < self._shown]
        self._pending = self._pending[len(ready) :]
        if not text and not ready:
            return None
        return Piece(text, tuple(one for _, one in ready), tuple(at for at, _ in ready))
