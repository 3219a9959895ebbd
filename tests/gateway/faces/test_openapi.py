"""The server's own description is complete and holds together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.generation import Identity
from gateway.keys import Key, Keys, key_digest


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    if isinstance(node, list):
        for value in node:
            yield from references(value)


async def fetch(served: Any, **options: Any) -> dict[str, Any]:
    async with served.http.get(served.url + "/openapi.json", **options) as response:
        assert response.status == 200
        return dict(await response.json())


async def test_every_route_is_described_and_every_reference_resolves(served: Any) -> None:
    document = await fetch(served)
    assert document["openapi"].startswith("3.1.")
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in served.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    paths = document["paths"]
    assert {(method, path) for path in paths for method in paths[path]} == routes
    for reference in references(document):
        here: Any = document
        for step in reference.removeprefix("#/").split("/"):
            here = here[step]
        assert isinstance(here, dict)


async def test_operations_have_unique_ids_responses_and_their_path_parameters(served: Any) -> None:
    paths = (await fetch(served))["paths"]
    operations = [(path, one) for path, methods in paths.items() for one in methods.values()]
    assert len({one["operationId"] for _, one in operations}) == len(operations)
    for path, one in operations:
        assert {"200", "default"} <= set(one["responses"])
        assert one["summary"]
        named = {parameter["name"] for parameter in one.get("parameters", ())}
        assert all(f"{{{name}}}" in path for name in named)
        assert path.count("{") == len(named)


async def test_request_bodies_carry_the_bounds_that_are_enforced(served: Any) -> None:
    document = await fetch(served)
    schema = document["components"]["schemas"]["ChatRequest"]
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"model", "messages"}
    temperature = schema["properties"]["temperature"]["anyOf"][0]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    assert "spillway" in schema["properties"]


async def test_it_says_whether_a_key_is_asked_for(served: Any, start: Any) -> None:
    assert "security" not in await fetch(served)
    keys = Keys([Key(key_digest("k"), Identity(tenant="t"))])
    async with start(keys=keys) as locked:
        document = await fetch(locked, headers={"Authorization": "Bearer k"})
        assert document["security"] == [{"key": []}]
