"""`/admin/cache`: what the response cache holds and how often it helps; and dropping from it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.admin.audit import AuditLog
from gateway.admin.guard import Guard
from gateway.admin.handlers import ACTOR, guarded, refuse_method
from gateway.admin.problem import Problem
from gateway.cache.inventory import Inventory, Selection, drop_document
from gateway.cache.selftest import Check
from gateway.generation import Json

PATH = "/admin/cache"
_TEXTS = ("tenant", "model", "tier")
_KNOWN = frozenset((*_TEXTS, "older_than_s", "key", "all", "dry_run"))
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAdmin:
    """The routes and what they need. ``audit`` None: drops are only logged."""

    inventory: Inventory
    selftest: Callable[[], Awaitable[list[Check]]]
    token: str | None = None
    audit: AuditLog | None = None

    def routes(self) -> list[web.RouteDef]:
        """For ``app.add_routes``, before those that refuse every other path."""
        guard = Guard(self.token)
        handlers: Mapping[str, Handler] = {"GET": self._get, "DELETE": self._drop}
        listed = [web.route(m, PATH, guarded(guard, handler)) for m, handler in handlers.items()]
        return [
            *listed,
            web.route("*", PATH, guarded(guard, refuse_method("DELETE, GET, HEAD"))),
            web.post(f"{PATH}/selftest", guarded(guard, self._selftest)),
            web.route("*", f"{PATH}/selftest", guarded(guard, refuse_method("POST"))),
        ]

    async def _get(self, request: web.Request) -> web.Response:
        """Entries and bytes by tenant and model, and this replica's lookups."""
        return _answer(await self.inventory.document())

    async def _drop(self, request: web.Request) -> web.Response:
        """Drop what matches every parameter given."""
        dry_run = _flag(request, "dry_run")
        selection = read_selection(request)
        dropped = await self.inventory.drop(selection, dry_run=dry_run)
        document = drop_document(dropped, dry_run)
        if not dry_run:
            self._record(request, selection, document)
        return _answer(document)

    async def _selftest(self, request: web.Request) -> web.Response:
        """Ask as two made-up tenants whether either gets what is the other's."""
        checks = await self.selftest()
        passed = not any(check.outcome == "failed" for check in checks)
        if not passed:
            _log.error("the isolation self-test failed: %s", checks)
        return _answer({"passed": passed, "checks": [check._asdict() for check in checks]})

    def _record(self, request: web.Request, selection: Selection, done: Mapping[str, Json]) -> None:
        """Entries are gone already: a log that cannot be written must not hide that."""
        record = {
            "action": f"DELETE {PATH}",
            "actor": request[ACTOR],
            "peer": request.remote,
            "selection": asdict(selection),
            "dropped": done["dropped"],
        }
        _log.warning("%s cached answers dropped by %s", done["dropped"], request[ACTOR])
        try:
            if self.audit is not None:
                self.audit.append(record)
        except OSError as error:
            _log.error("the audit log cannot be written: %s", error)


def read_selection(request: web.Request) -> Selection:
    """What to drop. Without any parameter nothing is dropped by mistake.

    Raises:
        Problem: 400 for an unknown, repeated or unreadable parameter, or for none at all.
    """
    query = request.query
    for name in query:
        if name not in _KNOWN or len(query.getall(name)) != 1 or not query[name]:
            expected = ", ".join(sorted(_KNOWN))
            raise Problem(400, f"Parameter {name[:64]!r}: expected each of {expected} once.")
    texts = {name: query[name][:256] for name in _TEXTS if name in query}
    key = query.get("key")
    if key is not None and not re.fullmatch("[0-9a-f]{8,64}", key):
        raise Problem(400, "key: expected 8 to 64 lower-case hex digits.", field="key")
    selection = Selection(**texts, key=key, older_than_s=_seconds(query.get("older_than_s")))
    if selection == Selection() and not _flag(request, "all"):
        raise Problem(400, "Expected tenant, model, tier, older_than_s, key, or all=true.")
    return selection


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise Problem(400, "older_than_s: expected seconds.", field="older_than_s")
    return float(text)


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "false")
    if value not in ("true", "false"):
        raise Problem(400, f"{name}: expected true or false.", field=name)
    return value == "true"


def _answer(document: Mapping[str, Json]) -> web.Response:
    return web.Response(
        body=json.dumps(document).encode(),
        headers={"Cache-Control": "no-store"},
        content_type="application/json",
    )
