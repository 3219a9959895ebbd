"""Reading what an operator sent: strict JSON, known keys, a precondition."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import NoReturn

from aiohttp import web

from gateway.admin.problem import Problem
from gateway.generation import Json

MAX_BODY_BYTES = 64 * 1024
_TAG = re.compile(r'\s*(?:(W/)?("[\x21\x23-\x7e]*"))\s*(?:,|$)')


async def read_tiers(request: web.Request) -> Json:
    """The ``tiers`` of a body ``{"tiers": …}``, not yet checked.

    Raises:
        Problem: 400 for what is not JSON, 413 when too long, 422 naming a wrong or repeated key.
    """
    body = await read_json(request)
    if not isinstance(body, dict):
        raise Problem(422, "Expected an object with the key tiers.", field="")
    unknown = [key for key in body if key != "tiers"]
    if unknown:
        raise Problem(422, f"{unknown[0][:64]}: unknown key; expected tiers", field=unknown[0][:64])
    if "tiers" not in body:
        raise Problem(422, "tiers: missing; expected an object keyed by tier", field="tiers")
    return body["tiers"]


async def read_json(request: web.Request) -> Json:
    """The body as JSON. NaN and infinities pass, for whoever can name the field to refuse."""
    raw = bytearray()
    try:
        async for chunk in request.content.iter_chunked(16 * 1024):
            raw += chunk
            if len(raw) > MAX_BODY_BYTES:
                raise Problem(413, f"The body is longer than {MAX_BODY_BYTES} bytes.")
    except web.RequestPayloadError:
        raise Problem(400, "The body could not be read.") from None
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError):
        raise Problem(400, "The body is not JSON.") from None


def _unrepeated(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counted = Counter(key for key, _ in pairs)
        twice = next(key for key, times in counted.items() if times > 1)[:64]
        raise Problem(422, f"{twice}: given twice", field=twice)
    return found


def read_precondition(request: web.Request) -> frozenset[str] | None:
    """The entity tags of ``If-Match``; None for ``*``. Weak tags never match (RFC 9110).

    Raises:
        Problem: 428 without the header, 400 when it cannot be read.
    """
    values = request.headers.getall("If-Match", [])
    if not values:
        raise Problem(428, "Expected If-Match with the ETag that GET gave, or *.")
    text = ", ".join(values).strip()
    if text == "*":
        return None
    tags: set[str] = set()
    place = 0
    while place < len(text):
        found = _TAG.match(text, place)
        if found is None:
            _refuse_precondition()
        if found[1] is None:
            tags.add(found[2])
        place = found.end()
    return frozenset(tags)


def read_dry_run(request: web.Request) -> bool:
    """``?dry_run=true``. A misspelt parameter must not turn a rehearsal into a change.

    Raises:
        Problem: 400 for any other parameter or value.
    """
    unknown = [name for name in request.query if name != "dry_run"]
    if unknown:
        raise Problem(400, f"Unknown parameter {unknown[0][:64]!r}; expected dry_run.")
    values = request.query.getall("dry_run", ["false"])
    if len(values) != 1 or values[0] not in ("true", "false"):
        raise Problem(400, "dry_run: expected true or false.")
    return values[0] == "true"


def _refuse_precondition() -> NoReturn:
    raise Problem(400, "If-Match: expected quoted entity tags or *.")
