"""With a token only its holder is admitted; without one only this machine, and no web page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.admin.guard import Guard
from gateway.admin.problem import Problem

TOKEN = "correct horse"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x",
     f"Bearer {TOKEN.upper()}", "Bearer \u00fc", f"Bearer x {TOKEN}"],
)  # fmt: skip
async def test_anything_but_the_token_is_401(serve: Any, header: str | None) -> None:
    served = await serve(token=TOKEN)
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/x")):
        response = await served.call(method, path=path, headers=headers)
        assert response.status == 401
        assert response.content_type == "application/problem+json"
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert TOKEN not in await response.text()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_token_admits_from_anywhere_under_any_name(serve: Any, scheme: str) -> None:
    served = await serve(token=TOKEN)
    headers = {
        "Authorization": f"{scheme} {TOKEN}",
        "Host": "spillway.example",
        "X-Forwarded-For": "8.8.8.8",
    }
    assert (await served.call(headers=headers)).status == 200


async def test_an_empty_token_admits_nobody(serve: Any) -> None:
    served = await serve(token="")
    for header in ("Bearer ", "Bearer", ""):
        assert (await served.call(headers={"Authorization": header})).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8000"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": ""},
        {"Host": "127.0.0.1@evil.example"},
        {"Host": "[::1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": "8.8.8.8"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
    ],
)
async def test_without_a_token_no_web_page_and_no_proxy_is_admitted(
    serve: Any, headers: dict[str, str]
) -> None:
    served = await serve()
    response = await served.call(headers=headers)
    assert response.status == 403
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:8000"]
)
async def test_without_a_token_this_machine_is_admitted_by_its_names(serve: Any, host: str) -> None:
    served = await serve()
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert (await served.call(headers=headers)).status == 200


def from_peer(peer: Any, family: str = "AF_INET", **headers: str) -> Any:
    extra = {"peername": peer, "socket": SimpleNamespace(family=SimpleNamespace(name=family))}
    transport = SimpleNamespace(get_extra_info=lambda name, default=None: extra.get(name, default))
    given = {"Host": "localhost", **headers}
    return make_mocked_request("GET", "/admin/cascade", headers=given, transport=transport)


@pytest.mark.parametrize(
    "peer",
    [("10.0.0.1", 5), ("8.8.8.8", 5), ("::2", 5, 0, 0), ("::ffff:8.8.8.8", 5, 0, 0), (), None, ""],
)
def test_without_a_token_no_other_machine_is_admitted_whatever_it_claims(peer: Any) -> None:
    for claim in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}):
        with pytest.raises(Problem) as refused:
            Guard(None).admit(from_peer(peer, **claim))
        assert refused.value.status == 403


@pytest.mark.parametrize(
    "peer", [("127.0.0.1", 5), ("::1", 5, 0, 0), ("::ffff:127.0.0.1", 5, 0, 0)]
)
def test_without_a_token_loopback_peers_are_admitted(peer: Any) -> None:
    assert Guard(None).admit(from_peer(peer)) == "loopback"


def test_a_unix_socket_is_on_this_machine() -> None:
    assert Guard(None).admit(from_peer("", "AF_UNIX")) == "loopback"
