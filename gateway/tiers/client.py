"""One tier: an OpenAI-compatible endpoint plus a model name, whoever's server it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from gateway.config import TierConfig
from gateway.errors import ApiError, GatewayError, TierBroken, TierUnavailable
from gateway.generation import Delta, Job, Json, TierDone, TierEvent
from gateway.tiers.breaker import Breaker
from gateway.tiers.chunks import Progress, StreamError
from gateway.tiers.refusals import TierBusy, refusal
from gateway.tiers.sse import payloads

_NEEDS: Mapping[str, str] = {
    "prediction": "prediction",
    "logprobs": "logprobs",
    "top_logprobs": "logprobs",
    "cache_salt": "cache_salt",
    "spillway": "drafts",
}
"""Which capability a server must declare to be sent a field at all."""
_PATHS = {"chat": "chat/completions", "completions": "completions"}
_ERROR_BYTES = 64 * 1024
_LINGER_S = 0.1
_KEEPALIVE_S = 15.0  # shorter than any server's, so that a dead connection is hardly ever reused


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: ``base`` is what `/chat/completions` is appended to."""

    base: str
    socket: Path | None = None  # HTTP over this unix socket

    def root(self) -> str:
        """The address of routes outside `/v1`, such as `/readyz`."""
        return self.base.removesuffix("/v1")


def address_of(url: str) -> Address:
    """``http(s)://…`` as it is; ``unix:/path`` as HTTP over that socket."""
    if url.startswith("unix:"):
        return Address("http://engine/v1", Path(url.removeprefix("unix:")))
    return Address(url.rstrip("/"))


@dataclass(slots=True)
class Vitals:
    """What polling a server last found out."""

    ready: bool
    fingerprint: str | None = None
    max_model_len: int | None = None
    suspect: asyncio.Event = field(default_factory=asyncio.Event)  # set to be polled at once


