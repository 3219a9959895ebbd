"""The engine's HTTP face: OpenAI's endpoints over one worker and the models it serves."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.engine.answer import Answer, streamed, whole
from gateway.engine.intake import Batch, chat_batch, completion_batch, refused
from gateway.engine.metrics import CONTENT_TYPE, EngineMetrics
from gateway.engine.tokens import Served
from gateway.engine.worker import Worker
from gateway.errors import ApiError
from gateway.generation import Endpoint, Json
from gateway.wire.body import read_body
from gateway.wire.fields import CommonRequest
from gateway.wire.middleware import install
from gateway.wire.parse import off_loop, parse_chat, parse_completion
from gateway.wire.render import dump, new_head
from verifier.engine import Engine
from verifier.errors import QueueFull, RequestRefused

_Wanted = TypeVar("_Wanted", bound=CommonRequest)
OFF_LOOP_BYTES = 16 * 1024
"""Larger bodies are tokenised on a thread, so that the loop and its streams stay smooth."""


@dataclass(slots=True)
class Service:
    """What the handlers share."""

    engine: Engine
    worker: Worker
    models: Mapping[str, Served]
    key: str | None = None  # what callers must show, when set
    draining: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    tokenisers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="tokenise")
    )


SERVICE = web.AppKey("service", Service)
_OPEN_PATHS = frozenset(("/livez", "/readyz"))


def create_engine_app(service: Service, *, max_body_bytes: int) -> web.Application:
    """The application; it starts and stops the worker with itself."""
    app = web.Application(client_max_size=max_body_bytes, middlewares=[_only_callers_with_the_key])
    install(app)
    app[SERVICE] = service
    app.cleanup_ctx.append(_worker_runs)
    app.add_routes(
        [
            web.post("/v1/chat/completions", _chat),
            web.post("/v1/completions", _completions),
            web.get("/v1/models", _models),
            web.get("/v1/models/{name:.+}", _model),
            web.get("/livez", _livez),
            web.get("/readyz", _readyz),
            web.get("/metrics", _metrics),
        ]
    )
    return app


def service_of(engine: Engine, models: Sequence[Served], *, key: str | None = None) -> Service:
    """A service over ``models``, all of which ``engine`` must hold."""
    return Service(engine, Worker(engine), {one.name: one for one in models}, key)


async def _worker_runs(app: web.Application) -> AsyncIterator[None]:
    service = app[SERVICE]
    service.worker.start()
    yield
    await service.worker.stop()
    await asyncio.to_thread(service.engine.close)
    service.tokenisers.shutdown(wait=False, cancel_futures=True)


@web.middleware
async def _only_callers_with_the_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    key = request.app[SERVICE].key
    if key is not None and request.path not in _OPEN_PATHS:
        shown = request.headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(shown, f"Bearer {key}".encode()):
            raise ApiError(
                401,
                "The engine's key is missing or wrong.",
                type="authentication_error",
                code="invalid_api_key",
            )
    return await handler(request)


async def _chat(request: web.Request) -> web.StreamResponse:
    raw = await read_body(request)
    wanted = await off_loop(parse_chat, raw, "engine")
    return await _answer(request, "chat", wanted, chat_batch, len(raw))


async def _completions(request: web.Request) -> web.StreamResponse:
    raw = await read_body(request)
    wanted = await off_loop(parse_completion, raw, "engine")
    return await _answer(request, "completions", wanted, completion_batch, len(raw))


async def _answer(
    request: web.Request,
    endpoint: Endpoint,
    wanted: _Wanted,
    tokenise: Callable[[_Wanted, Served, str], Batch],
    size: int,
) -> web.StreamResponse:
    service = request.app[SERVICE]
    served = _served(service, wanted.model)
    head = new_head(endpoint, wanted.model)
    if size <= OFF_LOOP_BYTES:
        batch = tokenise(wanted, served, head.id)
    else:
        loop = asyncio.get_running_loop()
        batch = await loop.run_in_executor(service.tokenisers, tokenise, wanted, served, head.id)
    answer = Answer(wanted, served, batch, head)
    try:
        with service.worker.running(batch.requests) as outputs:
            if wanted.stream:
                return await streamed(request, answer, outputs)
            return await whole(answer, outputs)
    except (RequestRefused, QueueFull) as error:
        raise refused(error, wanted) from None


def _served(service: Service, name: str) -> Served:
    """The model asked for, if requests are taken at all."""
    if service.draining:
        raise ApiError(
            503,
            "The engine is shutting down.",
            type="server_error",
            code="draining",
            headers={"retry-after": "5"},
        )
    if name not in service.models:
        raise ApiError(
            404,
            f"The model {name[:64]!r} does not exist.",
            param="model",
            code="model_not_found",
        )
    return service.models[name]


async def _models(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    entries = [_entry(service, one) for one in service.models.values()]
    return _json({"object": "list", "data": entries})


async def _model(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    return _json(_entry(service, _served(service, request.match_info["name"])))


def _entry(service: Service, served: Served) -> dict[str, Json]:
    return {
        "id": served.name,
        "object": "model",
        "created": service.created,
        "owned_by": "spillway",
        "max_model_len": served.model.max_model_len,
        "vocab_size": served.model.vocab_size,
        "fingerprint": served.fingerprint,
    }


async def _livez(request: web.Request) -> web.Response:
    return _json({"status": "alive"})


async def _readyz(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    status = _status(service)
    if status != "ready":
        return _json({"status": status}, status=503)
    return _json({"status": status, "models": sorted(service.models)})


def _status(service: Service) -> str:
    if service.draining:
        return "draining"
    if service.worker.failed.is_set():
        return "failed"
    return "stuck" if service.worker.stuck else "ready"


async def _metrics(request: web.Request) -> web.Response:
    text = EngineMetrics(request.app[SERVICE].engine.stats).text()
    return web.Response(body=text, headers={"content-type": CONTENT_TYPE})


def _json(value: Json, status: int = 200) -> web.Response:
    return web.Response(body=dump(value), status=status, content_type="application/json")
