"""Server-sent events as OpenAI-compatible servers write them, whatever the network does to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from gateway.errors import TierBroken

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""A whole event; log-probs of an echoed long prompt come in one."""


class EventSplitter:
    """Bytes in as they arrive, complete `data` payloads out; a split code point waits.

    Comments and other fields are skipped. Lines end in LF, CRLF or CR as the standard allows; a CR
    at the very end of a chunk is held back until the next byte tells which it is.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._pending = bytearray()  # the line that has not ended yet
        self._searched = 0  # bytes of it known to hold no line end
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[str]:
        """Payloads completed by ``chunk``.

        Raises:
            TierBroken: an event is too large or its payload is not UTF-8.
        """
        self._pending += chunk
        events: list[str] = []
        while (line := self._next_line()) is not None:
            if line:
                self._field(line)
            elif self._data:
                events.append(self._flush())
        if len(self._pending) + self._size > self._max:
            raise TierBroken(f"got an event of more than {self._max} bytes")
        return events

    def _next_line(self) -> bytes | None:
        pending = self._pending
        newline = pending.find(b"\n", self._searched)
        carriage = pending.find(b"\r", self._searched, None if newline < 0 else newline)
        end = carriage if carriage >= 0 else newline
        if end < 0 or (end == carriage and end == len(pending) - 1):
            self._searched = len(pending) if end < 0 else end
            return None
        line = bytes(pending[:end])
        crlf = pending[end : end + 2] == b"\r\n"
        del pending[: end + (2 if crlf else 1)]
        self._searched = 0
        return line

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value)

    def _flush(self) -> str:
        payload = b"\n".join(self._data)
        self._data, self._size = [], 0
        try:
            return payload.decode("utf-8")
        except UnicodeDecodeError:
            raise TierBroken("got an event that is not UTF-8") from None


async def payloads(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """Every `data` payload of a stream, `[DONE]` included."""
    splitter = EventSplitter()
    async for chunk in chunks:
        for payload in splitter.feed(chunk):
            yield payload