class TierClient:
    """The ``Tier`` of `gateway.generation` over HTTP; ``close`` it when done."""

    def __init__(
        self,
        config: TierConfig,
        address: Address,
        *,
        ready: bool = True,
        breaker: Breaker | None = None,
    ) -> None:
        self.name = config.name
        self.capabilities = config.declared_capabilities
        self.config = config
        self.address = address
        self.breaker = breaker or Breaker()
        self.vitals = Vitals(ready=ready)
        self._takes_usage_option = True
        self._session: aiohttp.ClientSession | None = None

    @property
    def fingerprint(self) -> str | None:
        """The server's own, or the configured revision of a server that declares none."""
        if self.vitals.fingerprint is not None or self.config.revision is None:
            return self.vitals.fingerprint
        return f"{self.config.served_model}@{self.config.revision}"

    @property
    def max_model_len(self) -> int | None:
        """Context length in tokens, None while unknown."""
        return self.vitals.max_model_len or self.config.max_model_len

    def usable(self) -> bool:
        """Whether the server was well when last asked and the breaker lets a request through."""
        return self.vitals.ready and self.breaker.allows()

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections of this tier, opened on first use."""
        if self._session is None:
            self._session = _new_session(self.config, self.address)
        return self._session

    async def stream(self, job: Job, body: Mapping[str, Json]) -> AsyncGenerator[TierEvent]:
        """Send ``body`` and yield until ``TierDone``; closing cancels. Errors: see ``Tier``."""
        if not self.breaker.begin():
            wait_s = self.breaker.retry_after_s()
            raise TierUnavailable(self.name, "it failed too often", retry_after_s=wait_s)
        try:
            async with aclosing(self._events(job, body)) as events:
                async for event in events:
                    yield event
        except ApiError:
            self.breaker.succeeded()
            raise
        except GatewayError as error:
            self._note(error)
            raise
        except BaseException:  # the caller left or was cancelled
            self.breaker.abandoned()
            raise
        self.breaker.succeeded()

    def _note(self, error: GatewayError) -> None:
        """A busy server is not a broken one; a silent one is worth a look at once."""
        if isinstance(error, TierBusy):
            self.breaker.abandoned()
            return
        self.breaker.failed()
        self.vitals.suspect.set()

    async def _events(self, job: Job, body: Mapping[str, Json]) -> AsyncGenerator[TierEvent]:
        progress = Progress(job.endpoint, int(body.get("n") or 1))
        begun = False
        try:
            async with aclosing(self._deltas(job, body, progress)) as deltas:
                async for delta in deltas:
                    begun = True
                    yield delta
        except (aiohttp.ClientError, TimeoutError, OSError, StreamError, TierBroken) as error:
            reason = str(error) or type(error).__name__
            if begun:
                raise TierBroken(f"tier {self.name!r} broke off: {reason}") from error
            raise TierUnavailable(self.name, reason) from error
        yield self._done(progress)

    def _done(self, progress: Progress) -> TierDone:
        done = progress.done()
        fingerprint = done.fingerprint if "fingerprint" in self.capabilities else None
        return TierDone(
            usage=done.usage, fingerprint=fingerprint or self.fingerprint, receipt=done.receipt
        )

    async def _deltas(
        self, job: Job, body: Mapping[str, Json], progress: Progress
    ) -> AsyncGenerator[Delta]:
        async with self._answered(job, body) as response:
            async with aclosing(payloads(response.content.iter_any())) as events:
                async for payload in events:
                    if payload.strip() == "[DONE]":
                        break
                    for delta in progress.read(payload):
                        yield delta
            if not progress.complete:
                raise TierBroken("the stream ended before the answer did")

    @asynccontextmanager
    async def _answered(
        self, job: Job, body: Mapping[str, Json]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a request that was taken. Leaving early hangs up, which cancels it."""
        response = await self._post(job, body)
        try:
            if response.content_type != "text/event-stream":
                raise TierUnavailable(
                    self.name, f"got {response.content_type}; expected text/event-stream"
                )
            yield response
            await _read_to_end(response)
        finally:
            response.release()  # closes the connection unless the body was read to its end

    async def _post(self, job: Job, body: Mapping[str, Json]) -> aiohttp.ClientResponse:
        while True:
            asked_usage = self._takes_usage_option
            try:
                response = await self.session.post(
                    f"{self.address.base}/{_PATHS[job.endpoint]}",
                    json=self._wire_body(job, body),
                    headers={"x-request-id": job.request_id},
                    allow_redirects=False,
                )
            except aiohttp.SocketTimeoutError as silence:  # it may have stood in line
                self.vitals.suspect.set()
                raise TierBusy(self.name, "no answer began within the read timeout") from silence
            if response.status == 200:
                return response
            error = await self._refused(response)
            if not (asked_usage and isinstance(error, ApiError) and "stream_options" in str(error)):
                raise error
            self._takes_usage_option = False

    async def _refused(self, response: aiohttp.ClientResponse) -> GatewayError:
        try:
            body = await response.content.read(_ERROR_BYTES)
        finally:
            response.close()
        return refusal(self.name, response.status, response.headers, body)

    def _wire_body(self, job: Job, body: Mapping[str, Json]) -> dict[str, Json]:
        """``body`` less what this server cannot take, plus what the gateway has to say."""
        wire = {
            key: value
            for key, value in body.items()
            if key not in _NEEDS or _NEEDS[key] in self.capabilities
        }
        if "drafts" in self.capabilities:
            wire["spillway"] = _engine_options(job, wire.get("spillway"))
        if "cache_salt" in self.capabilities and job.identity.cache_salt:
            wire["cache_salt"] = job.identity.cache_salt
        wire |= {"model": self.config.served_model, "stream": True}
        if self._takes_usage_option:
            wire["stream_options"] = {"include_usage": True}
        return wire


async def _read_to_end(response: aiohttp.ClientResponse) -> None:
    """Take the end of the body after `[DONE]`, if it comes at once, to keep the connection."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_LINGER_S):
            await response.content.readany()


def _engine_options(job: Job, given: Json) -> dict[str, Json]:
    options: dict[str, Json] = {**(given or {}), "receipt": True}
    if job.speculation:
        options["speculation"] = dict(job.speculation)
    return options


def _new_session(config: TierConfig, address: Address) -> aiohttp.ClientSession:
    connector: aiohttp.BaseConnector
    if address.socket is not None:
        connector = aiohttp.UnixConnector(
            str(address.socket), limit=config.max_connections, keepalive_timeout=_KEEPALIVE_S
        )
    else:
        connector = aiohttp.TCPConnector(
            limit=config.max_connections, keepalive_timeout=_KEEPALIVE_S
        )
    timeout = aiohttp.ClientTimeout(
        total=None, connect=config.connect_timeout_s, sock_read=config.read_timeout_s
    )
    headers = {"accept-encoding": "identity"}
    if config.api_key is not None:
        headers["authorization"] = f"Bearer {config.api_key.get_secret_value()}"
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
    )
