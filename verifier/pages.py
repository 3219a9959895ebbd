"""Pages of committed keys and values: counted, shared by content, least recent evicted first."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from verifier.errors import VerifierError


class OutOfPages(VerifierError):
    """Every page is in use by a running request."""


def root_hash(fingerprint: str, salt: str) -> bytes:
    """Where the chain of a tenant and model begins: 256 bits."""
    fields = (fingerprint.encode(), salt.encode())
    message = b"".join(len(field).to_bytes(8, "little") + field for field in fields)
    return hashlib.sha256(message).digest()


def page_hash(previous: bytes, tokens: Sequence[int]) -> bytes:
    """Name of a full page: of its own tokens and of all pages before it; 256 bits."""
    return hashlib.sha256(previous + array("q", tokens).tobytes()).digest()


class PagePool:
    """Who holds which page. Knows no tensors; a page is an index below ``total``.

    A page is free, held (one or more references), or kept: unreferenced but still named by a hash,
    until it is the least recently used and its room is needed.
    """

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"got {total} pages; expected at least 1")
        self.total = total
        self._references = [0] * total
        self._free = list(range(total - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    @property
    def used(self) -> int:
        """Pages some request holds."""
        return self.total - self.available

    @property
    def available(self) -> int:
        """Pages that could be taken now."""
        return len(self._free) + len(self._kept)

    @property
    def cached(self) -> int:
        """Pages that a new request with the same prefix could share."""
        return len(self._page_of)

    def references(self, page: int) -> int:
        """How many requests hold ``page``."""
        return self._references[page]

    def take(self, count: int) -> list[int]:
        """Hold ``count`` fresh pages.

        Raises:
            OutOfPages: fewer are available; none is taken.
        """
        if count > self.available:
            raise OutOfPages(f"got {count} pages to take; expected at most {self.available}")
        return [self._take_one() for _ in range(count)]

    def release(self, pages: Sequence[int]) -> None:
        """Give references back; later pages of a prefix become evictable before earlier ones."""
        for page in reversed(pages):
            assert self._references[page] > 0, f"page {page} is not held"
            self._references[page] -= 1
            if self._references[page] == 0:
                self._retire(page)

    def share(self, hashes: Sequence[bytes]) -> list[int]:
        """Hold the pages of the longest known prefix of ``hashes``, in order."""
        pages: list[int] = []
        for name in hashes:
            page = self._page_of.get(name)
            if page is None:
                break
            self._references[page] += 1
            self._kept.pop(page, None)
            pages.append(page)
        return pages

    def known(self, hashes: Sequence[bytes]) -> int:
        """How many pages ``share`` would find."""
        for count, name in enumerate(hashes):
            if name not in self._page_of:
                return count
        return len(hashes)

    def publish(self, page: int, name: bytes) -> bool:
        """Name a held, full page so that others may share it. The first page of a name stays.

        False: there is one of that name already.
        """
        assert self._references[page] > 0, f"page {page} is not held"
        if name in self._page_of or page in self._hash_of:
            return False
        self._page_of[name] = page
        self._hash_of[page] = name
        return True

    def forget(self) -> None:
        """Take all names back: nothing computed so far is shared with anybody new."""
        self._free += self._kept
        self._kept.clear()
        self._page_of.clear()
        self._hash_of.clear()

    def _take_one(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._kept.popitem(last=False)
            del self._page_of[self._hash_of.pop(page)]
        self._references[page] = 1
        return page

    def _retire(self, page: int) -> None:
        if page in self._hash_of:
            self._kept[page] = None
        else:
            self._free.append(page)
