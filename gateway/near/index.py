"""The latest answers of each tenant by what was asked: bounded, in this process, never shared."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gateway.near.sentences import Vector

_SAME = 0.9999  # a question so alike is the same one: the newer answer replaces the older
_ENTRY_BYTES = 256  # of the objects around one text


@dataclass(slots=True)
class _Shelf:
    """One tenant's questions and answers, the oldest first."""

    vectors: list[Vector] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    made: list[float] = field(default_factory=list)
    stacked: Vector | None = None

    def matrix(self) -> Vector:
        if self.stacked is None:
            self.stacked = np.stack(self.vectors)
        return self.stacked

    def add(self, vector: Vector, text: str, now: float) -> None:
        self.vectors.append(vector)
        self.texts.append(text)
        self.made.append(now)
        self.stacked = None

    def drop(self, at: int) -> int:
        """Bytes that this frees."""
        vector, text = self.vectors.pop(at), self.texts.pop(at)
        del self.made[at]
        self.stacked = None
        return _size(vector, text)


class Index:
    """Texts by direction, one shelf a tenant. The least recently used shelf gives way first."""

    def __init__(
        self,
        *,
        max_entries: int,
        max_bytes: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._shelves: OrderedDict[str, _Shelf] = OrderedDict()
        self.used_bytes = 0

    def holds(self, tenant: str) -> bool:
        """Whether there is anything of this tenant's."""
        return tenant in self._shelves

    def add(self, tenant: str, vector: Vector, text: str) -> None:
        """Remember that ``text`` was the answer to what ``vector`` stands for."""
        shelf = self._shelves.setdefault(tenant, _Shelf())
        self._shelves.move_to_end(tenant)
        if shelf.vectors and shelf.vectors[0].shape != vector.shape:
            self._forget(tenant)  # another model by now
            shelf = self._shelves.setdefault(tenant, _Shelf())
        if shelf.vectors:
            alike = shelf.matrix() @ vector
            if float(alike.max()) >= _SAME:
                self.used_bytes -= shelf.drop(int(alike.argmax()))
        shelf.add(vector, text, self._clock())
        self.used_bytes += _size(vector, text)
        self._make_room(tenant, shelf)

    def nearest(self, tenant: str, vector: Vector, most: int, least: float) -> list[str]:
        """Up to ``most`` answers whose questions are at least ``least`` alike, the likest first."""
        shelf = self._shelves.get(tenant)
        if shelf is None or shelf.vectors[0].shape != vector.shape:
            return []
        self._shelves.move_to_end(tenant)
        self._expire(tenant, shelf)
        if not shelf.vectors:
            return []
        alike = shelf.matrix() @ vector
        best = np.argsort(-alike, kind="stable")[:most]
        return [shelf.texts[at] for at in best if alike[at] >= least]

    def forget(self, tenant: str | None = None) -> None:
        """Forget one tenant's answers, or everybody's."""
        for one in [tenant] if tenant is not None else list(self._shelves):
            self._forget(one)

    def _make_room(self, tenant: str, shelf: _Shelf) -> None:
        while len(shelf.vectors) > self._max_entries:
            self.used_bytes -= shelf.drop(0)
        while self.used_bytes > self._max_bytes:
            oldest = next(iter(self._shelves))
            if oldest != tenant:
                self._forget(oldest)
            elif shelf.vectors:
                self.used_bytes -= shelf.drop(0)
            else:
                break
        if not shelf.vectors:
            self._forget(tenant)

    def _expire(self, tenant: str, shelf: _Shelf) -> None:
        now = self._clock()
        while shelf.made and now - shelf.made[0] > self._ttl_s:
            self.used_bytes -= shelf.drop(0)
        if not shelf.vectors:
            self._forget(tenant)

    def _forget(self, tenant: str) -> None:
        shelf = self._shelves.pop(tenant, None)
        while shelf is not None and shelf.vectors:
            self.used_bytes -= shelf.drop(len(shelf.vectors) - 1)


def _size(vector: Vector, text: str) -> int:
    return int(vector.nbytes) + 4 * len(text) + _ENTRY_BYTES
