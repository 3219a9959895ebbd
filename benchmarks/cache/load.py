"""Requests over plain sockets: as many as are answered, or so many a second."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import NamedTuple
from urllib.parse import urlsplit


class Timings(NamedTuple):
    """What a run of requests took."""

    requests: int
    seconds: float
    latencies_ms: list[float]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds

    @property
    def p50_ms(self) -> float:
        """Median latency."""
        return median(self.latencies_ms)

    @property
    def p99_ms(self) -> float:
        """99th percentile of latency."""
        return quantiles(self.latencies_ms, n=100)[98]


def chat_request(url: str, content: str, *, model: str, **fields: object) -> bytes:
    """One request as it goes over the wire."""
    host = urlsplit(url).netloc
    messages = [{"role": "user", "content": content}]
    body = json.dumps({"model": model, "messages": messages, "temperature": 0, **fields}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer sk-benchmark\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> Connection:
        """Connect to where ``url`` points."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the response, which must be 200 and carry its length."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        body = await self._reader.readexactly(int(length))
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{head!r} {body[:300]!r}")
        return head, body

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def as_fast_as_possible(
    url: str, requests: Sequence[bytes], *, connections: int, seconds: float
) -> Timings:
    """Every connection asks again as soon as it was answered."""
    latencies: list[float] = []
    links = [await Connection.open(url) for _ in range(connections)]
    began = time.perf_counter()

    async def client(link: Connection, at: int) -> None:
        while time.perf_counter() - began < seconds:
            sent = time.perf_counter()
            await link.ask(requests[at % len(requests)])
            latencies.append((time.perf_counter() - sent) * 1000)
            at += connections

    await asyncio.gather(*(client(link, at) for at, link in enumerate(links)))
    took = time.perf_counter() - began
    for link in links:
        link.close()
    return Timings(len(latencies), took, latencies)


async def so_many_a_second(
    url: str, requests: Sequence[bytes], *, rate: float, connections: int, seconds: float
) -> Timings:
    """Requests leave on a timetable; latency counts from the time that was due."""
    latencies: list[float] = []
    links = [await Connection.open(url) for _ in range(connections)]
    began = time.perf_counter()

    async def client(link: Connection, number: int) -> None:
        for at in range(number, int(rate * seconds), connections):
            due = began + at / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await link.ask(requests[at % len(requests)])
            latencies.append((time.perf_counter() - due) * 1000)

    await asyncio.gather(*(client(link, number) for number, link in enumerate(links)))
    took = time.perf_counter() - began
    for link in links:
        link.close()
    return Timings(len(latencies), took, latencies)
