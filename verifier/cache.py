"""One model's keys and values: pages shared between requests, rows at hand for the running ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.commit import Accepted, commit_rows
from verifier.pages import PagePool, page_hash
from verifier.rows import CacheShape, ContextRows


@dataclass(slots=True, eq=False)
class Lease:
    """What one running request holds."""

    slot: int
    root: bytes  # where its chain of hashes begins
    committed: int = 0  # tokens whose keys and values are context
    pages: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)  # of full pages, stored and published
    restored: int = 0  # pages that came from a block store


class Committed(NamedTuple):
    """Scratch rows of a lease that became context, and all its tokens up to and with them."""

    lease: Lease
    rows: Sequence[int]
    tokens: Sequence[int]


class KeyValueCache:
    """Hands out leases. Slots of open leases are always 0, 1, 2 and so on without a gap.

    ``published`` hears of every page that is named for the first time, and of the root of its
    chain; it must copy what it keeps.
    """

    def __init__(
        self,
        shape: CacheShape,
        *,
        pages: int,
        page_size: int,
        published: Callable[[bytes, Tensor, bytes], None] | None = None,
    ) -> None:
        self._published = published
        self.page_size = page_size
        self.pool = PagePool(pages)
        self.rows = ContextRows(shape)
        self._leases: list[Lease] = []
        # Untouched memory costs nothing until a page is first written.
        self._store = torch.empty(
            (pages, shape.layers, page_size, 2 * shape.heads, shape.head_size),
            dtype=shape.dtype,
            device=shape.device,
        )

    def open(
        self, tokens: Sequence[int], root: bytes, restored: Mapping[bytes, Tensor] | None = None
    ) -> Lease:
        """Begin a context with the longest known prefix of ``tokens``, its last token excluded.

        ``restored``: checked pages that a block store gave back, by name.
        """
        lease = Lease(slot=len(self._leases), root=root)
        names = self.names(tokens, root)
        for name in names:
            page = self.pool.share([name]) or self._adopt(lease, name, restored or {})
            if not page:
                break
            lease.pages += page
        lease.hashes = names[: len(lease.pages)]
        lease.committed = len(lease.pages) * self.page_size
        self._leases.append(lease)
        self.rows.ensure(len(self._leases), lease.committed + 1)
        if lease.pages:
            self.rows.load(lease.slot, self._store[lease.pages])
        return lease

    def room(self, lease: Lease) -> int:
        """Rows that could be committed now without pages that others hold."""
        return (len(lease.pages) + self.pool.available) * self.page_size - lease.committed

    def reserve(self, lease: Lease, rows: int) -> None:
        """Hold pages for ``rows`` more committed tokens.

        Raises:
            OutOfPages: none was taken.
        """
        needed = -(-(lease.committed + rows) // self.page_size) - len(lease.pages)
        if needed > 0:
            lease.pages += self.pool.take(needed)

    def commit(self, committed: Sequence[Committed]) -> None:
        """Make accepted scratch rows context, and share every page that is now full."""
        commit_rows(
            self.rows.kv,
            [Accepted(item.lease.slot, item.lease.committed, item.rows) for item in committed],
        )
        for item in committed:
            item.lease.committed += len(item.rows)
            self._store_full_pages(item.lease, item.tokens)

    def close(self, lease: Lease) -> None:
        """Give everything back. The last slot moves into the gap."""
        self.pool.release(lease.pages)
        last = self._leases.pop()
        if last is not lease:
            self.rows.move(last.slot, lease.slot, last.committed)
            self._leases[lease.slot] = last
            last.slot = lease.slot
        lease.pages, lease.hashes, lease.committed, lease.slot = [], [], 0, -1
        if not self._leases:
            self.rows.release_all()

    def _store_full_pages(self, lease: Lease, tokens: Sequence[int]) -> None:
        first, size = len(lease.hashes), self.page_size
        count = lease.committed // size - first
        if count <= 0:
            return
        pages = lease.pages[first : first + count]
        self._store[pages] = self.rows.page(lease.slot, first * size, count, size)
        for index, page in enumerate(pages, start=first):
            previous = lease.hashes[-1] if lease.hashes else lease.root
            name = page_hash(previous, tokens[index * size : (index + 1) * size])
            lease.hashes.append(name)
            if self.pool.publish(page, name) and self._published is not None:
                self._published(name, self._store[page], lease.root)

    def _adopt(self, lease: Lease, name: bytes, restored: Mapping[bytes, Tensor]) -> list[int]:
        """A page filled from ``restored``; none if it is not there or finds no room."""
        content = restored.get(name)
        if content is None or not self.pool.available:
            return []
        [page] = self.pool.take(1)
        self._store[page] = content
        self.pool.publish(page, name)
        lease.restored += 1
        return [page]

    def names(self, tokens: Sequence[int], root: bytes) -> list[bytes]:
        """Of all full pages that ``open`` would look for."""
        names: list[bytes] = []
        size = self.page_size
        for start in range(0, len(tokens) - size, size):
            names.append(page_hash(names[-1] if names else root, tokens[start : start + size]))
        return names
