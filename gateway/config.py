"""The typed configuration: one TOML file, and the environment read in one place."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.config_cache import CacheConfig
from gateway.config_file import apply_environment, entries, fill_api_key, read_toml
from gateway.errors import ConfigError
from gateway.secret import kept_secret
from gateway.store.clients import check_url

Capability = Literal["prediction", "logprobs", "cache_salt", "fingerprint", "drafts"]
ALL_CAPABILITIES: frozenset[Capability] = frozenset(
    ("prediction", "logprobs", "cache_salt", "fingerprint", "drafts")
)
REDIS_SCHEMES = ("redis", "rediss", "unix")
AUTO = "auto"
"""The model name that asks for the cascade; no tier may carry it."""


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path.cwd())
    return path if path.is_absolute() else Path(base) / path


def _bare_host(host: str) -> str:
    name = host.strip().lower()
    if not re.fullmatch(r"[a-z0-9_.-]+|\[?[0-9a-f.]*:[0-9a-f:.]*\]?", name):
        raise ValueError("expected a host name or address, without port or path")
    return name.strip("[]")


ConfigPath = Annotated[Path, AfterValidator(_beside_the_file)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Probability = Annotated[float, Field(ge=0, le=1)]
Host = Annotated[str, AfterValidator(_bare_host)]
Count = Annotated[int, Field(ge=1)]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class ServerConfig(_Section):
    """The front end's listener and its bounds."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000  # 0: any free port
    keys_file: ConfigPath | None = None
    allow_anonymous: bool = False  # callers without a key on an address others can reach
    allowed_hosts: tuple[Host, ...] = ()  # names we go by without keys, beside loopback's and host
    max_body_bytes: Count = 4 * 1024 * 1024
    max_reading_bytes: Count = 64 * 1024 * 1024  # of all bodies being read and parsed
    max_concurrent: Count = 256  # requests answered at once
    max_queue: Annotated[int, Field(ge=0)] = 256  # requests waiting for a place
    shutdown_s: Seconds = 20.0  # running requests may finish for this long
    keepalive_s: Seconds = 75.0

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """A variable of the environment lists them with commas."""
        return given.split(",") if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_body_can_be_read(self) -> Self:
        if self.max_reading_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_reading_bytes is {self.max_reading_bytes}; expected at least max_body_bytes, "
                f"{self.max_body_bytes}"
            )
        return self

    @model_validator(mode="after")
    def _strangers_need_keys(self) -> Self:
        if self.keys_file is None and not self.allow_anonymous and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} can be reached from other machines; expected keys_file, "
                "a loopback host, or allow_anonymous = true"
            )
        return self


class RedisConfig(_Section):
    """The shared store; without a url everything is kept in this process."""

    url: str | None = None
    connect_timeout_s: Seconds = 0.25
    socket_timeout_s: Seconds = 0.25
    call_timeout_s: Seconds = 0.05  # what a request waits at most, whatever the others say
    max_connections: Count = 32

    @field_validator("url")
    @classmethod
    def _redis_scheme(cls, url: str | None) -> str | None:
        if url:
            check_url(url)
        return url or None


class DraftConfig(_Section):
    """What helps to draft for one model."""

    model: Name | None = None  # a smaller model of the same engine and vocabulary
    layers: Count | None = None  # of its own, after which early exit ends


class ModelConfig(_Section):
    """One model directory an engine loads."""

    name: Name
    path: ConfigPath
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    draft: DraftConfig = DraftConfig()


