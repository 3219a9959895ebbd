"""What was used twice is close at hand, whatever becomes of the store below."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from verifier.block_tiers import TieredBlockStore
from verifier.blocks import Good, MemoryBlockStore

OWNER = b"o" * 32


class Below(MemoryBlockStore):
    """Counts what it is asked for, and fails while ``broken``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []
        self.broken = False

    def save(self, name: bytes, parts: Sequence[bytes | memoryview], owner: bytes) -> bool:
        if self.broken:
            raise OSError("gone")
        return super().save(name, parts, owner)

    def restore(self, names: Sequence[bytes], size: int, good: Good, owner: bytes) -> None:
        self.asked += names
        if self.broken:
            raise OSError("gone")
        super().restore(names, size, good, owner)


def got(store: TieredBlockStore, *names: bytes, refused: bytes = b"") -> list[bytes]:
    found: list[bytes] = []

    def good(at: int, value: memoryview) -> bool:
        found.append(bytes(value))
        return names[at] != refused

    store.restore(names, 1, good, OWNER)
    return found


def test_the_second_use_brings_a_value_into_memory() -> None:
    memory, below = MemoryBlockStore(), Below()
    store = TieredBlockStore(memory, below)
    store.save(b"once", [b"1"], OWNER)
    store.save(b"twice", [b"2"], OWNER)
    store.save(b"twice", [b"2"], OWNER)
    assert (len(memory), len(below)) == (1, 2)
    assert got(store, b"twice") == [b"2"]
    assert below.asked == []
    assert got(store, b"twice", b"once", b"neither") == [b"2", b"1"]
    assert below.asked == [b"once", b"neither"]
    assert got(store, b"once") == [b"1"]
    assert below.asked == [b"once", b"neither"], "fetched once, at hand since"


def test_nothing_follows_a_value_that_is_refused() -> None:
    memory, below = MemoryBlockStore(), Below()
    store = TieredBlockStore(memory, below)
    for name in (b"a", b"b", b"c"):
        store.save(name, [name], OWNER)
    assert got(store, b"a", b"b", b"c", refused=b"b") == [b"a", b"b"]
    assert len(memory) == 1, "what was refused is not kept"
    assert got(store, b"a", b"b", b"c", refused=b"a") == [b"a"]


def test_memory_serves_alone_while_the_store_below_is_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory, below, moment = MemoryBlockStore(), Below(), [0.0]
    store = TieredBlockStore(memory, below, lambda: moment[0])
    store.save(b"a", [b"a"], OWNER)
    store.save(b"a", [b"a"], OWNER)
    below.broken = True
    asked = len(below.asked)
    for _ in range(5):
        assert got(store, b"a", b"b") == [b"a"]
        assert not store.save(b"new", [b"n"], OWNER) or len(memory) == 2
    assert len(below.asked) == asked + 1, "left alone after it failed"
    below.broken, moment[0] = False, 1.0
    below.save(b"b", [b"b"], OWNER)
    assert got(store, b"a", b"b") == [b"a", b"b"]
    assert [record.message.split("(")[0] for record in caplog.records] == [
        "block store: down ",
        "block store: up again",
    ]
