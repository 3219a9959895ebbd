"""Bodies are bounded one by one and all together."""

from __future__ import annotations

import pytest

from gateway.errors import ApiError
from gateway.wire.body import BodyBudget


def test_bytes_beyond_the_budget_are_refused_and_what_was_held_is_given_back() -> None:
    bodies = BodyBudget(10)
    with bodies.share() as take:
        take(4)
        take(6)
        with pytest.raises(ApiError) as refused, bodies.share() as another:
            another(1)
        assert bodies.held == 10
    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "1")
    with bodies.share() as take:
        take(10)
    assert bodies.held == 0
