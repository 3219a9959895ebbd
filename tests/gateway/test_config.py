"""The configuration file and the environment, and what is said when they are wrong."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, load_config, load_engine
from gateway.errors import ConfigError

GOOD = """
[server]
port = 8001

[[engines]]
name = "local"

[[engines.models]]
name = "brook"
path = "ladder/brook"

[[engines.models]]
name = "river"
path = "/models/river"
dtype = "bfloat16"
draft = { model = "brook" }

[[tiers]]
name = "brook"
url = "engine:local"
completion_cost = 0.1

[[tiers]]
name = "far"
url = "https://api.example.com/v1/"
model = "vendor/large"
capabilities = ["logprobs"]

[cascade.thresholds]
brook = { start = 0.4, accept = 0.7 }
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(text: str) -> Path:
        path = tmp_path / "spillway.toml"
        path.write_text(text)
        return path

    return to


def _refused(path: Path, environ: Any = None) -> str:
    with pytest.raises(ConfigError) as refused:
        load_config(path, environ or {})
    return str(refused.value)


def test_a_file_becomes_a_typed_configuration(write: Write, tmp_path: Path) -> None:
    config = load_config(write(GOOD), {})
    assert config.server.port == 8001
    assert config.engine("local").models[0].path == tmp_path / "ladder/brook"
    assert config.engine("local").models[1].path == Path("/models/river")
    brook, far = config.tiers
    assert brook.engine == "local"
    assert brook.declared_capabilities >= {"prediction", "drafts", "fingerprint"}
    assert far.engine is None
    assert far.served_model == "vendor/large"
    assert far.declared_capabilities == {"logprobs"}
    assert far.url == "https://api.example.com/v1"
    assert config.cascade.thresholds["brook"].accept == 0.7
    assert config.state_dir == tmp_path / ".spillway"
    assert config.source == tmp_path / "spillway.toml"


def test_the_environment_overrides_the_file_and_empty_variables_do_not(write: Write) -> None:
    environ = {
        "SPILLWAY_PORT": "9000",
        "SPILLWAY_HOST": "",
        "SPILLWAY_REDIS_URL": "redis://cache:6379/0",
        "SPILLWAY_ADMIN_TOKEN": "t0ken",
        "SPILLWAY_ENGINE_URL": "http://engine:8001",
        "SPILLWAY_NOSUCH": "ignored",
    }
    config = load_config(write(GOOD), environ)
    assert config.server.port == 9000
    assert config.server.host == "127.0.0.1"
    assert config.redis.url == "redis://cache:6379/0"
    assert config.engine("local").url == "http://engine:8001"
    assert config.admin_token is not None
    assert config.admin_token.get_secret_value() == "t0ken"
    assert "t0ken" not in repr(config)


def test_an_engine_computes_on_the_cpu_unless_the_environment_says_otherwise(
    write: Write,
) -> None:
    assert load_engine(write(GOOD), "local", {}).device == "cpu"
    assert load_engine(write(GOOD), "local", {"SPILLWAY_ENGINE_DEVICE": "cuda"}).device == "cuda"
    with pytest.raises(ConfigError, match="device: got 'tpu'"):
        load_engine(write(GOOD), "local", {"SPILLWAY_ENGINE_DEVICE": "tpu"})


def test_each_of_several_engines_has_a_variable_of_its_own(write: Write) -> None:
    second = '[[engines]]\nname = "gpu-1"\nurl = "http://a/v1"\n'
    environ = {"SPILLWAY_ENGINE_URL": "http://all", "SPILLWAY_ENGINE_URL_GPU_1": "http://b/v1"}
    config = load_config(write(GOOD + second), environ)
    assert config.engine("local").url is None
    assert config.engine("gpu-1").url == "http://b/v1"


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("port = 8001", "prot = 8001", "server.prot"),
        ("port = 8001", 'port = "x"', "server.port: got 'x'"),
        ("port = 8001", "port = 70000", "server.port: got '70000'"),
        ("port = 8001", 'host = "0.0.0.0"', "0.0.0.0"),
        ("port = 8001", "shutdown_s = nan", "server.shutdown_s"),
        ('name = "brook"\nurl', 'name = "auto"\nurl', "auto"),
        ('url = "engine:local"', 'url = "engine:other"', "other"),
        ('url = "engine:local"', 'url = "ftp://x"', "tiers.0.url: got 'ftp://x'"),
        ('url = "engine:local"', 'url = "engine:local"\nmodel = "sea"', "sea"),
        ('dtype = "bfloat16"', 'dtype = "int4"', "engines.0.models.1.dtype: got 'int4'"),
        ('draft = { model = "brook" }', 'draft = { model = "sea" }', "sea"),
        ('["logprobs"]', '["telepathy"]', "telepathy"),
        ("brook = { start = 0.4", "sea = { start = 0.4", "sea"),
        ("start = 0.4", "start = 1.4", "cascade.thresholds.brook.start: got '1.4'"),
        ("start = 0.4", "start = nan", "cascade.thresholds.brook.start"),
        ('name = "far"', 'name = "brook"', "brook"),
        ("completion_cost = 0.1", "completion_cost = -1", "tiers.0.completion_cost"),
        ("completion_cost = 0.1", 'api_key = "sk-secret"', "api_key_env"),
        ("completion_cost = 0.1", 'api_key_env = "NOT_SET"', "NOT_SET"),
        ("[server]", 'secret = "x"\n[server]', "secret"),
        ("[server]", "[[[", "TOML"),
    ],
)
def test_a_fault_names_the_key_and_what_was_got(
    write: Write, before: str, after: str, named: str
) -> None:
    assert before in GOOD
    assert named in _refused(write(GOOD.replace(before, after, 1)))


