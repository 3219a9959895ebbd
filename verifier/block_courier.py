"""Carries pages between the cache and a block store, beside the engine's steps."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple

from torch import Tensor

from verifier.block_format import BlockFormat
from verifier.blocks import BlockStore
from verifier.rows import CacheShape

_AT_ONCE: Final = 16  # pages asked for in one call
_MOST_FETCHES: Final = 8  # prefixes on their way; more are misses
_PAUSE_S: Final = (0.25, 5.0)  # first and longest rest of a store that failed
_log = logging.getLogger(__name__)


class Fetch:
    """Pages of one prefix on their way. Whoever wants them waits until ``ready``, then takes."""

    def __init__(self, names: Sequence[bytes], expected: float, clock: Callable[[], float]) -> None:
        """``expected``: the moment from which nobody waits any more, on ``clock``."""
        self.names = tuple(names)
        self.expected = expected
        self._clock = clock
        self._pages: list[Tensor] = []
        self._done = False
        self._abandoned = False

    def ready(self) -> bool:
        """Whether everything is there, or late."""
        return self._done or self._clock() >= self.expected

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
        if self.wanted:
            self._pages.append(page)

    def end(self) -> None:
        """Nothing more will come."""
        self._done = True


class BlockCourier:
    """Saves and fetches the pages of one model. No method waits for the store.

    Saving is bounded: when the store is slower than the engine, pages are dropped. A store that
    fails is left alone for a while; meanwhile every fetch is a miss.
    """

    def __init__(
        self,
        store: BlockStore,
        layout: BlockFormat,
        *,
        wait_s: float = 0.1,
        most_bytes: int = 64 * 2**20,
        arrived: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``wait_s``: what a request waits for its pages at most; ``most_bytes``: of pages waiting
        to be saved; ``arrived`` is called, from another thread, whenever a fetch has ended."""
        self.wait_s = wait_s
        self.counts: Counter[str] = Counter()  # saved, dropped, restored, missed, refused, failed
        self._store = store
        self._format = layout
        self._clock = clock
        self._arrived = arrived
        self._most_saves = max(1, most_bytes // layout.content_bytes)
        self._rest = _Rest(clock)
        self._lock = threading.Lock()  # guards the two below
        self._saves = 0
        self._fetches = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="save pages")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="fetch pages")

    def save(self, name: bytes, page: Tensor) -> None:
        """Have a copy of ``page`` saved, or drop it."""
        with self._lock:
            if self._saves >= self._most_saves or self._rest.now():
                self.counts["dropped"] += 1
                return
            self._saves += 1
        self._writer.submit(
            self._save, name, page.clone() if page.device.type == "cpu" else page.cpu()
        )

    def fetch(self, names: Sequence[bytes]) -> Fetch:
        """Ask for the pages of a prefix; one that cannot be asked for is ready at once."""
        found = Fetch(names, self._clock() + self.wait_s, self._clock)
        with self._lock:
            if self._fetches >= _MOST_FETCHES or self._rest.now():
                found.end()
                return found
            self._fetches += 1
        self._reader.submit(self._fetch, found)
        return found

    def close(self, within_s: float = 1.0) -> None:
        """Give what waits to be saved a moment, then let go of the store."""
        deadline = self._clock() + within_s
        while self._saves and self._clock() < deadline and not self._rest.now():
            time.sleep(0.005)
        for threads in (self._writer, self._reader):
            threads.shutdown(wait=False, cancel_futures=True)

    def _save(self, name: bytes, page: Tensor) -> None:
        try:
            value = self._format.encode(name, page)
            if value is None:
                self.counts["refused"] += 1
            elif self._tried(partial(self._store.save, name, value)):
                self.counts["saved"] += 1
        finally:
            with self._lock:
                self._saves -= 1

    def _fetch(self, wanted: Fetch) -> None:
        try:
            for start in range(0, len(wanted.names), _AT_ONCE):
                names = wanted.names[start : start + _AT_ONCE]
                if not wanted.wanted or not self._tried(partial(self._fetch_some, wanted, names)):
                    return
        finally:
            with self._lock:
                self._fetches -= 1
            wanted.end()
            self._arrived()

    def _fetch_some(self, wanted: Fetch, names: Sequence[bytes]) -> bool:
        """Whether all of ``names`` came; the first that did not ends the prefix."""
        for name, value in zip(names, self._store.restore(names), strict=True):
            page = None if value is None else self._format.decode(name, value)
            if page is None:
                self.counts["missed" if value is None else "refused"] += 1
                return False
            self.counts["restored"] += 1
            wanted.add(page)
        return True

    def _tried(self, call: Callable[[], bool | None]) -> bool:
        """Whether ``call`` succeeded; whatever a store does, it must not reach a request."""
        if self._rest.now():
            return False
        try:
            answer = call()
        except Exception as error:
            self.counts["failed"] += 1
            self._rest.begin(error)
            return False
        self._rest.end()
        return answer is not False


class Blocks(NamedTuple):
    """A block store and how an engine uses it."""

    store: BlockStore
    wait_s: float
    arrived: Callable[[], None]

    def courier(self, fingerprint: str, shape: CacheShape, page_size: int) -> BlockCourier:
        """One for the model of that fingerprint."""
        layout = BlockFormat(fingerprint, shape, page_size)
        return BlockCourier(self.store, layout, wait_s=self.wait_s, arrived=self.arrived)


class _Rest:
    """A store that failed is left alone, longer each time. One log line for each change."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = 0.0
        self._pause_s = 0.0

    def now(self) -> bool:
        return self._clock() < self._until

    def begin(self, error: Exception) -> None:
        if not self._pause_s:
            _log.warning("block store: down (%s); going on without it", type(error).__name__)
        first, longest = _PAUSE_S
        self._pause_s = min(max(2 * self._pause_s, first), longest)
        self._until = self._clock() + self._pause_s

    def end(self) -> None:
        if self._pause_s:
            _log.warning("block store: up again")
        self._pause_s = 0.0
