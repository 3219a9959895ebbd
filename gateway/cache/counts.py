"""How often the response cache helped, by tenant and model asked for, since this process began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

Event = Literal["hit", "miss", "stale", "bypass", "refusal", "collapsed", "stored", "not_stored"]
_MOST = 4096  # pairs of tenant and model; those beyond are counted together
OTHERS = ("others", "others")


class Counts:
    """Counters by tenant MAC and model."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, str], Counter[str]] = {}

    def add(self, tenant: str, model: str, event: Event) -> None:
        """One more ``event``."""
        key = (tenant, model)
        if key not in self._counted and len(self._counted) >= _MOST:
            key = OTHERS
        self._counted.setdefault(key, Counter())[event] += 1

    def by_model(self) -> Mapping[tuple[str, str], Mapping[str, int]]:
        """Counts by (tenant MAC, model)."""
        return {key: dict(counted) for key, counted in self._counted.items()}


def hit_rate(counted: Mapping[str, int]) -> float | None:
    """Hits among lookups; None before the first. Requests that bypass the cache are none."""
    hits = counted.get("hit", 0)
    looked = hits + counted.get("miss", 0) + counted.get("stale", 0)
    return round(hits / looked, 4) if looked else None
