"""`/livez`, `/readyz` and `/metrics`: what orchestrators and Prometheus ask."""

from __future__ import annotations

from aiohttp import web

from gateway.errors import ApiError
from gateway.faces.front import FRONT, IDENTITY
from gateway.metrics import CONTENT_TYPE
from gateway.wire.render import dump


async def livez(request: web.Request) -> web.Response:
    """The process answers; it says nothing about anything else."""
    return _status(200, "alive")


async def readyz(request: web.Request) -> web.Response:
    """200 when a request sent now has a tier to go to, else 503."""
    front = request.app[FRONT]
    if front.ready():
        return _status(200, "ready")
    return _status(503, "draining" if front.draining else "no tier is usable")


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format, for keys with the role `metrics` or `admin`.

    Raises:
        ApiError: 403, another key.
    """
    if not request[IDENTITY].roles & {"metrics", "admin"}:
        raise ApiError(
            403, "Your API key lacks the role `metrics`.", type="permission_error", code="forbidden"
        )
    exposition = request.app[FRONT].metrics.exposition()
    return web.Response(body=exposition, headers={"Content-Type": CONTENT_TYPE})


def _status(status: int, word: str) -> web.Response:
    return web.Response(status=status, body=dump({"status": word}), content_type="application/json")
