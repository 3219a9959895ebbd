"""Admin handlers behind the guard, and the ones that only refuse."""

from __future__ import annotations

from functools import wraps

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.admin.guard import Guard
from gateway.admin.problem import Problem
from gateway.errors import StalePolicy, StoreUnavailable

ACTOR = web.RequestKey("actor", str)


def guarded(guard: Guard, handler: Handler) -> Handler:
    """``handler`` behind the guard, its refusals as problems."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            request[ACTOR] = guard.admit(request)
            return await handler(request)
        except Problem as problem:
            return problem.response()
        except StalePolicy as error:
            return Problem(412, str(error), headers={"ETag": error.current}).response()
        except StoreUnavailable:
            return Problem(
                503,
                "The shared store does not answer, so nothing was changed.",
                headers={"Retry-After": "2"},
            ).response()

    return answer


def refuse_method(allowed: str) -> Handler:
    """A handler for the methods that a path does not have."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        raise Problem(405, f"Expected one of {allowed}.", headers={"Allow": allowed})

    return refuse


async def refuse_path(request: web.Request) -> web.StreamResponse:
    """Whatever else begins with `/admin`."""
    raise Problem(404, "Expected /admin/cascade or /admin/cache.")
