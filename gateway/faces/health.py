"""`/livez`, `/readyz`, `/metrics` and `/metrics/engines`: what orchestrators and Prometheus ask."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from gateway.errors import ApiError
from gateway.faces.front import FRONT, IDENTITY
from gateway.metrics import CONTENT_TYPE
from gateway.tiers.scrape import engines_exposition
from gateway.wire.render import dump


async def livez(request: web.Request) -> web.Response:
    """The process answers; it says nothing about anything else."""
    return _status(200, "alive")


async def readyz(request: web.Request) -> web.Response:
    """200 when a request sent now has a tier to go to, else 503. Names engines that gave up."""
    front = request.app[FRONT]
    broken = sorted(front.broken())
    if front.ready():
        return _status(200, "ready", broken)
    return _status(503, "draining" if front.draining else "no tier is usable", broken)


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format, for keys with the role `metrics` or `admin`.

    Raises:
        ApiError: 403, another key.
    """
    _check_role(request)
    exposition = request.app[FRONT].metrics.exposition()
    return web.Response(body=exposition, headers={"Content-Type": CONTENT_TYPE})


async def engine_metrics(request: web.Request) -> web.Response:
    """What the engines count, with the label `engine`; one that is silent has `up` 0.

    Raises:
        ApiError: 403, as for `/metrics`.
    """
    _check_role(request)
    exposition = await engines_exposition(request.app[FRONT].engines)
    return web.Response(body=exposition, headers={"Content-Type": CONTENT_TYPE})


def _check_role(request: web.Request) -> None:
    if not request[IDENTITY].roles & {"metrics", "admin"}:
        raise ApiError(
            403, "Your API key lacks the role `metrics`.", type="permission_error", code="forbidden"
        )


def _status(status: int, word: str, broken: Sequence[str] = ()) -> web.Response:
    told = {"status": word, "broken_engines": list(broken)} if broken else {"status": word}
    return web.Response(status=status, body=dump(told), content_type="application/json")
