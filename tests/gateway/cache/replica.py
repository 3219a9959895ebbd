"""One front end over one slow deterministic tier, as a process that tests may kill."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway.app import bare_app
from gateway.cache.flights import Flights
from gateway.cache.relayed import Rhythm
from gateway.cache.responses import ResponseCache
from gateway.cascade.policy import Policy
from gateway.cascade.run import Cascade
from gateway.faces.admission import Admission
from gateway.faces.front import FRONT, Front
from gateway.generation import Delta, Job, TierDone, TierEvent, Usage
from gateway.keys import anonymous_keys
from gateway.store.lane import Limits
from gateway.store.redis_store import RedisStore
from gateway.store.relay import Relay
from gateway.wire.server import listener

SECRET = b"s" * 32
WORDS = 20
PATIENT = Limits(call_s=2, connect_s=2, socket_s=2, pool_wait_s=2)


class Speaker:
    """Says the question back word by word, and writes down every time it begins."""

    name = "only"
    capabilities: frozenset[str] = frozenset()
    fingerprint = "fp"
    max_model_len = None

    def __init__(self, log: Path, pause_s: float) -> None:
        self.log = log
        self.pause_s = pause_s

    def usable(self) -> bool:
        return True

    async def stream(self, job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        said = body["messages"][-1]["content"]
        with self.log.open("a") as file:
            file.write(f"{said}\n")
        for at in range(WORDS):
            await asyncio.sleep(self.pause_s)
            reason = "stop" if at == WORDS - 1 else None
            yield Delta(text=f"{said} {at} ", finish_reason=reason)
        yield TierDone(usage=Usage(prompt_tokens=1, completion_tokens=WORDS))


class Source:
    current = Policy.initial(("only",))


async def serve(redis_url: str, log: Path, pause_s: float, dead_s: float) -> None:
    store, relay = RedisStore(redis_url, limits=PATIENT), Relay(redis_url, PATIENT)
    rhythm = Rhythm(alone_s=0.02, heartbeat_s=0.1, dead_s=dead_s)
    tier = Speaker(log, pause_s)
    cascade = Cascade(
        [tier],
        Source(),
        cache=ResponseCache(store, secret=SECRET),
        flights=Flights(secret=SECRET, relay=relay, rhythm=rhythm),
    )
    app = bare_app(1024 * 1024)
    app[FRONT] = Front(
        answerer=cascade,
        tiers={"only": tier},
        keys=anonymous_keys(SECRET),
        admission=Admission(256, 256),
    )
    runner = listener(app, shutdown_s=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    url, path, pause, dead = sys.argv[1:]
    asyncio.run(serve(url, Path(path), float(pause), float(dead)))
