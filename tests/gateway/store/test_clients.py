"""One URL reaches a server, the master behind Sentinels, or a Cluster, with TLS and ACL users."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import yaml

from gateway.errors import ConfigError, StoreUnavailable
from gateway.store.clients import check_url
from gateway.store.lane import Limits
from gateway.store.redis_store import RedisStore
from gateway.store.relay import Relay

PATIENT = Limits(call_s=10, connect_s=10, socket_s=10, pool_wait_s=10)
StartServer = Callable[..., int]


@pytest.fixture
def start_server(tmp_path: Path, redis_binary: str) -> Iterator[StartServer]:
    """Start a redis-server with lines of configuration; returns its port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*lines: str, mode: str = "") -> int:
        with contextlib.ExitStack() as held:
            while True:  # a cluster's bus listens 10,000 above
                probe = held.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
                if port < 55_000:
                    break
        folder = tmp_path / str(port)
        folder.mkdir()
        base = [f"port {port}", "bind 127.0.0.1", 'save ""', f"dir {folder}"]
        config = folder / "redis.conf"
        config.write_text("\n".join([*base, *lines]) + "\n")
        command = [redis_binary, str(config), *([mode] if mode else [])]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        ask(port, "PING")
        return port

    yield start
    for one in started:
        one.kill()
        one.wait()


def ask(port: int, *words: str) -> bytes:
    wire = b"*%d\r\n" % len(words)
    wire += b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
                link.sendall(wire)
                return link.recv(65536)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


