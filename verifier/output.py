"""The one earliest-stop rule: where a choice ends, and what of its last tokens is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from verifier.detokenizer import Decode, StopScanner, TextPieces
from verifier.request import FinishReason, StopRules


class Taken(NamedTuple):
    """How many of the offered tokens belong to the choice, their text, and why it ended."""

    kept: int
    text: str
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


class Output:
    """The text side of one choice. Survives preemption."""

    def __init__(self, stops: StopRules, *, eos: frozenset[int], decode: Decode) -> None:
        self._stops = stops
        self._ends = stops.stop_token_ids | (frozenset() if stops.ignore_eos else eos)
        self._eos = eos
        self._pieces = TextPieces(decode)
        self._scanner = StopScanner(stops.stop)
        self.count = 0

    @property
    def remaining(self) -> int:
        """Tokens that may still be taken."""
        return self._stops.max_tokens - self.count

    def take(self, tokens: Sequence[int]) -> Taken:
        """Offer verified tokens in order; the first one that ends the choice is the last kept."""
        text = ""
        for kept, token in enumerate(tokens, start=1):
            self.count += 1
            if token in self._ends:
                return self._ended_by_token(kept, text, token)
            may_stop = self.count >= self._stops.min_tokens
            piece, stop = self._scanner.push(self._pieces.push(token), may_stop=may_stop)
            text += piece
            if stop is not None:
                return Taken(kept, text, "stop", stop)
            if self.remaining <= 0:
                return self._ended_by_length(kept, text)
        return Taken(len(tokens), text)

    def _ended_by_token(self, kept: int, text: str, token: int) -> Taken:
        rest, stop = self._rest()
        if stop is not None:
            return Taken(kept, text + rest, "stop", stop)
        reason = token if token in self._stops.stop_token_ids else None
        return Taken(kept, text + rest, "stop", reason)

    def _ended_by_length(self, kept: int, text: str) -> Taken:
        rest, stop = self._rest()
        if stop is not None:
            return Taken(kept, text + rest, "stop", stop)
        return Taken(kept, text + rest, "length")

    def _rest(self) -> tuple[str, str | None]:
        may_stop = self.count >= self._stops.min_tokens
        piece, stop = self._scanner.push(self._pieces.flush(), may_stop=may_stop)
        return (piece, stop) if stop is not None else (piece + self._scanner.flush(), None)
