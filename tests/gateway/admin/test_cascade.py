"""`/admin/cascade` changes all thresholds at once, or nothing, and says why."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from gateway.admin.audit import verify
from gateway.cascade.run import Cascade
from gateway.store.memory import MemoryStore
from gateway.store.redis_store import RedisStore

ANY = {"If-Match": "*"}


async def problem_of(response: Any, status: int) -> dict[str, Any]:
    """The problem document, checked for its shape."""
    assert response.status == status, await response.text()
    assert response.content_type == "application/problem+json"
    document: dict[str, Any] = await response.json(content_type=None)
    assert document["status"] == status
    assert set(document) >= {"type", "title", "detail"}
    error = document["error"]  # what OpenAI's clients look for
    assert error["message"] == document["detail"]
    assert error["param"] == document.get("field")
    assert error["type"] in ("invalid_request_error", "server_error")
    assert error["code"] or status == 400
    return document


async def test_the_policy_is_read_with_its_version_tag_and_ladder(serve: Any) -> None:
    served = await serve()
    response = await served.call()
    document = await response.json()
    assert document["version"] == 1
    assert document["tiers"]["brook"] == {"start": 0.5, "accept": 0.5}
    assert [tier["tier"] for tier in document["ladder"]] == ["brook", "creek", "river"]
    assert document["ladder"][0]["usable"] is True
    assert response.headers["ETag"] == served.live.current.etag
    assert response.headers["ETag"].startswith('"')
    assert response.headers["x-spillway-policy-version"] == "1"
    again = await served.call(headers={"If-None-Match": response.headers["ETag"]})
    assert again.status == 304


async def test_a_change_with_the_right_tag_is_in_force_when_the_answer_comes(
    serve: Any, good: Any
) -> None:
    served = await serve()
    tag = (await served.call()).headers["ETag"]
    response = await served.call("PUT", json=good, headers={"If-Match": tag})
    document = await response.json()
    assert (response.status, document["version"]) == (200, 2)
    assert response.headers["ETag"] == served.live.current.etag != tag
    assert response.headers["x-spillway-policy-version"] == "2"
    assert served.live.current.document()["creek"] == {"start": 0.3, "accept": 0.4}
    assert {"field": "tiers.creek.accept", "from": 0.5, "to": 0.4} in document["changes"]


async def test_what_is_read_can_be_written_back(serve: Any) -> None:
    served = await serve()
    read = await served.call()
    tiers = (await read.json())["tiers"]
    response = await served.call(
        "PUT", json={"tiers": tiers}, headers={"If-Match": read.headers["ETag"]}
    )
    assert response.status == 200
    assert (await response.json())["changes"] == []


async def test_a_change_without_a_precondition_is_428_and_with_a_stale_one_412(
    serve: Any, good: Any
) -> None:
    served = await serve()
    tag = (await served.call()).headers["ETag"]
    await problem_of(await served.call("PUT", json=good), 428)
    assert (await served.call("PUT", json=good, headers=ANY)).status == 200
    for stale in (tag, f"W/{served.live.current.etag}", '"other"', f'{tag}, "x"'):
        refused = await served.call("PUT", json=good, headers={"If-Match": stale})
        await problem_of(refused, 412)
        assert refused.headers["ETag"] == served.live.current.etag
    assert served.live.current.version == 2
    listed = {"If-Match": f'"x",{tag} , {served.live.current.etag}'}
    assert (await served.call("PUT", json=good, headers=listed)).status == 200


@pytest.mark.parametrize("match", ["x", "*, *", '"unclosed', '"a" "b"', "W/", "**"])
async def test_a_precondition_that_cannot_be_read_is_400(serve: Any, good: Any, match: str) -> None:
    served = await serve()
    response = await served.call("PUT", json=good, headers={"If-Match": match})
    await problem_of(response, 400)
    assert served.live.current.version == 1


BAD = [
    ("brook", "start", "NaN"), ("brook", "accept", "Infinity"), ("creek", "start", "-Infinity"),
    ("creek", "accept", "1.0000001"), ("brook", "start", "-0.0000001"), ("brook", "start", "true"),
    ("brook", "start", "false"), ("brook", "start", '"0.5"'), ("creek", "start", "null"),
    ("creek", "start", "[]"), ("creek", "start", "{}"), ("creek", "accept", "1e999"),
    ("creek", "accept", "1" + "0" * 400), ("river", "accept", "0.5"), ("brook", "other", "0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("tier", "key", "literal"), BAD)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_every_bad_threshold_is_422_naming_it_and_nothing_changes(
    serve: Any, good: Any, tier: str, key: str, literal: str, method: str
) -> None:
    served = await serve()
    document = json.loads(json.dumps(good))
    document["tiers"].setdefault(tier, {})[key] = "HERE"
    body = json.dumps(document).replace('"HERE"', literal)
    response = await served.call(method, data=body, headers=ANY)
    refused = await problem_of(response, 422)
    assert refused["field"] == f"tiers.{tier}.{key}"
    assert refused["field"] in refused["detail"]
    assert served.live.current.version == 1


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ('{"tiers":{"brook":{"start":0,"accept":0}}}', 422, "tiers.creek"),
        ('{"tiers":{"ocean":{"start":0,"accept":0}}}', 422, "tiers.ocean"),
        ('{"tiers":{},"version":3}', 422, "version"),
        ("{}", 422, "tiers"),
        ("[]", 422, ""),
        ("3", 422, ""),
        ('{"tiers":[]}', 422, "tiers"),
        ('{"tiers":{"brook":{"start":0,"start":1,"accept":0}}}', 422, "start"),
        ("{", 400, None),
        ("", 400, None),
        ("\ufeff{}", 400, None),
        ("[" * 50_000, 400, None),
        ('{"tiers":{"brook":{"start":' + "1" * 5000 + "}}}", 400, None),
        (" " * 70_000, 413, None),
    ],
)
async def test_a_bad_body_is_refused_and_nothing_changes(
    serve: Any, body: str, status: int, field: str | None
) -> None:
    served = await serve()
    refused = await problem_of(await served.call("PUT", data=body, headers=ANY), status)
    assert refused.get("field") == field
    assert served.live.current.version == 1


async def test_bytes_that_are_no_text_are_400(serve: Any) -> None:
    served = await serve()
    await problem_of(await served.call("PUT", data=b'{"tiers": "\xff"}', headers=ANY), 400)


async def test_a_body_that_is_not_compressed_as_it_says_is_400(serve: Any) -> None:
    served = await serve()
    headers = {"If-Match": "*", "Content-Encoding": "gzip"}
    response = await served.call("PUT", data=b"no gzip", headers=headers)
    assert response.status == 400


async def test_a_patch_changes_only_what_it_names(serve: Any) -> None:
    served = await serve()
    patch = {"tiers": {"creek": {"accept": 0.9}}}
    response = await served.call("PATCH", json=patch, headers=ANY)
    assert response.status == 200
    assert served.live.current.document() == {
        "brook": {"start": 0.5, "accept": 0.5},
        "creek": {"start": 0.5, "accept": 0.9},
        "river": {"start": 0.0, "accept": 0.0},
    }
    await problem_of(await served.call("PATCH", json=patch), 428)
    gone = {"tiers": {"creek": None}}
    refused = await problem_of(await served.call("PATCH", json=gone, headers=ANY), 422)
    assert refused["field"] == "tiers.creek"


async def test_a_dry_run_tells_what_would_change_and_changes_nothing(serve: Any, good: Any) -> None:
    served = await serve()
    response = await served.call("PUT", path="?dry_run=true", json=good, headers=ANY)
    document = await response.json()
    assert (document["dry_run"], document["version"]) == (True, 2)
    assert len(document["changes"]) == 4
    assert response.headers["ETag"] == served.live.current.etag
    assert served.live.current.version == 1
    assert not served.api.audit.path.exists()


@pytest.mark.parametrize("query", ["?dryrun=true", "?dry_run=1", "?dry_run=", "?x=1"])
async def test_a_misspelt_rehearsal_changes_nothing(serve: Any, good: Any, query: str) -> None:
    served = await serve()
    await problem_of(await served.call("PUT", path=query, json=good, headers=ANY), 400)
    assert served.live.current.version == 1


async def test_other_methods_and_paths_are_refused_as_problems(serve: Any) -> None:
    served = await serve()
    refused = await served.call("DELETE")
    await problem_of(refused, 405)
    assert "PUT" in refused.headers["Allow"]
    await problem_of(await served.call("GET", path="/nothing"), 404)
    head = await served.call("HEAD")
    assert (head.status, head.headers["ETag"]) == (200, served.live.current.etag)


async def test_every_change_leaves_one_line_in_a_chain_that_holds(serve: Any, good: Any) -> None:
    served = await serve()
    for accept in (0.1, 0.2, 0.3):
        good["tiers"]["brook"]["accept"] = accept
        await served.call("PUT", json=good, headers=ANY)
    await served.call("PUT", json=good)
    await served.call("PUT", json={}, headers=ANY)
    assert verify(served.api.audit.path) == 3
    lines = [json.loads(line) for line in served.api.audit.path.read_text().splitlines()]
    assert [line["version"] for line in lines] == [2, 3, 4]
    assert lines[2]["before"]["brook"]["accept"] == 0.2
    assert lines[2]["after"]["brook"]["accept"] == 0.3
    assert lines[2]["actor"] == "loopback"


async def test_an_audit_log_that_cannot_be_written_does_not_hide_the_change(
    serve: Any, good: Any
) -> None:
    served = await serve()
    served.api.audit.path.mkdir(parents=True)
    assert (await served.call("PUT", json=good, headers=ANY)).status == 200
    assert served.live.current.version == 2


async def test_while_the_store_is_gone_a_change_is_503_and_reading_goes_on(
    serve: Any, good: Any, redis_server: Any
) -> None:
    store = RedisStore(redis_server.url)
    served = await serve(store=store)
    redis_server.kill()
    refused = await served.call("PUT", json=good, headers=ANY)
    await problem_of(refused, 503)
    assert int(refused.headers["Retry-After"]) > 0
    assert (await (await served.call()).json())["version"] == 1
    await store.aclose()


async def test_two_replicas_on_one_redis_agree_within_a_second_of_a_put(
    serve: Any, good: Any, redis_server: Any
) -> None:
    stores = [RedisStore(redis_server.url) for _ in range(2)]
    one, other = [await serve(store=store) for store in stores]
    response = await one.call("PUT", json=good, headers=ANY)
    tag, answered = response.headers["ETag"], time.monotonic()
    while (await other.call()).headers["ETag"] != tag:
        assert time.monotonic() - answered < 1.0
        await asyncio.sleep(0.01)
    stale = {"If-Match": '"1-other"'}
    await problem_of(await other.call("PUT", json=good, headers=stale), 412)
    assert (await other.call("PUT", json=good, headers={"If-Match": tag})).status == 200
    await problem_of(await one.call("PUT", json=good, headers={"If-Match": tag}), 412)
    for store in stores:
        await store.aclose()


async def test_tuning_under_load_fails_no_request_and_each_names_one_version(
    serve: Any, good: Any, make_job: Any, estimator: Any
) -> None:
    served = await serve(store=MemoryStore())
    opinions = estimator(
        dict.fromkeys(("brook", "creek", "river"), 0.6), {"brook": 0.6, "creek": 0.6}
    )
    cascade = Cascade(served.api.tiers, served.live, estimator=opinions)
    answered: list[int] = []
    tuning = True

    async def load() -> None:
        while tuning:
            events = [event async for event in cascade.answer(make_job())]
            assert events[0].policy_version == events[-1].receipt["policy_version"]
            answered.append(events[0].policy_version)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(load()) for _ in range(4)]
    for at in range(200):
        good["tiers"]["brook"]["accept"] = at % 2
        response = await served.call("PUT", json=good, headers=ANY)
        assert response.status == 200
    tuning = False
    await asyncio.gather(*tasks)
    assert served.live.current.version == 201
    assert verify(served.api.audit.path) == 200
    assert len(set(answered)) > 50
    assert sorted(answered) == answered, "a request began under an older policy than one before"


async def test_a_moved_threshold_moves_traffic(
    serve: Any, good: Any, make_job: Any, estimator: Any
) -> None:
    served = await serve()
    opinions = estimator(
        dict.fromkeys(("brook", "creek", "river"), 0.6), {"brook": 0.6, "creek": 0.6}
    )
    cascade = Cascade(served.api.tiers, served.live, estimator=opinions)
    tiers = []
    for accept in (0.5, 0.7):
        good["tiers"] = {tier: {"start": 0.5, "accept": accept} for tier in ("brook", "creek")}
        await served.call("PUT", json=good, headers=ANY)
        first, *_ = [event async for event in cascade.answer(make_job())]
        tiers.append(first.tier)
    assert tiers == ["brook", "river"]
