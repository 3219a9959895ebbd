"""Redis over one plain socket: bulk values are read straight into buffers already there."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.errors import ConfigError, StoreUnavailable

Buffer = bytearray | memoryview
_LINE_BYTES = 16 * 1024  # what is read ahead while looking for the end of a line
_LONGEST_LINE = 512  # of replies we understand
_LONGEST_VALUE = 64 * 1024 * 1024
_MISSING = -1
_AHEAD = 2  # values asked for before the one being read has arrived


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis listens and who we are to it."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str | None = None  # a unix socket instead
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: bool = False
    ca_file: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a `redis://`, `rediss://` or `unix://` URL as redis-py does.

        Raises:
            ConfigError: another scheme.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ConfigError(
                f"got a {parts.scheme!r} URL; expected redis://, rediss:// or unix://"
            )
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = unquote(parts.path) if parts.scheme == "unix" else None
        database = query.get("db") or (parts.path.strip("/") if path is None else "") or "0"
        return cls(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 6379,
            path=path,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            database=int(database),
            tls=parts.scheme == "rediss",
            ca_file=query.get("ssl_ca_certs"),
        )


class RespConnection:
    """One connection for one thread. After any error but a server's own it is closed for good.

    Every call has a deadline of its own for all it sends and receives. A reply that is not
    what the protocol allows, or of another length than the buffer made for it, never leaves bytes
    behind for the next caller.
    """

    def __init__(self, address: Address, *, connect_s: float = 0.25) -> None:
        self._ahead = bytearray(_LINE_BYTES)
        self._from, self._to = 0, 0
        self._deadline = time.monotonic() + connect_s
        self._armed_s = 0.0
        self._socket = _connect(address, connect_s)
        self._socket.settimeout(None)  # the kernel keeps the time: one system call for a block
        self._whole = 0 if address.tls else socket.MSG_WAITALL
        try:
            self._greet(address)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def get_into(
        self,
        keys: Sequence[bytes],
        buffers: Iterable[memoryview],
        *,
        good: Callable[[int], bool],
        timeout_s: float,
    ) -> int:
        """Read values into buffers until one is missing or ``good`` refuses it; how many were good.

        A value that is not exactly as long as its buffer, or of another type, is missing too.
        Only a few are asked for ahead: the server writes the next while ``good`` looks at one.

        Raises:
            StoreUnavailable: no reply in time, or none that Redis gives; the connection is closed.
        """
        with self._within(timeout_s):
            self._send([_command(b"GET", key) for key in keys[:_AHEAD]])
            for at, buffer in enumerate(buffers):
                found = self._bulk_into(buffer)
                if at + _AHEAD < len(keys):
                    self._send([_command(b"GET", keys[at + _AHEAD])])
                if not (found and good(at)):
                    self._drop_replies(min(_AHEAD, len(keys) - at - 1))
                    return at
        return len(keys)

    def set(
        self, key: bytes, parts: Sequence[Buffer | bytes], *, ttl_s: float, timeout_s: float
    ) -> bool:
        """Store the parts one after another under ``key``, without putting them together first.

        False: the server refused, being full or read-only.

        Raises:
            StoreUnavailable: no reply in time, or none that Redis gives; the connection is closed.
        """
        length = sum(len(part) for part in parts)
        expiry = b"%d" % max(1, int(ttl_s * 1000))
        head = b"*5\r\n" + _bulk(b"SET") + _bulk(key) + b"$%d\r\n" % length
        with self._within(timeout_s):
            self._send([head, *parts, b"\r\n" + _bulk(b"PX") + _bulk(expiry)])
            return self._line()[:1] == b"+"

    def _greet(self, address: Address) -> None:
        hello = []
        if address.password is not None:
            user = [address.username.encode()] if address.username else []
            hello.append(_command(b"AUTH", *user, address.password.encode()))
        if address.database:
            hello.append(_command(b"SELECT", b"%d" % address.database))
        if not hello:
            return
        self._send(hello)
        for _ in hello:
            if self._line()[:1] != b"+":
                raise StoreUnavailable("Redis refused the user, the password or the database")

    @contextlib.contextmanager
    def _within(self, timeout_s: float) -> Iterator[None]:
        self._deadline = time.monotonic() + timeout_s
        try:
            yield
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | ValueError):
                raise StoreUnavailable(f"Redis: {error!r}") from error
            raise

    def _wait(self) -> None:
        """Bound the next system call. The kernel's timer is set anew when it is far too long."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no whole reply in time")
        if not left <= self._armed_s <= 2 * left:
            self._armed_s = left
            whole = int(left)
            timer = struct.pack("@ll", whole, max(1, int((left - whole) * 1e6)))
            for side in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._socket.setsockopt(socket.SOL_SOCKET, side, timer)

    def _send(self, parts: Sequence[Buffer | bytes]) -> None:
        for part in parts:
            self._wait()
            self._socket.sendall(part)

    def _bulk_into(self, buffer: memoryview) -> bool:
        """One reply to GET."""
        line = self._line()
        if line[:1] == b"-":
            return False
        if line[:1] != b"$":
            raise ValueError(f"got {bytes(line[:16])!r}; expected a bulk string")
        length = int(line[1:])
        if length == _MISSING:
            return False
        if length != len(buffer):
            self._skip(length)
            self._end()
            return False
        self._read_into(buffer)
        self._end()
        return True

    def _drop_replies(self, count: int) -> None:
        for _ in range(count):
            line = self._line()
            if line[:1] == b"$" and int(line[1:]) != _MISSING:
                self._skip(int(line[1:]))
                self._end()
            elif line[:1] not in (b"$", b"-"):
                raise ValueError(f"got {line[:16]!r}; expected a bulk string")

    def _end(self) -> None:
        end = bytearray(2)
        self._read_into(memoryview(end))
        if end != b"\r\n":
            raise ValueError("got a bulk string longer than it says")

    def _line(self) -> bytes:
        """Up to the end of a line, without it."""
        while True:
            at = self._ahead.find(b"\r\n", self._from, self._to)
            if at >= 0:
                line = bytes(self._ahead[self._from : at])
                self._from = at + 2
                return line
            if self._to - self._from > _LONGEST_LINE:
                raise ValueError(f"got a line longer than {_LONGEST_LINE} bytes")
            self._more()

    def _more(self) -> None:
        held = self._to - self._from
        self._ahead[:held] = self._ahead[self._from : self._to]
        self._from, self._to = 0, held
        self._wait()
        self._to += self._receive(memoryview(self._ahead)[held:])

    def _read_into(self, buffer: memoryview) -> None:
        """Fill ``buffer``: first with what was read ahead, then from the socket itself."""
        got = min(len(buffer), self._to - self._from)
        buffer[:got] = self._ahead[self._from : self._from + got]
        self._from += got
        while got < len(buffer):
            self._wait()
            got += self._receive(buffer[got:], self._whole)

    def _receive(self, into: memoryview, flags: int = 0) -> int:
        got = self._socket.recv_into(into, len(into), flags)
        if got == 0:
            raise ConnectionResetError("Redis hung up in the middle of a reply")
        return got

    def _skip(self, length: int) -> None:
        """Read a value that nobody wants, unless nobody could have put it there."""
        if not 0 <= length <= _LONGEST_VALUE:
            raise ValueError(f"got a value of {length} bytes; expected {_LONGEST_VALUE} at most")
        sink = memoryview(bytearray(min(length, _LINE_BYTES)))
        while length > 0:
            self._read_into(sink[:length])
            length -= min(length, _LINE_BYTES)


def _connect(address: Address, connect_s: float) -> socket.socket:
    """Raises StoreUnavailable when nobody is there."""
    plain: socket.socket | None = None
    try:
        if address.path is not None:
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            plain.settimeout(connect_s)
            plain.connect(address.path)
            return plain
        plain = socket.create_connection((address.host, address.port), timeout=connect_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not address.tls:
            return plain
        context = ssl.create_default_context(cafile=address.ca_file)
        return context.wrap_socket(plain, server_hostname=address.host)
    except (OSError, ValueError) as error:
        if plain is not None:
            plain.close()
        raise StoreUnavailable(f"Redis: {error!r}") from error


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(map(_bulk, words))


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(word), word)
