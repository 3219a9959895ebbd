"""`GET /v1/models`: the tiers, and `auto`, which asks the cascade to choose."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.faces.front import AUTO, FRONT, IDENTITY, no_such_model
from gateway.keys import may_use
from gateway.wire.render import dump

_CREATED = 1_735_689_600  # models here have no birthday; clients want a number


async def list_models(request: web.Request) -> web.Response:
    """Every model the caller may name."""
    return _json({"object": "list", "data": [_model(name) for name in _visible(request)]})


async def get_model(request: web.Request) -> web.Response:
    """One model the caller may name."""
    name = request.match_info["model"]
    if name not in _visible(request):
        raise no_such_model(name)
    return _json(_model(name))


def _visible(request: web.Request) -> list[str]:
    names = [AUTO, *request.app[FRONT].tiers]
    return [name for name in names if may_use(request[IDENTITY], name)]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "spillway"}


def _json(value: Any) -> web.Response:
    return web.Response(body=dump(value), content_type="application/json")
