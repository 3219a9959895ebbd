"""The breaker, on a clock that the test turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.tiers.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, first_pause_s=1, longest_pause_s=4, clock=clock, jitter=lambda: 1.0)


def _fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.begin()
        breaker.failed()


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = _breaker(Clock())
    _fail(breaker, 2)
    assert breaker.begin()
    breaker.succeeded()
    _fail(breaker, 2)
    assert breaker.state == "closed"
    _fail(breaker, 1)
    assert breaker.state == "open"
    assert not breaker.begin()
    assert breaker.retry_after_s() == 1


def test_one_probe_at_a_time_goes_out_and_its_success_closes_it() -> None:
    clock = Clock()
    breaker = _breaker(clock)
    _fail(breaker, 3)
    clock.now = 1
    assert breaker.state == "half_open"
    assert breaker.begin()
    assert not breaker.allows()
    assert not breaker.begin()
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.begin()


def test_failed_probes_double_the_pause_up_to_its_bound() -> None:
    clock = Clock()
    breaker = _breaker(clock)
    _fail(breaker, 3)
    pauses = []
    for _ in range(4):
        clock.now += breaker.retry_after_s()
        _fail(breaker, 1)
        pauses.append(breaker.retry_after_s())
    assert pauses == [2, 4, 4, 4]


def test_a_probe_whose_caller_left_lets_the_next_one_go() -> None:
    clock = Clock()
    breaker = _breaker(clock)
    _fail(breaker, 3)
    clock.now = 1
    assert breaker.begin()
    breaker.abandoned()
    assert breaker.state == "half_open"
    assert breaker.begin()


def test_requests_that_fail_together_open_it_once() -> None:
    breaker = _breaker(Clock())
    assert all(breaker.begin() for _ in range(32))
    for _ in range(32):
        breaker.failed()
    assert breaker.retry_after_s() == 1


@given(st.floats(0, 1))
def test_jitter_keeps_the_pause_between_half_and_whole(drawn: float) -> None:
    breaker = Breaker(failures=1, first_pause_s=8, clock=Clock(), jitter=lambda: drawn)
    _fail(breaker, 1)
    assert 4 <= breaker.retry_after_s() <= 8