class EngineConfig(_Section):
    """One engine process: a child of ours, or with ``url`` one that runs elsewhere."""

    name: Name
    url: str | None = None
    models: tuple[ModelConfig, ...] = ()
    device: Literal["cpu", "cuda", "auto"] = "cpu"  # of every model; auto: cuda where there is one
    threads: Count | None = None  # None: torch's own choice
    page_size: Count = 16  # tokens
    pages: Count | None = None  # of each model; None: as many as cache_bytes hold
    cache_bytes: Count = 256 * 1024 * 1024  # of keys and values, each model
    max_running: Count = 32  # requests decoded at once, each model
    max_queue: Count = 256  # requests waiting; beyond it 429
    step_tokens: Count = 256  # prompt tokens of one forward
    chunked_prefill: bool = True  # false: whole prompts in one forward, whatever step_tokens says
    order: Literal["first_come", "shortest"] = "first_come"  # who is served first
    block_store: str | None = None  # where full pages outlive the engine: "memory" or a Redis URL
    block_store_ttl_s: Annotated[float, Field(gt=0, le=31 * 86_400)] = 86_400.0
    block_store_bytes: Annotated[int, Field(ge=0)] = 256 * 1024 * 1024  # in memory, before Redis
    block_store_share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of these, for one tenant
    block_wait_s: Seconds = 0.1  # what a request waits for pages of the store at most
    block_fetch: Literal["auto", "always"] = "auto"  # auto: where that is faster than computing
    block_audit_every: Annotated[int, Field(ge=0)] = 1024  # fetched pages to one computed again
    speculation: bool = True
    sources: tuple[str, ...] | None = None  # who may draft, by name; None: everyone
    max_nodes: Count = 32  # draft nodes of one request and step
    max_body_bytes: Count = 8 * 1024 * 1024
    shutdown_s: Seconds = 15.0

    @field_validator("block_store")
    @classmethod
    def _store_scheme(cls, where: str | None) -> str | None:
        if where and where != "memory" and urlsplit(where).scheme not in REDIS_SCHEMES:
            raise ValueError('expected "memory" or a redis://, rediss:// or unix:// URL')
        return where or None

    @model_validator(mode="after")
    def _models_are_sound(self) -> Self:
        if self.url is None and not self.models:
            raise ValueError("expected at least one model, or the url of a running engine")
        _refuse_duplicates("models", [model.name for model in self.models])
        for model in self.models:
            draft = model.draft.model
            if draft is not None and draft not in {other.name for other in self.models}:
                raise ValueError(f"model {model.name!r} drafts with unknown model {draft!r}")
        return self


class TierConfig(_Section):
    """One step of the cascade: an OpenAI-compatible endpoint plus a model name."""

    name: Name
    url: str  # engine:NAME, http(s)://host/v1 or unix:/path
    model: str | None = None  # None: the tier's own name
    api_key_env: str | None = None  # the variable that holds the key, never the key
    api_key: Annotated[SecretStr | None, Field(exclude=True)] = None  # filled from api_key_env
    capabilities: frozenset[Capability] | None = None  # None: all of our engine's, none of others'
    revision: str | None = None  # stands in for a fingerprint the server does not declare
    max_model_len: Count | None = None  # where the server does not say
    prompt_cost: Annotated[float, Field(ge=0)] = 0.0  # per 1,000 tokens
    completion_cost: Annotated[float, Field(ge=0)] = 0.0  # per 1,000 tokens
    connect_timeout_s: Seconds = 5.0
    read_timeout_s: Seconds = 120.0  # of silence, not of the whole answer
    max_connections: Count = 256

    @field_validator("name")
    @classmethod
    def _auto_is_taken(cls, name: str) -> str:
        if name == AUTO:
            raise ValueError('expected any name but "auto", which asks for the cascade')
        return name

    @field_validator("url")
    @classmethod
    def _tier_scheme(cls, url: str) -> str:
        if not re.match(r"^(engine:.|https?://.|unix:/)", url):
            raise ValueError("expected engine:NAME, http(s)://host/v1 or unix:/path")
        return url.rstrip("/")

    @property
    def engine(self) -> str | None:
        """Name of our engine behind this tier, None for somebody else's server."""
        return self.url.removeprefix("engine:") if self.url.startswith("engine:") else None

    @property
    def served_model(self) -> str:
        """The model name to ask the server for."""
        return self.model or self.name

    @property
    def declared_capabilities(self) -> frozenset[str]:
        """What the server behind the tier can take and give."""
        if self.capabilities is not None:
            return frozenset(self.capabilities)
        return frozenset(ALL_CAPABILITIES) if self.engine else frozenset()


class RouterConfig(_Section):
    """Where the trained difficulty router lies; without one every tier looks alike."""

    path: ConfigPath | None = None


class TierThresholds(_Section):
    """P(good) from which a request starts here, and from which the answer is kept."""

    start: Probability = 0.5
    accept: Probability = 0.5


class CascadeConfig(_Section):
    """The policy a fresh installation begins with; the admin API changes it later."""

    thresholds: Mapping[str, TierThresholds] = {}
    deadline_s: Seconds | None = None
    max_escalations: Annotated[int, Field(ge=0)] | None = None


