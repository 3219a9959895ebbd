"""Keys name tenants; without the right one nobody gets in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commands.new_key import new_key
from gateway.errors import ApiError, ConfigError
from gateway.keys import (
    Keys,
    anonymous_keys,
    cache_salt,
    host_name,
    key_digest,
    load_keys,
    may_use,
)

SECRET = b"0" * 32


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write(folder: Path, text: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(text)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    text = f"""
    [[key]]
    hash = "{digest("sk-one")}"
    tenant = "one"
    models = ["brook"]

    [[key]]
    hash = "{digest("sk-two")}"
    tenant = "two"
    roles = ["admin", "metrics"]
    """
    return load_keys(write(tmp_path, text), SECRET)


def test_a_key_becomes_its_tenant_roles_and_models(keys: Keys) -> None:
    one, two = keys.identify("Bearer sk-one"), keys.identify("bearer  sk-two ")
    assert (one.tenant, two.tenant) == ("one", "two")
    assert two.roles == {"admin", "metrics"}
    assert may_use(one, "brook")
    assert not may_use(one, "river")
    assert may_use(two, "river")
    assert keys.required


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "sk-one", "Basic sk-one", "Bearer sk-on", "Bearer sk-one2"],
)
def test_anything_but_a_known_key_is_401(keys: Keys, header: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        keys.identify(header)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


@given(st.text())
def test_hostile_headers_never_get_in_and_never_crash(header: str) -> None:
    keys = Keys([])
    for text in (header, f"Bearer {header}", f"Bearer {header * 1000}"):
        with pytest.raises(ApiError):
            keys.identify(text)


def test_a_header_of_undecodable_bytes_is_401(keys: Keys) -> None:
    with pytest.raises(ApiError):
        keys.identify(b"Bearer \xff\xfe".decode("utf-8", "surrogateescape"))


def test_the_hash_of_a_key_does_not_open_the_door(keys: Keys) -> None:
    with pytest.raises(ApiError):
        keys.identify(f"Bearer {digest('sk-one')}")


def test_without_a_file_everyone_is_the_default_tenant() -> None:
    keys = load_keys(None, SECRET)
    assert not keys.required
    assert keys.identify(None).tenant == "default"
    assert keys.identify("Bearer whatever") == anonymous_keys(SECRET).identify(None)


def test_salts_differ_by_tenant_and_secret_and_stay_the_same_otherwise(keys: Keys) -> None:
    salts = {cache_salt(secret, tenant) for secret in (SECRET, b"1" * 32) for tenant in "ab"}
    assert len(salts) == 4
    assert keys.identify("Bearer sk-one").cache_salt == cache_salt(SECRET, "one")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "key"),
        ("key = 1", "key"),
        ("[[key]]\nhash = 'x'\ntenant = 'a'", "hash"),
        (f"[[key]]\nhash = '{'A' * 64}'\ntenant = 'a'", "hash"),
        (f"[[key]]\nhash = '{'a' * 64}'", "tenant"),
        (f"[[key]]\nhash = '{'a' * 64}'\ntenant = ''", "tenant"),
        (f"[[key]]\nhash = '{'a' * 64}'\ntenant = 'a'\nroles = ['root']", "roles"),
        (f"[[key]]\nhash = '{'a' * 64}'\ntenant = 'a'\nkey = 'sk'", "key.0.key"),
        (2 * f"[[key]]\nhash = '{'a' * 64}'\ntenant = 'a'\n", "twice"),
        ("not toml", "TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, text: str, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        load_keys(write(tmp_path, text), SECRET)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="readable"):
        load_keys(tmp_path / "none.toml", SECRET)


def test_a_newly_made_key_opens_the_door(tmp_path: Path) -> None:
    made = new_key("acme", roles=["reader"], models=["auto"])
    keys = load_keys(write(tmp_path, made.entry), SECRET)
    identity = keys.identify(f"Bearer {made.key}")
    assert (identity.tenant, identity.roles) == ("acme", {"reader"})
    assert identity.allowed_models == {"auto"}
    assert made.key not in made.entry


def test_digests_are_plain_sha256() -> None:
    assert key_digest("abc").hex() == digest("abc")


@pytest.mark.parametrize(
    ("header", "name"),
    [("A.b:80", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("x", "x"), ("", "")],
)
def test_host_headers_lose_port_and_brackets(header: str, name: str) -> None:
    assert host_name(header) == name
