"""The two middlewares every request passes first: who asks, and what is counted of it."""

from __future__ import annotations

import time

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.admin.problem import Problem
from gateway.errors import ApiError
from gateway.faces.answering import ANSWERED_BY
from gateway.faces.front import FRONT, IDENTITY, Front
from gateway.keys import host_name

OPEN = frozenset(("/livez", "/readyz"))
"""Paths that need no key. Whatever is not listed needs one."""
ADMIN = "/admin"
CLIENT_LEFT = 499  # nginx's word for it
_READERS = frozenset(("reader", "operator", "admin"))
_WRITERS = frozenset(("operator", "admin"))


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Establish the caller before any handler runs. Admin routes refuse in problems only."""
    try:
        _admit(request, request.app[FRONT], route_of(request))
    except ApiError as error:
        if not route_of(request).startswith(ADMIN):
            raise
        return Problem.of(error).response()
    return await handler(request)


def _admit(request: web.Request, front: Front, route: str) -> None:
    """Raises ApiError: 403 a host that is not ours, 401 no key, 403 a key without the role."""
    if front.hosts is not None and host_name(request.host) not in front.hosts:
        raise ApiError(
            403,
            "This server does not answer to that Host; expected one of its own names.",
            type="permission_error",
            code="host_not_allowed",
        )
    if _needs_key(route, front.admin_has_token):
        request[IDENTITY] = front.keys.identify(request.headers.get("Authorization"))
        _check_role(request, route)


def _needs_key(route: str, admin_has_token: bool) -> bool:
    """The admin routes ask for their own token when there is one."""
    return not (route in OPEN or (admin_has_token and route.startswith(ADMIN)))


def _check_role(request: web.Request, route: str) -> None:
    """Without an admin token, keys decide by role who may read and who may change."""
    if not route.startswith(ADMIN):
        return
    reading = request.method in ("GET", "HEAD")
    wanted = _READERS if reading else _WRITERS
    if not request[IDENTITY].roles & wanted:
        raise ApiError(
            403,
            f"Your API key lacks the role `{'reader' if reading else 'operator'}`.",
            type="permission_error",
            code="forbidden",
        )


def route_of(request: web.Request) -> str:
    """The route that matched, as it was declared; never a path the client made up."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


@web.middleware
async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the response, and whoever left before it was complete."""
    began = time.monotonic()
    status = CLIENT_LEFT
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        tier = request.get(ANSWERED_BY, "none")
        seconds = time.monotonic() - began
        request.app[FRONT].metrics.answered(route_of(request), status, tier, seconds)
