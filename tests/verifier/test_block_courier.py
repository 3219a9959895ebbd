"""Nobody waits for a block store: what is slow, full, broken or lying is a miss."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from verifier.block_courier import BlockCourier, BlockPolicy
from verifier.block_format import BlockFormat
from verifier.block_rates import BlockRates
from verifier.blocks import Good, MemoryBlockStore
from verifier.rows import CacheShape

SHAPE = CacheShape(layers=1, heads=1, head_size=2, dtype=torch.float32)
LAYOUT = BlockFormat("model", SHAPE, 4, b"secret")
NAMES = [bytes([number]) * 32 for number in range(40)]


def page(number: int) -> torch.Tensor:
    return torch.full((1, 4, 2, 2), float(number))


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def held(store: MemoryBlockStore, *names: bytes, size: int | None = None) -> list[memoryview]:
    found: list[memoryview] = []

    def good(at: int, value: memoryview) -> bool:
        found.append(value)
        return True

    store.restore(names, LAYOUT.value_bytes if size is None else size, good, b"")
    return found


class Moody(MemoryBlockStore):
    """Waits for ``go`` and fails while ``broken``."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.broken = False
        self.calls = 0

    def save(self, name: bytes, parts: Sequence[bytes | memoryview], owner: bytes) -> bool:
        self._behave()
        return super().save(name, parts, owner)

    def restore(self, names: Sequence[bytes], size: int, good: Good, owner: bytes) -> None:
        self._behave()
        super().restore(names, size, good, owner)

    def _behave(self) -> None:
        self.calls += 1
        assert self.go.wait(20)
        if self.broken:
            raise OSError("no")


def filled(store: MemoryBlockStore, count: int) -> None:
    for number in range(count):
        store.save(NAMES[number], LAYOUT.encode(NAMES[number], page(number)) or (), b"")


def courier_over(store: MemoryBlockStore, *, wait_s: float = 60.0, **more: Any) -> BlockCourier:
    policy = BlockPolicy(fetch="always", wait_s=wait_s, audit_every=0)
    return BlockCourier(store, LAYOUT, more.pop("policy", policy), **more)


def test_the_longest_prefix_that_is_whole_comes_back() -> None:
    store = MemoryBlockStore()
    filled(store, 30)
    store.save(NAMES[20], [bytes(LAYOUT.value_bytes)], b"")
    arrived = threading.Event()
    courier = courier_over(store, arrived=arrived.set)
    fetch = courier.fetch(NAMES)
    assert arrived.wait(20)
    assert fetch.ready()
    found = fetch.take()
    assert list(found) == NAMES[:20]
    assert all(torch.equal(found[NAMES[number]], page(number)) for number in range(20))
    assert courier.counts["restored"] == 20
    assert courier.counts["refused"] == 1


def test_what_comes_late_is_left_and_the_rest_is_taken() -> None:
    store = Moody()
    filled(store, 20)
    moment = [0.0]
    courier = courier_over(store, wait_s=5.0, clock=lambda: moment[0])
    fetch = courier.fetch(NAMES)
    eventually(lambda: fetch._done)
    assert len(fetch.take()) == 20
    store.go.clear()
    late = courier.fetch(NAMES)
    assert not late.ready()
    moment[0] = 5.0
    assert late.ready()
    assert late.take() == {}
    store.go.set()
    eventually(lambda: late._done)
    assert late.take() == {}, "what came after the deadline is dropped"


def test_a_store_that_is_too_slow_costs_pages_never_time() -> None:
    store = Moody()
    store.go.clear()
    courier = courier_over(store, policy=BlockPolicy(most_bytes=3 * LAYOUT.content_bytes))
    for number in range(10):
        courier.save(NAMES[number], page(number))
    assert courier.counts["dropped"] == 7
    store.go.set()
    eventually(lambda: courier.counts["saved"] == 3)
    courier.save(NAMES[9], page(9))
    eventually(lambda: courier.counts["saved"] == 4)
    assert len(store) == 4


def test_the_page_is_copied_before_the_engine_writes_over_it() -> None:
    store = Moody()
    store.go.clear()
    courier = courier_over(store)
    content = page(7)
    courier.save(NAMES[0], content)
    content.zero_()
    store.go.set()
    eventually(lambda: courier.counts["saved"] == 1)
    found = LAYOUT.decode(NAMES[0], held(store, NAMES[0])[0])
    assert found is not None
    assert torch.equal(found, page(7))


