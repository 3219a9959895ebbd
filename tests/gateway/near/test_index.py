"""Nearest answers of one tenant only, within bounds of number, bytes and age."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.near.index import Index
from gateway.near.sentences import Vector


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def direction(seed: int, size: int = 8) -> Vector:
    vector = np.random.default_rng(seed).normal(size=size)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def index(**parts: object) -> Index:
    return Index(**{"max_entries": 100, "max_bytes": 10**6, "ttl_s": 60.0, **parts})  # type: ignore[arg-type]


def test_the_likest_come_first_and_the_unlike_not_at_all() -> None:
    found = index()
    for seed in range(20):
        found.add("t", direction(seed), str(seed))
    wanted = direction(3)
    alike = {str(seed): float(direction(seed) @ wanted) for seed in range(20)}
    expected = sorted((name for name in alike if alike[name] >= 0.2), key=lambda name: -alike[name])
    assert found.nearest("t", wanted, 4, 0.2) == expected[:4]
    assert found.nearest("t", wanted, 1, 0.999) == ["3"]
    assert found.nearest("t", -wanted, 1, 0.999) == []


def test_a_tenant_never_finds_anothers() -> None:
    found = index()
    found.add("a", direction(1), "a's")
    assert found.nearest("b", direction(1), 3, 0.0) == []
    assert not found.holds("b")
    found.forget("a")
    assert found.nearest("a", direction(1), 3, 0.0) == []
    assert found.used_bytes == 0


def test_the_same_question_keeps_its_newest_answer() -> None:
    found = index()
    for text in ("old", "new"):
        found.add("t", direction(1), text)
    assert found.nearest("t", direction(1), 3, 0.0) == ["new"]


def test_answers_are_forgotten_in_time_and_oldest_first() -> None:
    clock = Clock()
    found = index(max_entries=2, clock=clock)
    for seed in range(3):
        found.add("t", direction(seed), str(seed))
        clock.now += 25
    assert set(found.nearest("t", direction(1), 3, -1.0)) == {"1", "2"}
    clock.now += 15
    assert found.nearest("t", direction(1), 3, -1.0) == ["2"]
    clock.now += 60
    assert found.nearest("t", direction(1), 3, -1.0) == []
    assert found.used_bytes == 0


def test_vectors_of_another_model_are_forgotten_and_not_compared() -> None:
    found = index()
    found.add("t", direction(1), "old model")
    assert found.nearest("t", direction(1, 16), 3, -1.0) == []
    found.add("t", direction(1, 16), "new model")
    assert found.nearest("t", direction(1, 16), 3, -1.0) == ["new model"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 900))))
def test_it_never_holds_more_bytes_than_allowed(adds: list[tuple[str, int, int]]) -> None:
    found = index(max_bytes=5000, max_entries=5)
    for tenant, seed, length in adds:
        found.add(tenant, direction(seed), "x" * length)
        assert 0 <= found.used_bytes <= 5000
    for tenant in "abc":
        assert len(found.nearest(tenant, direction(0), 100, -1.0)) <= 5
    found.forget()
    assert found.used_bytes == 0
