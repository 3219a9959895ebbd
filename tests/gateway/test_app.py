"""The whole front end from its configuration, in front of real servers on loopback."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.app import create_app
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.generation import Delta, Usage
from gateway.keys import key_digest
from gateway.wire.render import Chunks, new_head
from gateway.wire.server import listener
from gateway.wire.stream import send_events

USER = [{"role": "user", "content": "hi"}]


async def upstream(request: web.Request) -> web.StreamResponse:
    """Somebody else's server: streams its model's name."""
    body = await request.json()

    async def frames() -> AsyncIterator[bytes]:
        chunks = Chunks(new_head("chat", body["model"]), include_usage=True)
        for delta in (Delta(text=body["model"]), Delta(text=" speaks", finish_reason="stop")):
            yield b"".join(chunks.more(delta))
        yield b"".join(chunks.closing(Usage(prompt_tokens=3, completion_tokens=2)))

    return await send_events(request, frames(), {})


@contextlib.asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = listener(app, shutdown_s=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def other_server() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream)
    async with listening(app) as url:
        yield f"{url}/v1"


def config(folder: Path, url: str, **more: Any) -> Config:
    tiers = [{"name": "brook", "url": url, "model": "small"}, {"name": "river", "url": url}]
    return Config.model_validate({"tiers": tiers, "state_dir": folder / "state", **more})


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(http: aiohttp.ClientSession, url: str, **body: Any) -> tuple[Any, Any]:
    full = {"model": "auto", "messages": USER, **body}
    async with http.post(f"{url}/v1/chat/completions", json=full) as response:
        return response, await response.json()


async def test_a_configuration_becomes_a_gateway_in_front_of_other_servers(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession
) -> None:
    async with listening(create_app(config(tmp_path, other_server))) as url:
        response, body = await ask(http, url, spillway={"receipt": True})
        assert response.status == 200
        assert body["choices"][0]["message"]["content"] == "river speaks"  # no router: the last
        assert response.headers["x-spillway-tier"] == body["spillway"]["tier"] == "river"
        _, body = await ask(http, url, model="brook", temperature=0)
        assert body["choices"][0]["message"]["content"] == "small speaks"
        assert body["usage"]["total_tokens"] == 5
        async with http.get(f"{url}/openapi.json") as described:
            assert "/admin/cascade" in (await described.json())["paths"]
        async with http.get(f"{url}/metrics") as told:
            assert 'spillway_tier_usable{tier="river"} 1.0' in await told.text()


@pytest.mark.parametrize(
    ("speculation", "named"),
    [
        ({"mode": "off"}, "mode"),
        ({"mode": "fixed", "max_nodes": 4}, "mode"),
        ({"sources": ["draft_model"]}, "sources"),
        ({"mode": "auto", "max_nodes": 4}, "max_nodes"),
    ],
)
async def test_a_server_that_cannot_be_told_how_to_draft_is_not_asked_to(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession, speculation: Any, named: str
) -> None:
    plain = config(tmp_path, other_server)
    async with listening(create_app(plain)) as url:
        for model in ("river", "auto"):
            steered = {"model": model, "spillway": {"speculation": speculation}}
            response, body = await ask(http, url, **steered)
            assert (response.status, body["error"]["code"]) == (400, "unsupported_parameter")
            assert body["error"]["param"] == f"spillway.speculation.{named}"
        for harmless in ({"mode": "auto"}, {}):
            response, _ = await ask(http, url, spillway={"speculation": harmless})
            assert response.status == 200


async def test_auto_passes_over_servers_that_cannot_be_told_how_to_draft(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession
) -> None:
    ours = {"name": "brook", "url": other_server, "capabilities": ["drafts"]}
    tiers = [ours, {"name": "river", "url": other_server}]
    mixed = Config.model_validate({"tiers": tiers, "state_dir": tmp_path / "state"})
    async with listening(create_app(mixed)) as url:
        response, _ = await ask(http, url)
        assert response.headers["x-spillway-tier"] == "river"  # no router: the last
        response, _ = await ask(http, url, spillway={"speculation": {"mode": "off"}})
        assert response.headers["x-spillway-tier"] == "brook"


async def test_tokens_are_counted_where_they_are_made_and_a_cached_answer_makes_none(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession
) -> None:
    tiers = [{"name": "brook", "url": other_server, "revision": "1"}]
    state = tmp_path / "state"
    alone = Config.model_validate({"tiers": tiers, "state_dir": state})
    async with listening(create_app(alone)) as url:
        answers = [(await ask(http, url, temperature=0))[0] for _ in range(2)]
        assert ["hit" in one.headers["cache-status"] for one in answers] == [False, True]
        async with http.get(f"{url}/metrics") as told:
            lines = (await told.text()).splitlines()
    made = {line for line in lines if line.startswith("spillway_tokens_total{")}
    assert 'spillway_tokens_total{kind="completion",tier="brook"} 2.0' in made
    assert 'spillway_tokens_total{kind="prompt",tier="brook"} 3.0' in made


async def test_each_response_names_the_policy_that_an_admin_just_put_in_force(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession
) -> None:
    async with listening(create_app(config(tmp_path, other_server))) as url:
        before, _ = await ask(http, url)
        tiers = {"brook": {"start": 0.25, "accept": 0.5}}
        admin = f"{url}/admin/cascade"
        async with http.put(admin, json={"tiers": tiers}, headers={"If-Match": "*"}) as changed:
            assert changed.status == 200
        after, _ = await ask(http, url)
        versions = [int(one.headers["x-spillway-config-version"]) for one in (before, after)]
        assert versions[1] == versions[0] + 1
        assert after.headers["x-spillway-policy-version"] == str(versions[1])


async def test_servers_that_are_gone_are_503_in_shape_and_the_gateway_stays(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    gone = "http://127.0.0.1:9/v1"
    async with listening(create_app(config(tmp_path, gone))) as url:
        for _ in range(3):
            response, body = await ask(http, url)
            assert response.status == 503
            assert int(response.headers["retry-after"]) >= 1
            assert body["error"]["type"]
        async with http.get(f"{url}/livez") as alive:
            assert alive.status == 200


async def test_a_keys_file_closes_the_doors(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nhash = "{key_digest("sk-a").hex()}"\ntenant = "a"\n')
    app = create_app(config(tmp_path, other_server, server={"keys_file": keys}))
    async with listening(app) as url:
        response, body = await ask(http, url)
        assert (response.status, body["error"]["code"]) == (401, "invalid_api_key")
        async with http.get(f"{url}/admin/cascade") as response:
            assert response.status == 401
        http.headers["Authorization"] = "Bearer sk-a"
        response, _ = await ask(http, url)
        assert response.status == 200


async def test_an_admin_token_is_asked_for_by_the_admin_routes_alone(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession
) -> None:
    app = create_app(config(tmp_path, other_server, admin_token="t" * 32))
    async with listening(app) as url:
        assert (await ask(http, url))[0].status == 200
        async with http.get(f"{url}/admin/cascade") as response:
            assert response.status == 401
            assert response.content_type == "application/problem+json"
        headers = {"Authorization": "Bearer " + "t" * 32}
        async with http.get(f"{url}/admin/cascade", headers=headers) as response:
            assert response.status == 200


async def test_a_keyless_gateway_refuses_a_rebound_host(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession
) -> None:
    async with listening(create_app(config(tmp_path, other_server))) as url:
        response = await http.get(f"{url}/v1/models", headers={"Host": "evil.example"})
        assert response.status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),  # the port that is published
        ("127.0.0.1:8000", 200),  # the same, and the health check inside
        ("Gateway.LAN:8000", 200),
        ("[fd00::7]:8000", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("", 403),
    ],
)
async def test_callers_without_a_key_name_a_host_of_ours_on_any_address(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession, host: str, status: int
) -> None:
    server = {"host": "0.0.0.0", "allow_anonymous": True}
    names = {"allowed_hosts": ["gateway.lan", "[FD00::7]"]}
    app = create_app(config(tmp_path, other_server, server=server | names))
    async with listening(app) as url:
        for path in ("/v1/models", "/livez"):
            async with http.get(url + path, headers={"Host": host}) as response:
                assert response.status == status


async def test_with_keys_any_host_will_do(
    tmp_path: Path, other_server: str, http: aiohttp.ClientSession
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nhash = "{key_digest("sk-a").hex()}"\ntenant = "a"\n')
    app = create_app(config(tmp_path, other_server, server={"keys_file": keys}))
    headers = {"Host": "gateway.example", "Authorization": "Bearer sk-a"}
    async with listening(app) as url, http.get(f"{url}/v1/models", headers=headers) as response:
        assert response.status == 200


def test_keys_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    server = {"keys_file": tmp_path / "none.toml"}
    with pytest.raises(ConfigError, match="readable"):
        create_app(config(tmp_path, "http://127.0.0.1:9/v1", server=server))


def test_the_front_end_runs_with_torch_absent() -> None:
    code = """
import sys
for name in ("torch", "transformers", "tokenizers", "safetensors", "sklearn"):
    sys.modules[name] = None
import gateway.app, gateway.cli
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"verifier", "drafting", "kernels"}, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
