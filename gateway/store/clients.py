"""Redis as one URL names it: a server, the master behind Sentinels, or a Cluster."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.errors import ConfigError

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster",
           "rediss+cluster")  # fmt: skip
_SENTINEL_PORT = 26_379
_PORT = 6379
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")


def check_url(url: str) -> None:
    """Raises ConfigError for a URL that names no Redis."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"expected a URL of one of {', '.join(SCHEMES)}")
    kind = parts.scheme.partition("+")[2]
    if kind and not _hosts(parts, _PORT):
        raise ConfigError(f"expected {parts.scheme}://host:port,host:port/...")
    if kind == "sentinel" and not parts.path.strip("/"):
        raise ConfigError(f"expected {parts.scheme}://host:port,host:port/MASTER, got no master")


def open_client(
    url: str, *, connect_s: float, socket_s: float, pool_wait_s: float, connections: int, most: int
) -> Any:
    """A client with explicit timeouts that retries nothing: redis-py's clients share one face.

    RESP2: under RESP3 redis-py's pool hands out connections that still hold unread data. Only a
    single server's pool can wait for a connection; the others open up to ``most``.
    """
    shared: dict[str, Any] = {
        "protocol": 2,
        "socket_connect_timeout": connect_s,
        "socket_timeout": socket_s,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "driver_info": None,
    }
    parts = urlsplit(url)
    kind = parts.scheme.partition("+")[2]
    if kind == "sentinel":
        return _sentinel(parts, {**shared, "max_connections": most})
    if kind == "cluster":
        return _cluster(parts, {**shared, "max_connections": most})
    pool = BlockingConnectionPool.from_url(
        url, timeout=pool_wait_s, max_connections=connections, **shared
    )
    return Redis.from_pool(pool)


def _sentinel(parts: SplitResult, options: dict[str, Any]) -> Any:
    master, _, database = parts.path.strip("/").partition("/")
    query = _query(parts)
    asking = {name: value for name, value in options.items() if name != "max_connections"}
    if "sentinel_password" in query:
        asking["password"] = query["sentinel_password"]
        asking["username"] = query.get("sentinel_username")
    make: Any = Sentinel
    sentinel = make(_hosts(parts, _SENTINEL_PORT), sentinel_kwargs=asking)
    more = {**options, **_user(parts), **_tls(parts), "db": int(database or 0)}
    return sentinel.master_for(master, **more)


def _cluster(parts: SplitResult, options: dict[str, Any]) -> Any:
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts, _PORT)]
    more = {**options, **_user(parts), **_tls(parts)}
    return RedisCluster(startup_nodes=nodes, cluster_error_retry_attempts=1, **more)


def _hosts(parts: SplitResult, port: int) -> list[tuple[str, int]]:
    found = []
    for entry in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{entry}")
        if one.hostname:
            found.append((one.hostname, one.port or port))
    return found


def _user(parts: SplitResult) -> dict[str, Any]:
    name, _, password = parts.netloc.rpartition("@")[0].partition(":")
    given = {"username": unquote(name) or None, "password": unquote(password) or None}
    return {option: value for option, value in given.items() if value is not None}


def _tls(parts: SplitResult) -> dict[str, Any]:
    if not parts.scheme.startswith("rediss"):
        return {}
    query = _query(parts)
    given: dict[str, Any] = {name: query[name] for name in _TLS_OPTIONS if name in query}
    if "ssl_check_hostname" in given:
        given["ssl_check_hostname"] = given["ssl_check_hostname"].lower() not in ("false", "no")
    return {"ssl": True, **given}


def _query(parts: SplitResult) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(parts.query).items()}
