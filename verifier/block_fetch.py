"""Pages of one prefix on their way from a block store to a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor


class Fetch:
    """Whoever wants the pages waits until it is ``ready``, then takes those that have come."""

    def __init__(self, names: Sequence[bytes], expected: float, clock: Callable[[], float]) -> None:
        """``expected``: the moment from which nobody waits any more, on ``clock``."""
        self.names = tuple(names)
        self.expected = expected
        self.count = 0  # pages that have come
        self.first: float | None = None  # when the first of them did
        self._clock = clock
        self._pages: list[Tensor] = []
        self._done = False
        self._abandoned = False

    def ready(self) -> bool:
        """Whether everything is there, or late."""
        return self._done or self.left_s <= 0

    @property
    def left_s(self) -> float:
        """Seconds until it is late."""
        return self.expected - self._clock()

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._done

    def take(self) -> Mapping[bytes, Tensor]:
        """The longest prefix that has come, by name; what comes later is dropped."""
        pages, self._pages, self._abandoned = self._pages, [], True
        return dict(zip(self.names, pages, strict=False))

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self.take()

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits."""
        return not self._abandoned

    def add(self, page: Tensor) -> None:
        """The page of the next name."""
        self.count += 1
        if self.first is None:
            self.first = self._clock()
        if self.wanted:
            self._pages.append(page)

    def end(self) -> None:
        """Nothing more will come."""
        self._done = True
