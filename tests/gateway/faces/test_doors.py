"""Every route asks who is there, and only those made public do not."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from gateway.app import own_names
from gateway.faces.front import IDENTITY
from gateway.generation import Identity
from gateway.keys import Key, Keys, key_digest

PUBLIC = {"/livez", "/readyz"}


def keys(**secrets: Identity) -> Keys:
    return Keys([Key(key_digest(f"sk-{name}"), identity) for name, identity in secrets.items()])


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer sk-{name}"}


async def admin(request: web.Request) -> web.Response:
    return web.json_response({"who": request[IDENTITY].tenant if IDENTITY in request else None})


ADMIN = [web.get("/admin/cascade", admin), web.put("/admin/cascade", admin)]


async def test_without_a_key_every_route_but_the_public_ones_is_401(start: Any) -> None:
    async with start(keys=keys(a=Identity(tenant="a")), more_routes=ADMIN) as served:
        paths = {
            (route.method, route.resource.canonical)
            for route in served.app.router.routes()
            if route.resource is not None
        }
        assert len(paths) > 10
        for method, path in sorted(paths):
            for authorization in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "x"}):
                url = served.url + path.replace("{model}", "river")
                async with served.http.request(method, url, headers=authorization) as response:
                    refused = response.status == 401
                    assert refused == (path not in PUBLIC), (method, path)
                    if refused:
                        assert response.headers["WWW-Authenticate"] == "Bearer"
        async with served.http.get(served.url + "/unknown") as response:
            assert response.status == 401


async def test_the_identity_of_the_key_reaches_the_job(start: Any) -> None:
    one = Identity(tenant="one", cache_salt="s1")
    async with start(keys=keys(one=one, two=Identity(tenant="two"))) as served:
        body = {"model": "auto", "prompt": "hi", "user": "two", "cache_salt": "s2"}
        await served.post("/v1/completions", body, headers=bearer("one"))
        assert served.answerer.jobs[0].identity == one
        assert "cache_salt" not in served.answerer.jobs[0].body


@pytest.mark.parametrize(
    ("roles", "statuses"),
    [
        (frozenset(), (403, 403, 403, 403)),
        (frozenset({"metrics"}), (200, 200, 403, 403)),
        (frozenset({"reader"}), (403, 403, 200, 403)),
        (frozenset({"operator"}), (403, 403, 200, 200)),
        (frozenset({"admin"}), (200, 200, 200, 200)),
    ],
)
async def test_roles_decide_who_sees_metrics_and_admin(
    start: Any, roles: frozenset[str], statuses: tuple[int, int, int, int]
) -> None:
    me = Identity(tenant="me", roles=roles)
    async with start(keys=keys(me=me), more_routes=ADMIN) as served:
        asked = [("GET", "/metrics"), ("GET", "/metrics/engines")]
        asked += [("GET", "/admin/cascade"), ("PUT", "/admin/cascade")]
        got = []
        for method, path in asked:
            async with served.http.request(
                method, served.url + path, headers=bearer("me")
            ) as response:
                got.append(response.status)
        assert tuple(got) == statuses


async def test_an_admin_token_replaces_keys_on_admin_routes_only(start: Any) -> None:
    given = {"keys": keys(a=Identity(tenant="a")), "admin_has_token": True, "more_routes": ADMIN}
    async with start(**given) as served:
        async with served.http.get(served.url + "/admin/cascade") as response:
            assert await response.json() == {"who": None}  # the route asks for its own token
        for path in ("/adminx", "/v1/models", "/admin", "/admin/../v1/models"):
            async with served.http.get(served.url + path) as response:
                assert response.status == 401, path


async def test_the_doors_of_admin_routes_refuse_in_the_admin_apis_own_shape(start: Any) -> None:
    given = {"keys": keys(a=Identity(tenant="a")), "hosts": own_names(), "more_routes": ADMIN}
    refusals = [
        ({}, 401, "invalid_api_key"),
        (bearer("a"), 403, "forbidden"),
        ({**bearer("a"), "Host": "evil.example"}, 403, "host_not_allowed"),
    ]
    async with start(**given) as served:
        for headers, status, code in refusals:
            async with served.http.get(served.url + "/admin/cascade", headers=headers) as response:
                told = await response.json(content_type="application/problem+json")
            assert (response.status, told["status"], told["error"]["code"]) == (
                status,
                status,
                code,
            )
            assert told["detail"] == told["error"]["message"]
            assert ("WWW-Authenticate" in response.headers) == (status == 401)
            async with served.http.get(served.url + "/v1/models", headers=headers) as response:
                assert response.content_type == "application/json"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("[::1].evil.example", 403),
        ("", 403),
    ],
)
async def test_a_keyless_server_answers_to_its_own_names_only(
    start: Any, host: str, status: int
) -> None:
    async with start(hosts=own_names("127.0.0.1")) as served:
        url = served.url + "/v1/models"
        async with served.http.get(url, headers={"Host": host}) as response:
            assert response.status == status


async def test_a_sane_request_id_is_kept_and_any_other_replaced(served: Any) -> None:
    for offered, kept in (("abc-123", True), ("a" * 200, False), ("a b", False), ("é", False)):
        headers = {"x-request-id": offered}
        async with served.http.get(served.url + "/v1/models", headers=headers) as response:
            assert (response.headers["x-request-id"] == offered) == kept


async def test_each_response_carries_an_id_even_a_refusal(served: Any) -> None:
    ids = set()
    for path in ("/nope", "/v1/models", "/livez", "/v1/chat/completions"):
        async with served.http.get(served.url + path) as response:
            ids.add(response.headers["x-request-id"])
    assert len(ids) == 4
