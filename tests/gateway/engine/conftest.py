"""Clients of the shared engine process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest


@dataclass(frozen=True)
class Client:
    """Plain HTTP to an engine."""

    session: aiohttp.ClientSession

    async def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """Status and parsed body."""
        async with self.session.post(path, json=body, **options) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(path) as response:
            return response.status, await response.json()

    async def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics."""
        async with self.session.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        for line in lines:
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no sample {name} {labels}")


@pytest.fixture
async def client(shared_engine: Any) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(shared_engine.base) as session:
        yield Client(session)


@pytest.fixture
async def sdk(shared_engine: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, which must work unchanged."""
    async with openai.AsyncOpenAI(
        base_url=f"{shared_engine.base}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def chat() -> Any:
    """A chat request to `large`; keywords add or replace fields."""

    def make(content: str = "the quick brown fox", **fields: Any) -> Mapping[str, Any]:
        messages = [{"role": "user", "content": content}]
        given = {"model": "large", "messages": messages, "max_tokens": 16, "temperature": 0}
        return {**given, **fields}

    return make
