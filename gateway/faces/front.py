"""What every handler of the front end works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from gateway.errors import ApiError
from gateway.faces.admission import Admission
from gateway.generation import Answerer, Identity, Tier
from gateway.keys import Keys, may_use
from gateway.metrics import Metrics
from gateway.tiers.scrape import Page
from gateway.wire.body import BodyBudget

AUTO = "auto"
READING_BYTES = 64 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Front:
    """The parts behind the faces; ``draining`` is the only thing that ever changes."""

    answerer: Answerer
    tiers: Mapping[str, Tier]
    keys: Keys
    admission: Admission
    bodies: BodyBudget = field(default_factory=lambda: BodyBudget(READING_BYTES))
    metrics: Metrics = field(default_factory=Metrics)
    engines: Mapping[str, Page] = field(default_factory=dict)  # where each tells its metrics
    broken: Callable[[], Mapping[str, str]] = dict  # engines that are not started again, and why
    policy_version: Callable[[], int] = lambda: 0
    hosts: frozenset[str] | None = None  # host names we answer to; None: any
    admin_has_token: bool = False
    heartbeat_s: float = 15.0
    write_timeout_s: float = 30.0
    body_timeout_s: float = 30.0
    draining: bool = False

    def ready(self) -> bool:
        """Whether a new request has a tier to go to."""
        return not self.draining and any(tier.usable() for tier in self.tiers.values())

    def check_model(self, model: str, identity: Identity) -> None:
        """Refuse a model that is not served or not allowed.

        Raises:
            ApiError: 404 ``model_not_found`` or 403 ``model_not_allowed``.
        """
        if model != AUTO and model not in self.tiers:
            raise no_such_model(model)
        if not may_use(identity, model):
            raise ApiError(
                403,
                f"Your API key does not allow the model `{model}`.",
                type="permission_error",
                param="model",
                code="model_not_allowed",
            )


FRONT = web.AppKey("front", Front)
IDENTITY = web.RequestKey("identity", Identity)


def no_such_model(model: str) -> ApiError:
    """404 as OpenAI's clients know it."""
    shown = model[:64].encode("utf-8", "replace").decode()
    return ApiError(
        404,
        f"The model `{shown}` does not exist or you do not have access to it.",
        param="model",
        code="model_not_found",
    )
