"""Hits a second of one worker, and what the caches cost a request that misses."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from statistics import mean, median

from benchmarks.cache.front import MODEL, FrontEnd
from benchmarks.cache.load import Connection, as_fast_as_possible, chat_request, so_many_a_second

OFF = "responses = false\nsingle_flight = false\nrefusals_s = 0"
QUESTIONS = 64
_PAIRS = 600


async def hits(url: str, model: str, seconds: float) -> dict[str, float]:
    """Answers from the cache a second, and latency at half that rate."""
    requests = [chat_request(url, f"question {at}", model=model) for at in range(QUESTIONS)]
    link = await Connection.open(url)
    for request in requests * 2:
        await link.ask(request)
        await asyncio.sleep(0.01)
    link.close()
    fast = await as_fast_as_possible(url, requests, connections=32, seconds=seconds)
    paced = await so_many_a_second(
        url, requests, rate=fast.rate / 2, connections=32, seconds=seconds
    )
    return {
        "per_second": round(fast.rate, 1),
        "p99_ms_at_half": round(paced.p99_ms, 2),
        "p50_ms_at_half": round(paced.p50_ms, 2),
    }


async def miss_cost(fronts: dict[str, FrontEnd]) -> dict[str, float]:
    """Latency of requests never asked before, in interleaved turns; all against ``off``."""
    links = {name: await Connection.open(front.url) for name, front in fronts.items()}
    taken: dict[str, list[float]] = {name: [] for name in fronts}
    before = {f"{name}_cpu_ms": _cpu_ms(front) for name, front in fronts.items()}
    for number in range(_PAIRS):
        turn = list(fronts) if number % 2 else list(fronts)[::-1]
        for name in turn:
            request = chat_request(fronts[name].url, f"new {name} {number}", model=MODEL)
            began = time.perf_counter()
            await links[name].ask(request)
            if number >= 20:
                taken[name].append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.004)  # what happens behind the answer is not in the next one
    for link in links.values():
        link.close()
    found = {f"{name}_cpu_ms": _cpu_ms(front) for name, front in fronts.items()}
    found = {name: round((after - before[name]) / _PAIRS, 3) for name, after in found.items()}
    for name in fronts:
        found[f"{name}_ms"] = round(median(taken[name]), 3)
        found[f"{name}_mean_ms"] = round(mean(taken[name]), 3)
    for name in fronts:
        if name != "off":
            pairs = zip(taken[name], taken["off"], strict=True)
            found[f"{name}_added_ms"] = round(median(one - other for one, other in pairs), 3)
    return found


def _cpu_ms(front: FrontEnd) -> float:
    """Processor time of a front end so far."""
    fields = Path(f"/proc/{front.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, upstream_url: str, redis_url: str, seconds: float) -> dict[str, object]:
    """Both figures, over a Redis on loopback."""
    fronts = {
        "off": FrontEnd(folder, upstream_url, redis_url, OFF),
        "on": FrontEnd(folder, upstream_url, redis_url),
        "responses_only": FrontEnd(folder, upstream_url, redis_url, "single_flight = false"),
    }
    try:
        for front in fronts.values():
            front.wait()
        cost = asyncio.run(miss_cost(fronts))
        for front in list(fronts)[::2]:
            fronts[front].kill()
        return {"hits": asyncio.run(hits(fronts["on"].url, MODEL, seconds)), "miss": cost}
    finally:
        for front in fronts.values():
            front.kill()
