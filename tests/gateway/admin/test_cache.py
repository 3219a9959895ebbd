"""Operators see what the cache holds and drop what they name, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.admin.audit import AuditLog, verify
from gateway.admin.cache import CacheAdmin
from gateway.cache.entry import Entry
from gateway.cache.inventory import Inventory
from gateway.cache.responses import ResponseCache
from gateway.cache.selftest import Check, selftest
from gateway.cascade.answer import Answer, Choice
from gateway.generation import Delta, Job, TierDone, Usage
from gateway.store.lane import Limits
from gateway.store.memory import MemoryStore
from gateway.store.redis_store import RedisStore
from gateway.store.store import Store

SECRET = b"s" * 32
PATIENT = Limits(call_s=10, connect_s=10, socket_s=10, pool_wait_s=10)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    store: Store
    tiers: list[Any]
    make_job: Any
    folder: Path
    clock: Clock = field(default_factory=Clock)
    checks: list[Check] = field(default_factory=list)
    url: str = ""
    http: Any = None

    def __post_init__(self) -> None:
        self.cache = ResponseCache(self.store, secret=SECRET, clock=self.clock)
        self.audit = AuditLog(self.folder / "audit.jsonl")

    async def keep(self, content: str, *, tenant: str = "acme", model: str = "auto",
                   tier: str = "river") -> str:  # fmt: skip
        body = {"temperature": 0, "messages": [{"role": "user", "content": content}]}
        job: Job = self.make_job(tenant=tenant, model=model, body=body)
        looked = await self.cache.look(job, self.tiers, lambda entry: True)
        choice = Choice(text=content, finish_reason="stop")
        answer = Answer(tier=tier, choices=(choice,), usage=Usage())
        entry = Entry(answer=answer, created=self.clock.now, policy_version=1, model=model)
        self.cache.keep(looked, job, self.tiers, entry, lambda entry: True)
        await self.cache.flush()
        await self.cache.look(job, self.tiers, lambda entry: True)
        assert looked.digest is not None
        return looked.digest

    async def ask(self, method: str = "GET", query: str = "", path: str = "") -> tuple[int, Any]:
        url = f"{self.url}/admin/cache{path}{query}"
        async with self.http.request(method, url) as response:
            return response.status, await response.json()

    async def run_selftest(self) -> list[Check]:
        return await selftest(self.cache, self.tiers)


@pytest.fixture(params=["memory", "redis"])
async def store(request: Any, redis_server: Any) -> AsyncIterator[Store]:
    opened = (
        MemoryStore() if request.param == "memory" else RedisStore(redis_server.url, limits=PATIENT)
    )
    yield opened
    await opened.aclose()


@pytest.fixture
async def house(
    store: Store, scripted: Any, speech: Any, make_job: Any, tmp_path: Path
) -> AsyncIterator[House]:
    tiers = [scripted(name, speech.says("I am ", name)) for name in ("brook", "river")]
    built = House(store, tiers, make_job, tmp_path)
    app = web.Application()
    inventory = Inventory(built.cache, store, tenants=["acme", "globex"], clock=built.clock)
    api = CacheAdmin(inventory=inventory, selftest=built.run_selftest, audit=built.audit)
    app.add_routes(api.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    built.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as built.http:
        yield built
    await runner.cleanup()


async def test_counts_bytes_and_hit_rates_are_told_by_tenant_and_model(house: House) -> None:
    await house.keep("one")
    await house.keep("two")
    await house.keep("three", tenant="globex", model="river")
    await house.keep("four", tenant="stranger")
    status, document = await house.ask()
    assert (status, document["entries"]) == (200, 4)
    mine = document["tenants"]["acme"]["auto"]
    assert (mine["entries"], mine["lookups"]["hit"], mine["lookups"]["stored"]) == (2, 2, 2)
    assert mine["hit_rate"] == 0.5
    assert document["tenants"]["globex"]["river"]["entries"] == 1
    total = sum(row["bytes"] for one in document["tenants"].values() for row in one.values())
    assert total == document["bytes"] > 0
    assert "stranger" not in document["tenants"], "a name that is in no keys file is not known"


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("tenant=acme", {"other tenant"}),
        ("model=river", {"plain", "other tenant", "small", "old"}),
        ("tier=brook", {"plain", "other tenant", "pinned", "old"}),
        ("older_than_s=30", {"plain", "other tenant", "pinned", "small"}),
        ("tenant=acme&tier=river&model=auto", {"other tenant", "pinned", "small"}),
        ("tenant=nobody", {"plain", "other tenant", "pinned", "small", "old"}),
        ("all=true", set()),
    ],
)
async def test_what_matches_everything_given_is_dropped_and_nothing_else(
    house: House, query: str, left: set[str]
) -> None:
    digests = {"old": await house.keep("old")}
    house.clock.now += 60
    digests["plain"] = await house.keep("plain")
    digests["other tenant"] = await house.keep("other tenant", tenant="globex")
    digests["pinned"] = await house.keep("pinned", model="river")
    digests["small"] = await house.keep("small", tier="brook")
    _, rehearsed = await house.ask("DELETE", f"?{query}&dry_run=true")
    assert (await house.ask())[1]["entries"] == 5, "a dry run drops nothing"
    status, document = await house.ask("DELETE", f"?{query}")
    assert (status, document) == (200, {**rehearsed, "dry_run": False})
    assert document["dropped"] == 5 - len(left) == len(document["keys"])
    gone = {
        name
        for name, digest in digests.items()
        if any(k.startswith(digest) for k in document["keys"])
    }
    assert gone == set(digests) - left
    assert (await house.ask())[1]["entries"] == len(left)
    assert verify(house.audit.path) == 1


async def test_one_answer_is_dropped_by_the_key_its_receipt_shows(house: House) -> None:
    first, _ = await house.keep("one"), await house.keep("two")
    assert (await house.ask("DELETE", f"?key={first}"))[1]["dropped"] == 1
    assert (await house.ask())[1]["entries"] == 1


NONSENSE = ["", "?dry_run=true", "?tenant=", "?tenant=a&tenant=b", "?tenent=a", "?key=xyz",
            "?key=ab", "?older_than_s=soon", "?older_than_s=-1", "?all=yes", "?all=false",
            "?tenant=a&dry_run=1"]  # fmt: skip


@pytest.mark.parametrize("query", NONSENSE)
async def test_a_selection_that_is_none_drops_nothing(house: House, query: str) -> None:
    await house.keep("one")
    status, problem = await house.ask("DELETE", query)
    assert (status, problem["title"]) == (400, "Bad request")
    assert (await house.ask())[1]["entries"] == 1


async def test_other_methods_are_refused(house: House) -> None:
    assert (await house.ask("POST"))[0] == 405
    assert (await house.ask("GET", path="/selftest"))[0] == 405


async def test_values_of_others_and_garbage_are_counted_as_what_they_are(
    house: House, redis_server: Any
) -> None:
    digest = await house.keep("one")
    job_key = (await house.store.stored("spillway:rc:", 10))[0].key
    await house.store.set(job_key, b"garbage", ttl_s=60)
    await house.store.set("spillway:rc:2:short:key", b"x", ttl_s=60)
    _, document = await house.ask()
    assert document["entries"] == 1
    assert document["tenants"]["acme"]["unreadable"]["entries"] == 1
    assert (await house.ask("DELETE", "?tier=river"))[1]["dropped"] == 0
    assert (await house.ask("DELETE", f"?key={digest}"))[1]["dropped"] == 1


async def test_the_selftest_passes_where_salts_keep_tenants_apart_and_fails_where_they_do_not(
    house: House,
) -> None:
    seen: set[tuple[str, str]] = set()
    salted = True

    async def prefixes(job: Job, body: Any) -> AsyncIterator[Any]:
        key = (job.identity.cache_salt if salted else "", str(body["messages"]))
        cached = 10 if key in seen else 0
        seen.add(key)
        yield Delta(text="x", finish_reason="stop")
        yield TierDone(usage=Usage(cached_tokens=cached))

    house.tiers[0].script = house.tiers[1].script = prefixes
    status, document = await house.ask("POST", path="/selftest")
    assert (status, document["passed"]) == (200, True), document
    assert [check["outcome"] for check in document["checks"]] == ["passed"] * 4
    salted = False
    seen.clear()
    _, document = await house.ask("POST", path="/selftest")
    assert document["passed"] is False
    house.tiers[0].up, house.tiers[1].capabilities = False, frozenset()
    _, document = await house.ask("POST", path="/selftest")
    assert [check["outcome"] for check in document["checks"]][2:] == ["skipped"] * 2