class Config(_Section):
    """Everything a front end needs to know; ``load_config`` makes one."""

    server: ServerConfig = ServerConfig()
    redis: RedisConfig = RedisConfig()
    cache: CacheConfig = CacheConfig()
    engines: tuple[EngineConfig, ...] = ()
    tiers: Annotated[tuple[TierConfig, ...], Field(min_length=1)]  # cheap first
    router: RouterConfig = RouterConfig()
    cascade: CascadeConfig = CascadeConfig()
    state_dir: ConfigPath = Path(".spillway")
    source: Annotated[Path | None, Field(exclude=True)] = None  # the file this was read from
    admin_token: Annotated[SecretStr | None, Field(exclude=True)] = None
    secret: Annotated[SecretStr | None, Field(exclude=True)] = None

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        _refuse_duplicates("engines", [engine.name for engine in self.engines])
        _refuse_duplicates("tiers", [tier.name for tier in self.tiers])
        unknown = set(self.cascade.thresholds) - {tier.name for tier in self.tiers}
        if unknown:
            raise ValueError(f"cascade.thresholds names unknown tiers {sorted(unknown)}")
        for tier in self.tiers:
            self._check_engine_of(tier)
        return self

    def _check_engine_of(self, tier: TierConfig) -> None:
        if tier.engine is None:
            return
        engine = next((e for e in self.engines if e.name == tier.engine), None)
        if engine is None:
            raise ValueError(f"tier {tier.name!r} names unknown engine {tier.engine!r}")
        names = [model.name for model in engine.models]
        if names and tier.served_model not in names:
            raise ValueError(
                f"tier {tier.name!r} asks engine {engine.name!r} for {tier.served_model!r}; "
                f"expected one of {names}"
            )

    def engine(self, name: str) -> EngineConfig:
        """The engine of that name.

        Raises:
            ConfigError: there is none.
        """
        for engine in self.engines:
            if engine.name == name:
                return engine
        raise ConfigError(f"got engine {name!r}; expected one of {[e.name for e in self.engines]}")

    def secret_bytes(self) -> bytes:
        """The key that salts and MACs derive from: given, or made once and kept on disk.

        Raises:
            ConfigError: the state directory cannot be written or the kept secret is unreadable.
        """
        if self.secret is not None:
            return self.secret.get_secret_value().encode()
        return kept_secret(self.state_dir / "secret")


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read a TOML file and the environment into a ``Config``.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key or a bad value; the message names the key.
    """
    environ = os.environ if environ is None else environ
    document = read_toml(path)
    for key in ("admin_token", "secret", "source"):
        if key in document:
            raise ConfigError(f"{path}: {key}: got a value; expected it from the environment only")
    apply_environment(document, environ)
    for tier in entries(document, "tiers"):
        fill_api_key(tier, environ)
    document["source"] = path.absolute()
    return _validated(Config, document, path)


def load_engine(path: Path, name: str, environ: Mapping[str, str] | None = None) -> EngineConfig:
    """The entry ``name`` of ``[[engines]]`` alone: an engine needs nothing that tiers do.

    Raises:
        ConfigError: as ``load_config``, or no such engine.
    """
    document = read_toml(path)
    apply_environment(document, os.environ if environ is None else environ)
    engines = entries(document, "engines")
    for entry in engines:
        if entry.get("name") == name:
            return _validated(EngineConfig, entry, path)
    names = [entry.get("name") for entry in engines]
    raise ConfigError(f"{path}: engines: got {name!r}; expected one of {names}")


_Validated = TypeVar("_Validated", bound=_Section)


def _validated(model: type[_Validated], document: dict[str, Any], path: Path) -> _Validated:
    try:
        return model.model_validate(document, context={"base": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """Every fault as ``key: got …; expected …``, with nothing that could be a secret."""
    return "; ".join(_fault(item) for item in error.errors(include_url=False))


def _fault(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "configuration"
    expected = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        return f"{key}: got an unknown key; expected only documented ones"
    if item["type"] == "missing":
        return f"{key}: got nothing; expected a value"
    secret = any(word in key for word in ("secret", "token", "api_key", "redis", "block_store"))
    if secret or isinstance(item["input"], (BaseModel, dict, list)):
        return f"{key}: {expected}"
    return f"{key}: got {str(item['input'])[:100]!r}; expected: {expected}"


def _refuse_duplicates(what: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{what} share a name: {names}; expected distinct names")