def test_a_file_without_tiers_or_no_file_at_all_is_refused(write: Write, tmp_path: Path) -> None:
    assert "tiers" in _refused(write(""))
    assert "nosuch.toml" in _refused(tmp_path / "nosuch.toml")


def test_refusals_repeat_no_secret(write: Write) -> None:
    said = _refused(write(GOOD), {"SPILLWAY_REDIS_URL": "http://user:hunter2@cache"})
    assert "redis.url" in said
    assert "hunter2" not in said


def test_a_public_address_needs_keys_or_a_word_that_none_are_wanted(write: Write) -> None:
    path = write(GOOD)
    public = {"SPILLWAY_HOST": "0.0.0.0"}
    _refused(path, public)
    assert load_config(path, {**public, "SPILLWAY_KEYS_FILE": "keys.toml"})
    assert load_config(path, {**public, "SPILLWAY_ALLOW_ANONYMOUS": "true"})
    for loopback in ("localhost", "127.0.0.9", "::1"):
        assert load_config(path, {"SPILLWAY_HOST": loopback})


def test_an_api_key_comes_from_the_named_variable(write: Write) -> None:
    text = GOOD.replace("completion_cost = 0.1", 'api_key_env = "VENDOR_KEY"')
    config = load_config(write(text), {"VENDOR_KEY": "sk-1"})
    assert config.tiers[0].api_key is not None
    assert config.tiers[0].api_key.get_secret_value() == "sk-1"
    assert "sk-1" not in repr(config)


def test_an_engine_reads_its_own_entry_only(write: Write) -> None:
    path = write(GOOD.replace("completion_cost = 0.1", 'api_key_env = "NOT_SET"'))
    assert load_engine(path, "local", {}).models[1].draft.model == "brook"
    with pytest.raises(ConfigError, match="local"):
        load_engine(path, "other", {})


def test_the_secret_is_made_once_kept_to_ourselves_and_overridden(
    write: Write, tmp_path: Path
) -> None:
    path = write(GOOD)
    first = load_config(path, {}).secret_bytes()
    assert len(first) >= 32
    assert load_config(path, {}).secret_bytes() == first
    kept = tmp_path / ".spillway" / "secret"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert list(kept.parent.iterdir()) == [kept]
    assert load_config(path, {"SPILLWAY_SECRET": "given"}).secret_bytes() == b"given"
    kept.write_text("short")
    with pytest.raises(ConfigError, match="5 bytes"):
        load_config(path, {}).secret_bytes()


def test_a_configuration_cannot_be_changed(write: Write) -> None:
    config: Config = load_config(write(GOOD), {})
    with pytest.raises(ValueError, match="frozen"):
        config.server.port = 1  # type: ignore[misc]


def test_the_shipped_configuration_is_sound() -> None:
    shipped = Path(__file__).parents[2] / "demo" / "spillway.toml"
    config = load_config(shipped, {})
    assert [tier.name for tier in config.tiers] == ["brook", "creek", "river"]


def test_allowed_hosts_are_bare_names_from_the_file_or_the_environment(write: Write) -> None:
    listed = 'allowed_hosts = ["A.example", "[::2]", "10.0.0.7"]'
    path = write(GOOD.replace("port = 8001", f"port = 8001\n{listed}"))
    assert load_config(path, {}).server.allowed_hosts == ("a.example", "::2", "10.0.0.7")
    environ = {"SPILLWAY_ALLOWED_HOSTS": "b.example, c.example"}
    assert load_config(path, environ).server.allowed_hosts == ("b.example", "c.example")
    for wrong in ("a.example:8000", "http://a.example", "a.example/x", ",", "*"):
        message = _refused(path, {"SPILLWAY_ALLOWED_HOSTS": wrong})
        assert "allowed_hosts" in message


def test_the_bytes_being_read_must_hold_one_body(write: Write) -> None:
    path = write(GOOD.replace("port = 8001", "max_body_bytes = 2000\nmax_reading_bytes = 1999"))
    assert "max_reading_bytes" in _refused(path)
    path.write_text(path.read_text().replace("1999", "2000"))
    assert load_config(path, {}).server.max_reading_bytes == 2000
