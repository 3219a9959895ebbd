"""How a tier can fail a request, in the receipt's words and in the client's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gateway.cascade.receipt import Outcome
from gateway.errors import ApiError, GatewayError, TierUnavailable
from gateway.tiers.refusals import TierBusy


class Late(GatewayError):
    """The request's deadline passed."""


def outcome_of(error: GatewayError) -> Outcome:
    """What the receipt says of a tier that failed so."""
    kinds: tuple[tuple[type[GatewayError], Outcome], ...] = (
        (ApiError, "refused"),
        (Late, "late"),
        (TierBusy, "busy"),
        (TierUnavailable, "unavailable"),
    )
    return next((outcome for kind, outcome in kinds if isinstance(error, kind)), "broken")


def nobody_answered(model: str, errors: Sequence[GatewayError], *, late: bool) -> ApiError:
    """Why no tier answered: the request itself, its deadline, or the tiers.

    Of several refusals the last one is told.
    """
    refusals = [error for error in errors if isinstance(error, ApiError)]
    if refusals:
        return refusals[-1]
    if late:
        return ApiError(504, "The deadline passed.", type="server_error", code="deadline")
    waits = [error.retry_after_s for error in errors if isinstance(error, TierUnavailable)]
    wait_s = min((wait for wait in waits if wait is not None), default=1.0)
    headers = {"retry-after": str(max(1, math.ceil(wait_s)))}
    if errors and all(isinstance(error, TierBusy) for error in errors):
        return ApiError(
            429,
            f"Too many requests for {model!r} are waiting.",
            type="rate_limit_error",
            code="queue_full",
            headers=headers,
        )
    return ApiError(
        503,
        f"No model can answer {model!r} now.",
        type="server_error",
        code="tier_unavailable",
        headers=headers,
    )
