"""Equal requests at one time over two front ends, and leaders killed at random moments."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import aiohttp

from benchmarks.cache.front import MODEL, FrontEnd, upstream
from benchmarks.cache.upstream import WORDS

PAUSE_S = 0.03
_TEXT = "".join(f"word{at} " for at in range(WORDS))


async def _stream(http: aiohttp.ClientSession, front: FrontEnd, said: str) -> bool:
    """Whether a streamed answer came whole, to its proper end."""
    body = {
        "model": MODEL, "temperature": 0, "stream": True,
        "messages": [{"role": "user", "content": said}],
    }  # fmt: skip
    text, done = "", False
    async with http.post(f"{front.url}/v1/chat/completions", json=body) as response:
        async for line in response.content:
            done = done or line == b"data: [DONE]\n"
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                text += "".join(c["delta"].get("content") or "" for c in chunk.get("choices", ()))
    return done and text == _TEXT


async def _asked(http: aiohttp.ClientSession, url: str) -> int:
    async with http.get(f"{url}/asked") as response:
        return int(await response.json())


async def at_once(fronts: list[FrontEnd], upstream_url: str) -> dict[str, int]:
    """64 equal requests, half to each front end."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        before = await _asked(http, upstream_url)
        asked = [_stream(http, fronts[at % 2], "sixty-four") for at in range(64)]
        whole = sum(await asyncio.gather(*asked))
        generations = await _asked(http, upstream_url) - before
    return {"requests": 64, "whole": whole, "generations": generations}


async def killed(folder: Path, url: str, redis_url: str, trials: int) -> dict[str, int]:
    """Followers that were hurt when the front end that led was killed."""
    dice = random.Random(1)
    spare = [FrontEnd(folder, url, redis_url) for _ in range(3)]
    broken = followers = most = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
        for number in range(trials):
            leader, other = spare[0].wait(), spare[1].wait()
            before = await _asked(http, url)
            led = asyncio.create_task(_stream(http, leader, f"trial {number}"))
            while await _asked(http, url) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            tasks = [asyncio.create_task(_stream(http, other, f"trial {number}")) for _ in range(3)]
            await asyncio.sleep(dice.random() * WORDS * PAUSE_S)
            leader.kill()
            spare = [spare[2], other, FrontEnd(folder, url, redis_url)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            followers += len(results)
            broken += sum(one is not True for one in results)
            await asyncio.gather(led, return_exceptions=True)
            most = max(most, await _asked(http, url) - before)
    for front in spare:
        front.kill()
    return {
        "trials": trials, "followers": followers, "broken_followers": broken,
        "most_generations": most,
    }  # fmt: skip


def measure(folder: Path, redis_url: str, trials: int) -> dict[str, object]:
    """Both rows."""
    with upstream(folder, PAUSE_S) as url:
        fronts = [FrontEnd(folder, url, redis_url) for _ in range(2)]
        try:
            for front in fronts:
                front.wait()
            together = asyncio.run(at_once(fronts, url))
        finally:
            for front in fronts:
                front.kill()
        return {
            "at_once": together,
            "leader_killed": asyncio.run(killed(folder, url, redis_url, trials)),
        }