async def until(check: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def uses_everything(url: str) -> None:
    """Every kind of command that the gateway sends."""
    store = RedisStore(url, limits=PATIENT, control_limits=PATIENT)
    relay = Relay(url, PATIENT)
    keys = [f"spillway:rc:2:{at}" for at in range(20)]
    for key in keys:
        assert await store.swap(key, expected=None, value=b"one", ttl_s=60)
        assert not await store.swap(key, expected=None, value=b"two", ttl_s=60)
        assert await store.swap(key, expected=b"one", value=b"two", ttl_s=60)
        assert await store.get(key) == b"two"
    found = await store.stored("spillway:rc:2:", 2)
    assert sorted(found) == sorted((key, 3, b"tw") for key in keys)
    assert await store.remove(keys) == 20
    changed = asyncio.create_task(store.wait_changed("spillway:policy", 30))
    assert await store.compare_and_set("spillway:policy", expected=None, value=b"1")
    assert not await store.compare_and_set("spillway:policy", expected=None, value=b"2")
    await asyncio.wait_for(changed, 20)
    for name in ("a", "b", "c"):
        claim, other = await relay.join(name), await relay.join(name)
        assert claim is not None and other is not None
        assert (claim.leads, other.leads) == (True, False)
        await relay.want(other)
        assert await relay.say(claim, 1, b"x") == (True, False)
        await relay.finish(claim, 2, b"y")
        assert [heard.payload for heard in await relay.listen(other, 0)] == [b"x", b"y"]
    for opened in (store, relay):
        await opened.aclose()


async def test_a_single_server(start_server: StartServer) -> None:
    await uses_everything(f"redis://127.0.0.1:{start_server()}/0")


def acl_of_the_compose_file() -> list[str]:
    """What its one user may do, as it stands behind the password."""
    services = yaml.safe_load((Path(__file__).parents[3] / "docker-compose.yml").read_text())
    words: list[str] = services["services"]["redis"]["command"]
    return words[words.index("~spillway:*") :]


async def test_the_acl_user_of_the_compose_file_may_do_all_that_is_needed_and_no_more(
    start_server: StartServer,
) -> None:
    user = ["user", "spillway", "on", ">secret", *acl_of_the_compose_file()]
    port = start_server("user default off", " ".join(user))
    url = f"redis://spillway:secret@127.0.0.1:{port}/0"
    await uses_everything(url)
    for wrong in (f"redis://127.0.0.1:{port}/0", f"redis://spillway:wrong@127.0.0.1:{port}/0"):
        store = RedisStore(wrong, limits=PATIENT)
        with pytest.raises(StoreUnavailable):
            await store.get("spillway:rc:2:x")
        await store.aclose()
    store = RedisStore(url, limits=PATIENT)
    for command in (("GET", "other"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"),
                    ("SCRIPT", "FLUSH"), ("ACL", "LIST"), ("DEBUG", "SLEEP", "0")):  # fmt: skip
        with pytest.raises(StoreUnavailable, match=r"(?i)noperm|permission"):
            await store._admin.call(lambda redis, words=command: redis.execute_command(*words))
    await store.aclose()


async def test_a_cluster_of_two(start_server: StartServer) -> None:
    lines = ("cluster-enabled yes", "cluster-announce-ip 127.0.0.1", "cluster-node-timeout 5000")
    one, other = start_server(*lines), start_server(*lines)
    slots = [str(slot) for slot in range(16_384)]
    ask(one, "CLUSTER", "ADDSLOTS", *slots[:8192])
    ask(other, "CLUSTER", "ADDSLOTS", *slots[8192:])
    ask(one, "CLUSTER", "MEET", "127.0.0.1", str(other))
    await until(lambda: all(b"state:ok" in ask(port, "CLUSTER", "INFO") for port in (one, other)))
    await uses_everything(f"redis+cluster://127.0.0.1:{one},127.0.0.1:{other}")


async def test_the_master_behind_sentinels(start_server: StartServer) -> None:
    master = start_server()
    sentinel = start_server(f"sentinel monitor main 127.0.0.1 {master} 1", mode="--sentinel")
    await uses_everything(f"redis+sentinel://127.0.0.1:9,127.0.0.1:{sentinel}/main/0")


@pytest.mark.full
async def test_after_a_failover_writes_go_to_the_new_master(start_server: StartServer) -> None:
    master = start_server()
    replica = start_server(f"replicaof 127.0.0.1 {master}")
    await until(lambda: b"master_link_status:up" in ask(replica, "INFO", "replication"))
    sentinel = start_server(
        f"sentinel monitor main 127.0.0.1 {master} 1", "sentinel down-after-milliseconds main 500",
        "sentinel failover-timeout main 2000", mode="--sentinel",
    )  # fmt: skip
    await until(lambda: str(replica).encode() in ask(sentinel, "SENTINEL", "REPLICAS", "main"))
    store = RedisStore(f"redis+sentinel://127.0.0.1:{sentinel}/main/0", limits=PATIENT)
    await store.set("k", b"v", ttl_s=600)
    await until(lambda: ask(sentinel, "SENTINEL", "FAILOVER", "main").startswith(b"+OK"))
    await until(lambda: b"role:master" in ask(replica, "INFO", "replication"))
    async with asyncio.timeout(30):
        while b"$1\r\nw" not in ask(replica, "GET", "k"):
            with contextlib.suppress(StoreUnavailable):
                await store.set("k", b"w", ttl_s=600)
            await asyncio.sleep(0.05)
    await store.aclose()


@pytest.fixture
async def tls_port(start_server: StartServer, tmp_path: Path) -> AsyncIterator[int]:
    """A server behind TLS with a certificate of its own."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    await asyncio.to_thread(
        subprocess.run, [*command, *names, *made], check=True, capture_output=True
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    behind = start_server()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", behind)
        await asyncio.gather(pump(reader, forth), pump(back, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield int(server.sockets[0].getsockname()[1])
    server.close()


async def test_tls_is_used_and_a_certificate_of_strangers_refused(
    tls_port: int, tmp_path: Path
) -> None:
    trusted = f"?ssl_ca_certs={tmp_path / 'cert.pem'}"
    await uses_everything(f"rediss://127.0.0.1:{tls_port}/0{trusted}")
    for url in (f"rediss://127.0.0.1:{tls_port}/0", f"redis://127.0.0.1:{tls_port}/0"):
        store = RedisStore(url, limits=Limits(call_s=10, socket_s=1.0))
        with pytest.raises(StoreUnavailable):
            await store.get("k")
        await store.aclose()


@pytest.mark.parametrize(
    "url", ["http://h", "redis+sentinel://h:1", "redis+sentinel:///main", "redis+cluster://", "h:1"]
)
def test_a_url_that_names_no_redis_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        check_url(url)
