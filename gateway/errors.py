"""Every error the gateway raises, and how OpenAI's clients see each of them."""

from __future__ import annotations

from collections.abc import Mapping


class GatewayError(Exception):
    """Base of all errors of this package."""


class ConfigError(GatewayError, ValueError):
    """The configuration cannot be used; the message names the key, what was got and expected."""


class ApiError(GatewayError):
    """A refusal in OpenAI's shape: ``{"error": {message, type, param, code}}``."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body of the refusal."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class TierUnavailable(GatewayError):
    """A tier that cannot answer now: dead, restarting, overloaded or timed out before any text."""

    def __init__(self, tier: str, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"tier {tier!r} cannot answer: {reason}")
        self.tier = tier
        self.reason = reason
        self.retry_after_s = retry_after_s


class TierBroken(GatewayError):
    """A tier that failed after it began to answer."""


class StoreUnavailable(GatewayError):
    """The shared store did not answer in time. Caches treat it as a miss."""


class PolicyRefused(GatewayError, ValueError):
    """Thresholds that cannot be used; ``field`` is the path of the one at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class StalePolicy(GatewayError):
    """The policy changed since the caller read it; nothing was changed."""

    def __init__(self, current: str) -> None:
        super().__init__(f"the policy is now {current}; read it again")
        self.current = current
