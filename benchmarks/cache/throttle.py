"""A TCP proxy that lets through so many bytes a second, for a Redis that is too far away."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_CHUNK = 16 * 1024


@contextlib.contextmanager
def throttled(port: int, bytes_per_s: float) -> Iterator[int]:
    """The port of a proxy to ``port`` of loopback whose answers are that slow."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener, port, bytes_per_s), daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def _serve(listener: socket.socket, port: int, bytes_per_s: float) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for ends in ((client, server, 0.0), (server, client, 1.0 / bytes_per_s)):
                threading.Thread(target=_pass, args=ends, daemon=True).start()


def _pass(source: socket.socket, target: socket.socket, s_per_byte: float) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            time.sleep(len(data) * s_per_byte)
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
