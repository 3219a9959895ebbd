"""`POST /v1/chat/completions` and `POST /v1/completions`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.faces.answering import asked, write_answer
from gateway.faces.front import FRONT, IDENTITY
from gateway.faces.jobs import chat_job, completion_jobs, own_echoes
from gateway.wire.body import read_body
from gateway.wire.chat import ChatRequest
from gateway.wire.completion import CompletionRequest
from gateway.wire.parse import off_loop, parse_chat, parse_completion


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    wanted: ChatRequest = await _read(request, parse_chat)
    job = chat_job(request, wanted)
    return await write_answer(request, asked("chat", wanted, [job]))


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue text."""
    wanted: CompletionRequest = await _read(request, parse_completion)
    jobs = completion_jobs(request, wanted)
    return await write_answer(request, asked("completions", wanted, jobs, own_echoes(wanted)))


async def _read(request: web.Request, parse: Any) -> Any:
    """The request as ``parse`` understands it, for a model that the caller may use."""
    front = request.app[FRONT]
    with front.bodies.share() as take:
        raw = await read_body(request, timeout_s=front.body_timeout_s, take=take)
        wanted = await off_loop(parse, raw)
    front.check_model(wanted.model, request[IDENTITY])
    return wanted
