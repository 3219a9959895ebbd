"""`/admin/cascade`: the thresholds of every tier, read and replaced while requests run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.admin.audit import AuditLog
from gateway.admin.body import read_dry_run, read_precondition, read_tiers
from gateway.admin.guard import Guard
from gateway.admin.handlers import ACTOR, guarded, refuse_method, refuse_path
from gateway.admin.problem import Problem
from gateway.cascade.live import Change, LivePolicy
from gateway.cascade.policy import Policy, Rung, parse_rungs
from gateway.errors import PolicyRefused
from gateway.generation import Json, Tier

PATH = "/admin/cascade"
VERSION_HEADER = "x-spillway-policy-version"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminApi:
    """The admin routes and what they need. ``audit`` None: changes are only logged."""

    live: LivePolicy
    tiers: Sequence[Tier]
    token: str | None = None
    audit: AuditLog | None = None

    def routes(self) -> list[web.RouteDef]:
        """For ``app.add_routes``; the rest of `/admin` is refused in problems."""
        guard = Guard(self.token)
        handlers: Mapping[str, Handler] = {"GET": self._get, "PUT": self._put, "PATCH": self._patch}
        listed = [
            web.route(method, PATH, guarded(guard, handler)) for method, handler in handlers.items()
        ]
        wrong_method = guarded(guard, refuse_method("GET, HEAD, PATCH, PUT"))
        return [
            *listed,
            web.route("*", PATH, wrong_method),
            web.route("*", "/admin/{rest:.*}", guarded(guard, refuse_path)),
        ]

    async def _get(self, request: web.Request) -> web.Response:
        policy = self.live.current
        if policy.etag in _tags(request.headers.get("If-None-Match", "")):
            return web.Response(status=304, headers=_headers(policy))
        return _answer(self._document(policy), policy)

    async def _put(self, request: web.Request) -> web.Response:
        return await self._change(request, lambda given, _: given)

    async def _patch(self, request: web.Request) -> web.Response:
        return await self._change(request, _merged)

    async def _change(
        self, request: web.Request, wanted: Callable[[Json, Policy], Json]
    ) -> web.Response:
        dry_run, tags = read_dry_run(request), read_precondition(request)
        given = await read_tiers(request)
        try:
            change = await self.live.replace(
                lambda base: parse_rungs(wanted(given, base), base.ladder),
                expected_etags=tags,
                dry_run=dry_run,
            )
        except PolicyRefused as error:
            raise Problem(422, str(error), field=error.field) from None
        if not dry_run:
            self._record(request, change)
        document = self._document(change.after)
        changes = _changes(change)
        return _answer({**document, "dry_run": dry_run, "changes": changes}, self.live.current)

    def _document(self, policy: Policy) -> dict[str, Json]:
        return {
            "version": policy.version,
            "tiers": policy.document(),
            "ladder": [_described(tier) for tier in self.tiers],
        }

    def _record(self, request: web.Request, change: Change) -> None:
        """The change is in force already: a log that cannot be written must not hide that."""
        record = {
            "action": f"{request.method} {PATH}",
            "actor": request[ACTOR],
            "peer": request.remote,
            "version": change.after.version,
            "before": change.before.document(),
            "after": change.after.document(),
        }
        _log.warning("policy version %d: %s", change.after.version, _changes(change))
        if self.audit is None:
            return
        try:
            self.audit.append(record)
        except OSError as error:
            _log.error("the audit log %s cannot be written: %s", self.audit.path, error)


def _merged(given: Json, base: Policy) -> Json:
    """RFC 7396 over the thresholds in force; null, which would remove one, is left to refuse."""
    if not isinstance(given, dict):
        return given
    document: dict[str, Json] = dict(base.document())
    for tier, thresholds in given.items():
        old = document.get(tier, {})
        document[tier] = {**old, **thresholds} if isinstance(thresholds, dict) else thresholds
    return document


def _described(tier: Tier) -> dict[str, Json]:
    return {
        "tier": tier.name,
        "usable": tier.usable(),
        "fingerprint": tier.fingerprint,
        "max_model_len": tier.max_model_len,
        "capabilities": sorted(tier.capabilities),
    }


def _changes(change: Change) -> list[dict[str, Json]]:
    before, after = change.before.rungs, change.after.rungs
    return [
        {"field": f"tiers.{old.tier}.{key}", "from": getattr(old, key), "to": getattr(new, key)}
        for old, new in zip(before, after, strict=True)
        for key in _keys()
        if getattr(old, key) != getattr(new, key)
    ]


def _keys() -> tuple[str, ...]:
    return tuple(name for name in Rung.__dataclass_fields__ if name != "tier")


def _answer(document: Mapping[str, Json], policy: Policy) -> web.Response:
    return web.Response(
        body=json.dumps(document).encode(),
        headers=_headers(policy),
        content_type="application/json",
    )


def _headers(policy: Policy) -> dict[str, str]:
    return {
        "ETag": policy.etag,
        VERSION_HEADER: str(policy.version),
        "Cache-Control": "no-store",
    }


def _tags(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
