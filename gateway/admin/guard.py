"""Who may use the admin API: holders of the token, or without one this very machine."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

from gateway.admin.problem import Problem

_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
"""Never believed. Their presence means that the peer is a proxy and not the caller."""


class Guard:
    """Lets a request in, or says why not. It fails closed."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()

    def admit(self, request: web.Request) -> str:
        """Who asks, for the audit log: "token" or "loopback".

        Raises:
            Problem: 401 without the right token; 403 from elsewhere when no token is configured.
        """
        if self._token is not None:
            self._check_token(request.headers.get("Authorization", ""))
            return "token"
        _check_here(request)
        return "loopback"

    def _check_token(self, header: str) -> None:
        scheme, _, given = header.partition(" ")
        offered = given.strip().encode("utf-8", "surrogateescape")
        same = hmac.compare_digest(offered, self._token or b"")
        if scheme.lower() != "bearer" or not same or not self._token:
            raise Problem(
                401,
                "Expected the admin token as a bearer token.",
                headers={"WWW-Authenticate": 'Bearer realm="spillway-admin"'},
            )


def _check_here(request: web.Request) -> None:
    """A browser on this machine may be talked into asking on behalf of any web page: a page's
    requests carry its origin, and a rebound name its host."""
    if not is_local_peer(request):
        raise Problem(403, "No admin token is configured, so only this machine may ask.")
    headers = request.headers
    if any(name in headers for name in _PROXIED):
        raise Problem(403, "No admin token is configured, so nobody may ask through a proxy.")
    if not _is_local_name(headers.get("Host")):
        raise Problem(403, "No admin token is configured, so Host must name this machine.")
    if not _same_site(headers):
        raise Problem(403, "No admin token is configured, so no other site's page may ask.")


def is_local_peer(request: web.Request) -> bool:
    """Whether the other end of the connection is on this machine: loopback, or a unix socket."""
    transport = request.transport
    if transport is None:
        return False
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple) and peer:
        return _is_loopback(str(peer[0]))
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family.name == "AF_UNIX"


def _same_site(headers: Mapping[str, str]) -> bool:
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return False
    origin = headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == headers.get("Host")


def _is_local_name(host: str | None) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname if host else None
    except ValueError:
        return False
    return name is not None and (name == "localhost" or _is_loopback(name))


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
