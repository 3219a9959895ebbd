"""Whether drafting pays at this load, told by the clock: tokens a second with it and without."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_WINDOW: Final = 8  # steps in a row with drafts, or without
_FEWEST: Final = 4  # requests at once below which a request's own record tells more
_MARGIN: Final = 1.02  # by which drafting must be the faster
_FIRST_PAUSE: Final = 4  # windows before what was slower is tried again
_RARER: Final = 4  # times as long each time it is slower still
_RAREST: Final = 64  # but no longer
_OTHERS: Final = 0.8  # of a step's time that may have gone into prompts
_MEMORY: Final = 0.7  # weight left to a window by the next one of its kind
_IDLE: Final = 10.0  # times as long as usual: then nobody was there


@dataclass(slots=True)
class _Kind:
    """Steps with drafts, or steps without."""

    tokens: float = 0.0
    seconds: float = 0.0
    steps: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds > 0.0 else 0.0

    def add(self, tokens: float, seconds: float) -> None:
        """One step more."""
        if self.seconds > 0.0 and seconds > _IDLE * self.seconds / self.steps:
            return
        self.tokens += tokens
        self.seconds += seconds
        self.steps += 1.0

    def fade(self) -> None:
        """A new window begins."""
        self.tokens *= _MEMORY
        self.seconds *= _MEMORY
        self.steps *= _MEMORY


@dataclass(slots=True)
class _Load:
    """What is known of one load."""

    kinds: dict[bool, _Kind] = field(default_factory=lambda: {True: _Kind(), False: _Kind()})
    drafting: bool = True  # in the running window
    better: bool = True  # whether drafting is, as far as known
    left: int = _WINDOW
    pause: int = 1  # windows between trials
    wait: int = 1  # windows until the next one

    def count(self) -> None:
        """A step of the running window is over."""
        self.left -= 1
        if self.left <= 0:
            self._end_window()

    def _end_window(self) -> None:
        drafted, plain = self.kinds[True], self.kinds[False]
        tried = self.drafting is not self.better
        if drafted.steps and plain.steps and self.better is not (won := _wins(drafted, plain)):
            self.better, self.pause = won, _FIRST_PAUSE
            self.wait = self.pause
        elif tried:
            self.pause = min(_RARER * self.pause, _RAREST)
            self.wait = self.pause
        else:
            self.wait -= 1
        self.drafting = self.better if self.wait > 0 else not self.better
        self.left = _WINDOW
        self.kinds[self.drafting].fade()


class Goodput:
    """Takes turns between drafting and not, the slower one ever more rarely.

    Costs that are counted one by one may miss something; whole steps, from the start of one to
    that of the next, miss nothing. Loads are told apart by powers of two.
    """

    def __init__(self) -> None:
        self._loads: dict[int, _Load] = {}
        self._running: _Load | None = None
        self._began = 0.0
        self._others = 0.0
        self._tokens = 0.0

    def begin(self, requests: int, now: float, others: float = 0.0) -> bool:
        """A step begins at time ``now``; whether to draft in it.

        ``others``: seconds that its prompts are expected to take, which come alike with and
        without drafts.
        """
        before = self._running
        if before is not None:
            seconds = now - self._began
            own = seconds - min(self._others, _OTHERS * seconds)
            before.kinds[before.drafting].add(self._tokens, own)
            before.count()
        load = None
        if requests >= _FEWEST:
            load = self._loads.setdefault((4 * requests // 3).bit_length(), _Load())
        self._running, self._began, self._others, self._tokens = load, now, others, 0.0
        return load is None or load.drafting

    def earn(self, tokens: int) -> None:
        """A request got so many in the running step."""
        self._tokens += tokens


def _wins(drafted: _Kind, plain: _Kind) -> bool:
    return drafted.rate > _MARGIN * plain.rate
