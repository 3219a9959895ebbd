"""Carries pages between the cache and a block store, beside the engine's steps."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from torch import Tensor

from verifier.block_audit import Audit
from verifier.block_fetch import Fetch
from verifier.block_format import BlockFormat
from verifier.block_rates import BlockRates
from verifier.block_rest import Rest
from verifier.blocks import BlockStore

_AT_ONCE: Final = 16  # pages asked for in one call
_MOST_FETCHES: Final = 8  # prefixes on their way; more are misses
_TRIAL: Final = 2  # pages fetched beside, to see whether a slow store is still slow
_TRIAL_EVERY_S: Final = 5.0
_SAY_EVERY_S: Final = 30.0  # at most one line about fetching or computing in that time
_NICENESS: Final = 10  # of the thread that saves: requests come first
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPolicy:
    """How an engine uses its block store."""

    fetch: Literal["auto", "always"] = "auto"  # always: whatever it costs
    wait_s: float = 0.1  # what a request waits for its pages at most
    audit_every: int = 1024  # pages fetched to one that is computed again; 0: none
    most_bytes: int = 64 * 2**20  # of pages waiting to be saved


class BlockCourier:
    """Saves and fetches the pages of one model. No method waits for the store.

    Saving is bounded: when the store is slower than the engine, pages are dropped. A store that
    fails is left alone for a while; meanwhile every fetch is a miss. One whose page is not what the
    model computes is never used again.
    """

    def __init__(
        self,
        store: BlockStore,
        layout: BlockFormat,
        policy: BlockPolicy | None = None,
        *,
        rates: BlockRates | None = None,
        arrived: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``arrived`` is called, from another thread, whenever a fetch has ended."""
        self.counts: Counter[str] = Counter()  # pages, by what became of them
        self.rates = rates or BlockRates(1)
        self.off = False  # for good, as a page was wrong
        self._policy = policy or BlockPolicy()
        self._store = store
        self._format = layout
        self._clock = clock
        self._arrived = arrived
        self._most_saves = max(1, self._policy.most_bytes // layout.content_bytes)
        self._audit = Audit(self._policy.audit_every)
        self._rest = Rest(clock)
        self._lock = threading.Lock()  # guards the three below
        self._saves = 0
        self._fetches = 0
        self._fetching = 0  # pages of these
        self._fetching_pays = True
        self._said = self._tried_out = -_SAY_EVERY_S
        self._writer = ThreadPoolExecutor(1, "save pages", _be_nice)
        self._reader = ThreadPoolExecutor(1, "fetch pages")

    def save(self, name: bytes, page: Tensor, owner: bytes = b"") -> None:
        """Have a copy of ``page`` saved, or drop it."""
        agrees = self._audit.agrees(name, page)
        if agrees is not None:  # it is there already
            self._judge(agrees)
            return
        with self._lock:
            if self._saves >= self._most_saves or self._closed():
                self.counts["dropped"] += 1
                return
            self._saves += 1
        copy = page.clone() if page.device.type == "cpu" else page.cpu()
        self._writer.submit(self._save, name, copy, owner)

    def fetch(self, names: Sequence[bytes], owner: bytes = b"", ahead: int = 0) -> Fetch:
        """Ask for the pages of a prefix; one that is not asked for is ready at once.

        ``ahead``: prompt tokens to be computed before a request without these pages has its turn.
        """
        now, wait_s = self._clock(), self._policy.wait_s
        if self._policy.fetch == "auto":
            wait_s = self.rates.patience_s(len(names), ahead, wait_s)
        found = Fetch(names, now + wait_s, self._clock)
        if self._closed() or not self._pays(names, owner, ahead) or not self._submit(found, owner):
            found.end()
        return found

    @property
    def busy(self) -> bool:
        """Whether pages are on their way, in either direction."""
        return bool(self._saves or self._fetches)

    def close(self, within_s: float = 1.0) -> None:
        """Give what waits to be saved a moment, then let go of the store."""
        deadline = self._clock() + within_s
        while self._saves and self._clock() < deadline and not self._rest.now():
            time.sleep(0.005)
        for threads in (self._writer, self._reader):
            threads.shutdown(wait=False, cancel_futures=True)

    def _closed(self) -> bool:
        return self.off or self._rest.now()

    def _pays(self, names: Sequence[bytes], owner: bytes, ahead: int) -> bool:
        """Whether to fetch rather than compute; if not, look again now and then, beside."""
        if self._policy.fetch == "always":
            return True
        pays = self.rates.fetching_pays(len(names), self._fetching, ahead)
        if pays != self._fetching_pays:
            self._fetching_pays = pays
            self._say(pays, len(names))
        if not pays:
            self.counts["declined"] += len(names)
            if self._clock() - self._tried_out >= _TRIAL_EVERY_S:
                self._tried_out = self._clock()
                self._submit(Fetch(names[:_TRIAL], self._clock(), self._clock), owner)
        return pays

    def _say(self, pays: bool, pages: int) -> None:
        if self._clock() - self._said >= _SAY_EVERY_S:
            self._said = self._clock()
            _log.info(
                "block store: %d pages are %s: %.1f ms to fetch them, %.1f ms to compute them",
                pages,
                "fetched" if pays else "computed",
                1e3 * (self.rates.fetch_s(pages) or 0.0),
                1e3 * (self.rates.compute_s(pages) or 0.0),
            )

    def _submit(self, wanted: Fetch, owner: bytes) -> bool:
        with self._lock:
            if self._fetches >= _MOST_FETCHES:
                return False
            self._fetches += 1
            self._fetching += len(wanted.names)
        self._reader.submit(self._fetch, wanted, owner)
        return True

    def _judge(self, agrees: bool) -> None:
        self.counts["agreed" if agrees else "mismatched"] += 1
        if not agrees:
            self.off = True
            _log.error(
                "block store: ALARM, a stored page is not what the model computes; "
                "the store is not used any more, until the engine starts anew"
            )

    def _save(self, name: bytes, page: Tensor, owner: bytes) -> None:
        try:
            parts = self._format.encode(name, page)
            if parts is None:
                self.counts["refused"] += 1
            elif self._tried(partial(self._store.save, name, parts, owner)):
                self.counts["saved"] += 1
        finally:
            with self._lock:
                self._saves -= 1

    def _fetch(self, wanted: Fetch, owner: bytes) -> None:
        began, audited = self._clock(), self._audit.choose(wanted.names)
        try:
            for start in range(0, len(wanted.names), _AT_ONCE):
                names = wanted.names[start : start + _AT_ONCE]
                some = partial(self._fetch_some, wanted, names, owner, audited)
                if not wanted.wanted or not self._tried(some):
                    return
        finally:
            self._learn(wanted, began)
            with self._lock:
                self._fetches -= 1
                self._fetching -= len(wanted.names)
            wanted.end()
            self._arrived()

    def _fetch_some(
        self, wanted: Fetch, names: Sequence[bytes], owner: bytes, audited: bytes | None
    ) -> bool:
        """Whether all of ``names`` came; the first that did not ends the prefix."""
        before, ended = wanted.count, False

        def good(at: int, value: memoryview) -> bool:
            nonlocal ended
            page = self._format.decode(names[at], value) if wanted.wanted else None
            ended = page is None or names[at] == audited
            if page is None:
                self.counts["refused" if wanted.wanted else "late"] += 1
            elif ended:
                self._audit.expect(names[at], page)
            else:
                self.counts["restored"] += 1
                wanted.add(page)
            return not ended

        self._store.restore(names, self._format.value_bytes, good, owner)
        came = wanted.count - before
        if came < len(names) and not ended:
            self.counts["missed"] += 1
        return came == len(names)

    def _learn(self, wanted: Fetch, began: float) -> None:
        """What came, or did not in all the time it was waited for, says how fast the store is."""
        now = self._clock()
        if wanted.first is not None:
            self.rates.fetched(wanted.count, wanted.first - began, now - began)
        elif not wanted.wanted or self._rest.now():
            self.rates.fetched(0, 0.0, now - began)

    def _tried(self, call: Callable[[], bool]) -> bool:
        """Whether ``call`` succeeded; whatever a store does, it must not reach a request."""
        if self._closed():
            return False
        try:
            answer = call()
        except Exception as error:
            self.counts["failed"] += 1
            self._rest.begin(error)
            return False
        self._rest.end()
        return answer


def _be_nice() -> None:
    """Let this thread give way to those that compute, where the system has it."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
