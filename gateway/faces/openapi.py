"""`/openapi.json`: the route table and the request models as OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from aiohttp import web
from pydantic.json_schema import models_json_schema

from gateway.faces.front import FRONT
from gateway.wire.chat import ChatRequest
from gateway.wire.completion import CompletionRequest
from gateway.wire.render import dump

_BODIES: Mapping[str, str] = {
    "/v1/chat/completions": ChatRequest.__name__,
    "/v1/completions": CompletionRequest.__name__,
}
_TEXT = {"/metrics", "/metrics/engines"}
_PROBLEMS = "/admin"
_REF = "#/components/schemas/{model}"
_SHOWN = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE"))
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


async def openapi(request: web.Request) -> web.Response:
    """The description of this very server."""
    document = describe(request.app.router.routes(), keys=request.app[FRONT].keys.required)
    return web.Response(body=dump(document), content_type="application/json")


def describe(routes: Iterable[web.AbstractRoute], *, keys: bool) -> dict[str, Any]:
    """An OpenAPI 3.1 document of ``routes``; ``keys`` says whether callers must show one."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.resource is not None and route.method in _SHOWN:
            path = route.resource.canonical
            paths.setdefault(path, {})[route.method.lower()] = _operation(path, route)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Spillway", "version": version("spillway")},
        "paths": paths,
        "components": {
            "schemas": {**_schemas(), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    return {**document, "security": [{"key": []}]} if keys else document


@cache
def _schemas() -> dict[str, Any]:
    models: Any = [(ChatRequest, "validation"), (CompletionRequest, "validation")]
    _, schema = models_json_schema(models, ref_template=_REF)
    return dict(schema["$defs"])


def _operation(path: str, route: web.AbstractRoute) -> dict[str, Any]:
    summary = (route.handler.__doc__ or route.handler.__name__).strip().splitlines()[0]
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": f"{route.method.lower()}{re.sub(r'[^a-zA-Z0-9]+', '_', path)}",
        "responses": {"200": _answer(path), "default": _refusal(path)},
    }
    names = re.findall(r"{(\w+)}", path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if path in _BODIES:
        schema = {"$ref": _REF.format(model=_BODIES[path])}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _answer(path: str) -> dict[str, Any]:
    if path in _TEXT:
        return {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if path in _BODIES:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": "The answer", "content": content}


def _refusal(path: str) -> dict[str, Any]:
    if path.startswith(_PROBLEMS):
        content = {"application/problem+json": {"schema": {"type": "object"}}}
    else:
        content = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    return {"description": "A refusal", "content": content}
