"""The page pool against a model of what it should hold."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from verifier.pages import OutOfPages, PagePool, page_hash, root_hash


class Holders(RuleBasedStateMachine):
    """Requests that take, share, publish and release pages in any order."""

    @initialize(total=st.integers(1, 9))
    def begin(self, total: int) -> None:
        self.pool = PagePool(total)
        self.held: list[list[int]] = []
        self.content: dict[int, bytes] = {}  # what a page was last published as

    @rule(count=st.integers(0, 4))
    def take(self, count: int) -> None:
        if count > self.pool.available:
            before = self.pool.available
            with pytest.raises(OutOfPages):
                self.pool.take(count)
            assert self.pool.available == before
            return
        pages = self.pool.take(count)
        assert not set(pages) & {page for pages in self.held for page in pages}
        for page in pages:
            self.content.pop(page, None)
        self.held.append(pages)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data(), name=st.integers(0, 5))
    def publish(self, data: st.DataObject, name: int) -> None:
        page = data.draw(st.sampled_from([page for pages in self.held for page in pages]))
        encoded = bytes([name])
        known = encoded in self.content.values() or page in self.content
        self.pool.publish(page, encoded)
        if not known:
            self.content[page] = encoded

    @rule(names=st.lists(st.integers(0, 5), max_size=3))
    def share(self, names: list[int]) -> None:
        encoded = [bytes([name]) for name in names]
        known = self.pool.known(encoded)
        pages = self.pool.share(encoded)
        assert len(pages) == known
        assert [self.content[page] for page in pages] == encoded[:known]
        self.held.append(pages)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.pool.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def every_reference_is_accounted_for(self) -> None:
        if not hasattr(self, "pool"):
            return
        everything = [page for pages in self.held for page in pages]
        for page in range(self.pool.total):
            assert self.pool.references(page) == everything.count(page)
        assert self.pool.used == len(set(everything))

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for pages in self.held:
                self.pool.release(pages)
            assert self.pool.used == 0
            assert self.pool.available == self.pool.total
            assert len(self.pool.take(self.pool.total)) == self.pool.total


Holders.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestHolders = Holders.TestCase


def test_the_least_recently_released_prefix_is_evicted_first() -> None:
    pool = PagePool(2)
    first, second = pool.take(2)
    pool.publish(first, b"first")
    pool.publish(second, b"second")
    pool.release([second])
    pool.release([first])
    pool.take(1)
    assert pool.known([b"first"]) == 1
    assert pool.known([b"second"]) == 0


def test_the_end_of_a_prefix_is_evicted_before_its_beginning() -> None:
    pool = PagePool(3)
    pages = pool.take(3)
    names = [b"a", b"b", b"c"]
    for page, name in zip(pages, names, strict=True):
        pool.publish(page, name)
    pool.release(pages)
    pool.take(1)
    assert pool.known(names) == 2


def test_hashes_tell_tenants_models_and_earlier_pages_apart() -> None:
    roots = {root_hash("m", "a"), root_hash("m", "b"), root_hash("ma", ""), root_hash("", "ma")}
    assert len(roots) == 4
    root = root_hash("m", "a")
    assert len(root) == 32
    assert page_hash(root, [1, 2]) != page_hash(page_hash(root, [1, 2]), [1, 2])
    assert page_hash(root, [1, 2]) == page_hash(root, (1, 2))


def test_a_pool_without_pages_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PagePool(0)
