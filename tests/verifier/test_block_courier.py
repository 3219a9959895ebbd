"""Nobody waits for a block store: what is slow, full, broken or lying is a miss."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest
import torch

from verifier.block_courier import BlockCourier
from verifier.block_format import BlockFormat
from verifier.blocks import MemoryBlockStore
from verifier.rows import CacheShape

SHAPE = CacheShape(layers=1, heads=1, head_size=2, dtype=torch.float32)
LAYOUT = BlockFormat("model", SHAPE, 4)
NAMES = [bytes([number]) * 32 for number in range(40)]


def page(number: int) -> torch.Tensor:
    return torch.full((1, 4, 2, 2), float(number))


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


class Moody(MemoryBlockStore):
    """Waits for ``go`` and fails while ``broken``."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.broken = False
        self.calls = 0

    def save(self, name: bytes, value: bytes) -> None:
        self._behave()
        super().save(name, value)

    def restore(self, names: Sequence[bytes]) -> Sequence[bytes | None]:
        self._behave()
        return super().restore(names)

    def _behave(self) -> None:
        self.calls += 1
        assert self.go.wait(20)
        if self.broken:
            raise OSError("no")


def filled(store: MemoryBlockStore, count: int) -> None:
    for number in range(count):
        store.save(NAMES[number], LAYOUT.encode(NAMES[number], page(number)) or b"")


def test_the_longest_prefix_that_is_whole_comes_back() -> None:
    store = MemoryBlockStore()
    filled(store, 30)
    store.save(NAMES[20], b"garbage")
    arrived = threading.Event()
    courier = BlockCourier(store, LAYOUT, wait_s=20, arrived=arrived.set)
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
    courier = BlockCourier(store, LAYOUT, wait_s=5.0, clock=lambda: moment[0])
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
    courier = BlockCourier(store, LAYOUT, most_bytes=3 * LAYOUT.content_bytes)
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
    courier = BlockCourier(store, LAYOUT)
    content = page(7)
    courier.save(NAMES[0], content)
    content.zero_()
    store.go.set()
    eventually(lambda: courier.counts["saved"] == 1)
    [value] = store.restore([NAMES[0]])
    found = LAYOUT.decode(NAMES[0], value or b"")
    assert found is not None
    assert torch.equal(found, page(7))


def test_a_store_that_fails_is_left_alone_for_a_while_and_then_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Moody()
    filled(store, 3)
    moment = [100.0]
    courier = BlockCourier(store, LAYOUT, wait_s=9.0, clock=lambda: moment[0])
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
    courier = BlockCourier(store, LAYOUT, wait_s=60)
    fetches = [courier.fetch(NAMES[:1]) for _ in range(20)]
    assert sum(fetch.ready() for fetch in fetches) == 12
    store.go.set()
    eventually(lambda: all(fetch.ready() for fetch in fetches))


def test_closing_gives_the_last_pages_a_moment() -> None:
    store = MemoryBlockStore()
    courier = BlockCourier(store, LAYOUT)
    for number in range(30):
        courier.save(NAMES[number], page(number))
    courier.close(within_s=20)
    assert len(store) == 30


def test_the_store_of_this_process_keeps_what_was_used_last() -> None:
    store = MemoryBlockStore(max_bytes=30)
    for name in (b"a", b"b", b"c"):
        store.save(name, bytes(10))
    assert store.restore([b"a", b"x"]) == [bytes(10), None]
    store.save(b"d", bytes(10))
    assert [value is not None for value in store.restore([b"a", b"b", b"c", b"d"])] == [
        True,
        False,
        True,
        True,
    ]
    store.save(b"e", bytes(31))
    assert len(store) == 0
