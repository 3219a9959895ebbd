"""Only refusals that would come again are remembered, and only so many, for so long."""

from __future__ import annotations

import pytest

from gateway.cache.refusals import Refusals
from gateway.errors import ApiError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504])
def test_what_is_about_the_moment_is_not_remembered(status: int) -> None:
    refusals = Refusals(5.0)
    refusals.keep("k", ApiError(status, "no"))
    assert refusals.of("k", "hit") is None


def test_a_refusal_comes_back_as_it_was_until_its_time_is_over() -> None:
    clock = Clock()
    refusals = Refusals(5.0, clock=clock)
    refusals.keep("k", ApiError(422, "no", type="t", param="p", code="c", headers={"a": "b"}))
    again = refusals.of("k", "hit")
    assert again is not None
    assert again.body()["error"] == {"message": "no", "type": "t", "param": "p", "code": "c"}
    assert again.headers == {"a": "b", "cache-status": "hit"}
    assert refusals.of("other", "hit") is None
    clock.now = 5.0
    assert refusals.of("k", "hit") is None


def test_only_the_latest_are_kept_and_none_when_switched_off() -> None:
    refusals, off = Refusals(5.0, most=2), Refusals(0.0)
    for key in "abc":
        refusals.keep(key, ApiError(400, key))
        off.keep(key, ApiError(400, key))
    assert [refusals.of(key, "hit") is not None for key in "abc"] == [False, True, True]
    assert off.of("c", "hit") is None
