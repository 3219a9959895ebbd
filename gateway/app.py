"""The front end put together: faces, keys, tiers, cascade and admin API in one application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

from aiohttp import web

from gateway.admin.audit import AuditLog
from gateway.admin.cache import CacheAdmin
from gateway.admin.cascade import AdminApi
from gateway.cache.inventory import Inventory
from gateway.cache.selftest import selftest
from gateway.cascade.assembly import Running, running_cascade
from gateway.config import Config
from gateway.faces.admission import Admission
from gateway.faces.completions import chat_completions, completions
from gateway.faces.doors import count, identify
from gateway.faces.front import FRONT, Front
from gateway.faces.health import engine_metrics, livez, metrics, readyz
from gateway.faces.models import get_model, list_models
from gateway.faces.openapi import openapi
from gateway.keys import Keys, load_keys
from gateway.metrics import Metrics
from gateway.tiers.fleet import Fleet, running_fleet
from gateway.wire.body import BodyBudget
from gateway.wire.middleware import MORE_HEADERS, install

CONFIG_VERSION = "x-spillway-config-version"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def create_app(config: Config) -> web.Application:
    """The front end for ``config``. Its parts start and stop with the application.

    Raises:
        ConfigError: keys, secret or thresholds that cannot be used; here or at start.
    """
    keys = load_keys(config.server.keys_file, config.secret_bytes())
    app = bare_app(config.server.max_body_bytes)
    app.cleanup_ctx.append(partial(_parts, config, keys))
    return app


def bare_app(max_body_bytes: int) -> web.Application:
    """Routes and middlewares, without the ``FRONT`` they work with."""
    app = web.Application(client_max_size=max_body_bytes, middlewares=[identify])
    install(app)
    app.middlewares.insert(0, count)
    app.add_routes(
        [
            web.post("/v1/chat/completions", chat_completions),
            web.post("/v1/completions", completions),
            web.get("/v1/models", list_models),
            web.get("/v1/models/{model:.+}", get_model),
            web.get("/livez", livez),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/metrics/engines", engine_metrics),
            web.get("/openapi.json", openapi),
        ]
    )
    return app


async def _parts(config: Config, keys: Keys, app: web.Application) -> AsyncIterator[None]:
    counted = Metrics()
    async with (
        running_fleet(config) as fleet,
        running_cascade(
            config, fleet.tiers, escalated=counted.escalated, used=counted.used
        ) as running,
    ):
        app[FRONT] = front = _front(config, keys, fleet, running, counted)
        app[MORE_HEADERS] = _version_header(front.policy_version)
        app.add_routes(_cache_admin(config, keys, running, fleet).routes())
        app.add_routes(_admin(config, running, fleet).routes())
        yield


def _front(config: Config, keys: Keys, fleet: Fleet, running: Running, counted: Metrics) -> Front:
    server = config.server
    front = Front(
        answerer=running.cascade,
        tiers={tier.name: tier for tier in fleet.tiers},
        keys=keys,
        bodies=BodyBudget(server.max_reading_bytes),
        admission=Admission(server.max_concurrent, server.max_queue),
        metrics=counted,
        engines=fleet.engine_pages(),
        broken=fleet.broken,
        policy_version=lambda: running.live.current.version,
        hosts=None if keys.required else own_names(server.host, *server.allowed_hosts),
        admin_has_token=config.admin_token is not None,
    )
    counted.watch(
        tiers=[(tier.name, tier.usable) for tier in fleet.tiers],
        policy_version=front.policy_version,
        running=lambda: front.admission.running,
        waiting=lambda: front.admission.waiting,
    )
    return front


def own_names(*hosts: str) -> frozenset[str]:
    """Hosts a keyless server answers to, so that no web page can rebind a name of its own to us."""
    return frozenset((*_LOCAL_NAMES, *(host.strip("[]").lower() for host in hosts)))


def _version_header(version: Callable[[], int]) -> Callable[[], dict[str, str]]:
    return lambda: {CONFIG_VERSION: str(version())}


def _admin(config: Config, running: Running, fleet: Fleet) -> AdminApi:
    return AdminApi(
        live=running.live, tiers=fleet.tiers, token=_token(config), audit=_audit(config)
    )


def _cache_admin(config: Config, keys: Keys, running: Running, fleet: Fleet) -> CacheAdmin:
    inventory = Inventory(
        running.cache, running.store, tenants=keys.tenants, forget=running.cascade.forget
    )
    return CacheAdmin(
        inventory=inventory,
        selftest=partial(selftest, running.cache, fleet.tiers),
        token=_token(config),
        audit=_audit(config),
    )


def _token(config: Config) -> str | None:
    return None if config.admin_token is None else config.admin_token.get_secret_value()


def _audit(config: Config) -> AuditLog:
    return AuditLog(config.state_dir / "audit.jsonl")
