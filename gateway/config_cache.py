"""What the front end remembers: the `[cache]` section of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

_Seconds = Annotated[float, Field(gt=0, le=86_400 * 30)]
_Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path.cwd())
    return path if path.is_absolute() else Path(base) / path


class NearConfig(_Section):
    """Answers to similar requests, given to the model as drafts; off without an embedder."""

    embedder: Annotated[Path, AfterValidator(_beside_the_file)] | None = None
    budget_s: Annotated[float, Field(ge=0, le=1)] = 0.015  # what the first tier waits at most
    most: Annotated[int, Field(ge=1, le=8)] = 3
    least_similarity: Annotated[float, Field(ge=0, le=1)] = 0.5
    max_entries: _Count = 2048  # of one tenant
    memory_bytes: _Count = 64 * 1024 * 1024  # of all tenants


class CacheConfig(_Section):
    """Whole answers, refusals and requests in flight. Each can be switched off."""

    responses: bool = True
    sampled: bool = False  # keep answers that would come out differently the next time, too
    ttl_s: _Seconds = 3600.0
    max_entry_bytes: _Count = 256 * 1024
    memory_bytes: _Count = 64 * 1024 * 1024  # where there is no Redis
    refusals_s: Annotated[float, Field(ge=0, le=60)] = 5.0  # 0: refusals are not remembered
    single_flight: bool = True
    near: NearConfig = NearConfig()