def test_a_store_that_fails_is_left_alone_for_a_while_and_then_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Moody()
    filled(store, 3)
    moment = [100.0]
    courier = courier_over(store, wait_s=9.0, clock=lambda: moment[0])
    store.broken, before = True, store.calls
    fetch = courier.fetch(NAMES[:3])
    eventually(fetch.ready)
    assert fetch.take() == {}
    for _ in range(5):
        assert courier.fetch(NAMES[:3]).ready()
        courier.save(NAMES[0], page(0))
    assert store.calls == before + 1
    assert courier.counts["dropped"] == 5
    store.broken = False
    moment[0] += 1.0
    fetch = courier.fetch(NAMES[:3])
    eventually(fetch.ready)
    assert len(fetch.take()) == 3
    assert [record.message.split("(")[0] for record in caplog.records] == [
        "block store: down ",
        "block store: up again",
    ]


def test_more_fetches_than_allowed_are_misses_at_once() -> None:
    store = Moody()
    store.go.clear()
    courier = courier_over(store)
    fetches = [courier.fetch(NAMES[:1]) for _ in range(20)]
    assert sum(fetch.ready() for fetch in fetches) == 12
    store.go.set()
    eventually(lambda: all(fetch.ready() for fetch in fetches))


def test_closing_gives_the_last_pages_a_moment() -> None:
    store = MemoryBlockStore()
    courier = courier_over(store)
    for number in range(30):
        courier.save(NAMES[number], page(number))
    courier.close(within_s=20)
    assert len(store) == 30


def test_what_takes_longer_than_computing_is_not_fetched_but_looked_at_beside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    store = Moody()
    filled(store, 40)
    moment, calls = [100.0], store.calls
    rates = BlockRates(4, token_s=0.01)
    rates.fetched(1, 1.0, 1.0)
    policy = BlockPolicy(audit_every=0)
    courier = courier_over(store, policy=policy, rates=rates, clock=lambda: moment[0])
    for _ in range(3):
        declined = courier.fetch(NAMES[:10])
        assert declined.ready()
        assert declined.take() == {}
    assert courier.counts["declined"] == 30
    eventually(lambda: courier.counts["restored"] == 2)
    assert store.calls == calls + 1, "one trial of two pages, for nobody"
    assert "computed: 10000.0 ms to fetch" in caplog.text
    eventually(lambda: courier._fetches == 0)
    for _ in range(12):
        moment[0] += 6.0
        courier.fetch(NAMES[:10])
        eventually(lambda: courier._fetches == 0)
    assert rates.fetching_pays(10), "the store is fast by now, and that was noticed"
    fetch = courier.fetch(NAMES[:10])
    eventually(fetch.ready)
    assert len(fetch.take()) == 10


def test_the_queue_before_a_request_hides_the_time_of_its_fetch() -> None:
    rates = BlockRates(4, token_s=0.01)
    rates.fetched(10, 0.1, 1.0)
    assert not rates.fetching_pays(10)
    assert rates.fetching_pays(10, ahead=100)
    assert not rates.fetching_pays(10, before=40, ahead=100), "a queue of fetches counts too"


def test_what_is_not_known_yet_is_found_out() -> None:
    assert BlockRates(4).fetching_pays(1)
    assert BlockRates(4, token_s=1.0).fetching_pays(1)
    rates = BlockRates(4, token_s=1e-6)
    rates.computed(3, 99.0)
    assert rates.token_s == 1e-6, "a step of few prompt tokens says nothing about one"
    rates.computed(64, 0.64)
    assert rates.token_s == pytest.approx(0.003, rel=0.01)


def test_the_wait_for_pages_is_bounded_by_what_they_are_worth() -> None:
    rates = BlockRates(4, token_s=0.01)
    assert rates.patience_s(10, 0, 60.0) == pytest.approx(0.2)
    assert rates.patience_s(10, 0, 0.1) == 0.1
    rates.fetched(0, 0.0, 0.5)
    assert rates.first_s == 0.5, "nothing in half a second is slow"
    assert BlockRates(4).patience_s(10, 0, 60.0) == 60.0


def test_the_store_of_this_process_keeps_what_was_used_last() -> None:
    store = MemoryBlockStore(max_bytes=30)
    for name in (b"a", b"b", b"c"):
        assert store.save(name, [bytes(10)], b"")
    assert held(store, b"a", b"x", b"c", size=10) == [bytes(10)]
    store.save(b"d", [bytes(4), bytes(6)], b"")
    assert [len(held(store, name, size=10)) for name in (b"a", b"b", b"c", b"d")] == [1, 0, 1, 1]
    assert not store.save(b"e", [bytes(31)], b"")
    assert len(store) == 3


def test_a_tenant_who_fills_his_share_pushes_out_nobody_else() -> None:
    store = MemoryBlockStore(max_bytes=100, share=0.5)
    for number in range(3):
        store.save(NAMES[number], [bytes(10)], b"quiet")
    for number in range(3, 40):
        store.save(NAMES[number], [bytes(10)], b"loud")
    assert len(held(store, *NAMES[:3], size=10)) == 3
    assert len(held(store, *NAMES[35:], size=10)) == 5
    assert len(store) == 8
