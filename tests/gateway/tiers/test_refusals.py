"""What a status other than 200 means."""

from __future__ import annotations

import json

import pytest

from gateway.errors import ApiError, TierUnavailable
from gateway.tiers.refusals import TierBusy, refusal, retry_after_s


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refusal_of_the_request_itself_is_passed_on(status: int) -> None:
    body = {"error": {"message": "no", "type": "t", "param": "p", "code": "c"}}
    found = refusal("big", status, {}, json.dumps(body).encode())
    assert isinstance(found, ApiError)
    assert (found.status, found.message, found.type) == (status, "no", "t")
    assert (found.param, found.code) == ("p", "c")


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504, 301])
def test_what_the_client_cannot_mend_makes_the_tier_unavailable(status: int) -> None:
    found = refusal("big", status, {"retry-after": "7"}, b"")
    assert isinstance(found, TierUnavailable)
    assert found.retry_after_s == 7
    assert isinstance(found, TierBusy) == (status == 429)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail": "FastAPI says no"}', "FastAPI says no"),
        (b'{"error": "just text"}', "just text"),
        (b'{"object": "error", "message": "old vLLM"}', "old vLLM"),
        (b"<html>gone</html>", "<html>gone</html>"),
        (b"[]", "status 400"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"error": {"message": null}}', "status 400"),
        (b"[" * 100_000, "[" * 200),
    ],
)
def test_other_shapes_of_errors_keep_their_message(body: bytes, message: str) -> None:
    assert str(refusal("big", 400, {}, body)) == message


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
    ],
)
def test_retry_after_is_read_or_left(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers) == wait_s
