"""Two front-end processes on one Redis: one generation, and a killed leader hurts no follower."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

WORDS = 20  # as the replica says them
PAUSE_S = 0.02


class Replica:
    """A process that answers on loopback."""

    def __init__(self, redis_url: str, log: Path, dead_s: float, pause_s: float = PAUSE_S) -> None:
        script = Path(__file__).with_name("replica.py")
        command = [sys.executable, str(script), redis_url, str(log), str(pause_s), str(dead_s)]
        self.process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[3],
            env={"PYTHONPATH": "."},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self.port = 0

    def wait(self) -> None:
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Pair:
    """Two replicas; a killed one is replaced on demand."""

    def __init__(self, redis_url: str, folder: Path, dead_s: float) -> None:
        self.log = folder / "generations"
        self.log.touch()
        self.start = lambda: Replica(redis_url, self.log, dead_s)
        self.replicas = [self.start(), self.start()]
        for one in self.replicas:
            one.wait()

    def generations(self, said: str) -> int:
        return self.log.read_text().splitlines().count(said)

    def revive(self) -> None:
        for at, one in enumerate(self.replicas):
            if one.process.poll() is not None:
                self.replicas[at] = self.start()
                self.replicas[at].wait()

    def close(self) -> None:
        for one in self.replicas:
            one.kill()


@pytest.fixture
def pair(redis_server: Any, tmp_path: Path) -> Iterator[Pair]:
    two = Pair(redis_server.url, tmp_path, dead_s=1.0)
    yield two
    two.close()


def whole(said: str) -> str:
    return "".join(f"{said} {at} " for at in range(WORDS))


async def stream(http: aiohttp.ClientSession, port: int, said: str) -> str:
    """The text of a streamed answer that came to its proper end."""
    body = {
        "model": "only", "temperature": 0, "stream": True,
        "messages": [{"role": "user", "content": said}],
    }  # fmt: skip
    url, text, done = f"http://127.0.0.1:{port}/v1/chat/completions", "", False
    async with http.post(url, json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line == b"data: [DONE]\n":
                done = True
            elif line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                for choice in chunk["choices"]:
                    text += choice["delta"].get("content") or ""
    assert done
    return text


async def trial(pair: Pair, http: aiohttp.ClientSession, said: str, dice: random.Random) -> None:
    """The leader is killed at a random moment; every follower gets every byte once."""
    leader, other = pair.replicas if dice.random() < 0.5 else reversed(pair.replicas)
    led = asyncio.create_task(stream(http, leader.port, said))
    while not pair.generations(said):  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    followers = [asyncio.create_task(stream(http, other.port, said)) for _ in range(3)]
    await asyncio.sleep(dice.random() * WORDS * PAUSE_S * 1.1)
    leader.kill()
    for text in await asyncio.gather(*followers):
        assert text == whole(said)
    await asyncio.gather(led, return_exceptions=True)
    assert pair.generations(said) <= 2


async def trials(pair: Pair, count: int, seed: int) -> None:
    dice = random.Random(seed)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
        for number in range(count):
            await trial(pair, http, f"trial{number}", dice)
            await asyncio.to_thread(pair.revive)


async def test_sixty_four_equal_requests_over_two_processes_are_generated_once(pair: Pair) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        ports = [one.port for one in pair.replicas]
        asked = [stream(http, ports[at % 2], "sixty-four") for at in range(64)]
        assert set(await asyncio.gather(*asked)) == {whole("sixty-four")}
    assert pair.generations("sixty-four") == 1


async def test_a_leader_killed_at_a_random_moment_breaks_no_follower(pair: Pair) -> None:
    await trials(pair, 2, seed=5)


async def test_a_leader_that_was_asleep_hurts_nobody_when_it_wakes(pair: Pair) -> None:
    leader, other = pair.replicas
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
        led = asyncio.create_task(stream(http, leader.port, "asleep"))
        while not pair.generations("asleep"):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        followers = [asyncio.create_task(stream(http, other.port, "asleep")) for _ in range(3)]
        await asyncio.sleep(WORDS * PAUSE_S / 2)
        leader.process.send_signal(signal.SIGSTOP)
        assert set(await asyncio.gather(*followers)) == {whole("asleep")}
        leader.process.send_signal(signal.SIGCONT)
        assert await led == whole("asleep")
        assert await stream(http, leader.port, "asleep") == whole("asleep")
    assert pair.generations("asleep") == 2


@pytest.mark.full
async def test_two_hundred_leaders_killed_at_random_moments_break_no_follower(pair: Pair) -> None:
    await trials(pair, 200, seed=6)
