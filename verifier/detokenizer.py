"""Text of a growing run of tokens: whole code points only, ended by the earliest stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

Decode = Callable[[Sequence[int]], str]

BROKEN = "\ufffd"  # what decoders show for a code point whose bytes are not all there
_WINDOW = 12  # tokens decoded again for every new one, at most, before the oldest are let go


class TextPieces:
    """Splits ``decode(all tokens)`` into pieces, one a token, no code point ever in two."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[int] = []  # a few released ones as context, then those still held
        self._released = ""  # text of the context
        self._context = 0

    def push(self, token: int) -> str:
        """Text that became complete with ``token``; empty while a code point is open."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith(BROKEN):
            return ""
        return self._release(text)

    def flush(self) -> str:
        """Whatever is still held, as the decoder shows it."""
        return self._release(self._decode(self._tokens)) if self._tokens else ""

    def _release(self, text: str) -> str:
        piece = text[len(self._released) :]
        if len(self._tokens) > _WINDOW:
            # Some decoders drop a space at the start of what they decode, so a token stays.
            self._tokens = self._tokens[self._context :]
            text = self._decode(self._tokens)
        self._context = len(self._tokens)
        self._released = text
        return piece


class Match(NamedTuple):
    """A stop string that was completed."""

    stop: str
    start: int
    end: int


class StopScanner:
    """Releases text as soon as no stop string can begin in it; ends at the first one completed."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, piece: str, *, may_stop: bool = True) -> tuple[str, str | None]:
        """More text in; text that may go out, and the stop string if one was completed.

        With ``may_stop`` false a stop string completed in ``piece`` is ordinary text.
        """
        if not self._stops:
            return piece, None
        text = self._held + piece
        match = self._first_match(text) if may_stop else None
        if match is not None:
            self._held = ""
            return text[: match.start], match.stop
        keep = self._open_suffix(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """The held text, once nothing more will come."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> Match | None:
        matches = [
            Match(stop, start, start + len(stop))
            for stop in self._stops
            if (start := text.find(stop)) >= 0
        ]
        # Completed first; of two completed by the same character, the one that began first.
        return min(matches, key=lambda match: (match.end, match.start), default=None)

    def _open_suffix(self, text: str) -> int:
        longest = max(map(len, self._stops)) - 1
        for size in range(min(longest, len(text)), 0, -1):
            suffix = text[len(text) - size :]
            if any(stop.startswith(suffix) and len(stop) > size for stop in self._stops):
                return size
        return 0
