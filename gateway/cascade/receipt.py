"""What happened to one request, told from the cascade's own records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.cascade.asking import HandedUp
from gateway.generation import Json, Usage

Outcome = Literal[
    "answered",  # nobody had to judge it
    "accepted",
    "rejected",
    "returned",  # rejected, and still the best there was
    "unusable",  # not asked: known to be down
    "busy",
    "unavailable",  # asked, and nothing came
    "broken",  # asked, and the answer broke off
    "refused",  # it does not take this request
    "late",  # the deadline passed
]


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One tier that was asked, or passed over, and what came of it."""

    tier: str
    outcome: Outcome = "unusable"
    score: float | None = None
    usage: Usage | None = None
    engine: Mapping[str, Json] = field(default_factory=dict)
    handed_up: tuple[HandedUp, ...] = ()
    ms: float = 0.0
    judge_ms: float = 0.0

    def salvaged(self) -> int:
        """Tokens of rejected answers that this tier accepted as its own.

        Two answers may agree on a token, so what came through both ways is not added up.
        """
        ways = [0]
        if "prediction" in self.handed_up and self.usage is not None:
            ways.append(self.usage.accepted_prediction_tokens)
        if "drafts" in self.handed_up:
            ways.append(sources(self.engine).get("rejected_answer", {}).get("accepted", 0))
        return max(ways)

    def document(self) -> dict[str, Json]:
        """As it stands in the receipt."""
        said: dict[str, Json] = {"tier": self.tier, "outcome": self.outcome}
        if self.outcome == "unusable":
            return said
        usage = self.usage or Usage()
        return said | {
            "score": self.score,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "ms": round(self.ms, 3),
            "judge_ms": round(self.judge_ms, 3),
            "steps": count(self.engine.get("steps")),
            "drafted": count(self.engine.get("drafted")),
            "accepted": count(self.engine.get("accepted")),
            "by_source": sources(self.engine),
            "narrow_margins": count(self.engine.get("narrow_margins")),
            "seed": self.engine.get("seed"),
            "handed_up": list(self.handed_up),
            "salvaged_tokens": self.salvaged(),
        }


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Everything worth telling about one request."""

    policy_version: int
    cache: str | None = None
    cache_key: str | None = None
    start: str | None = None
    probabilities: Mapping[str, float] | None = None
    router_ms: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)

    def document(self, tier: str, total_ms: float) -> dict[str, Json]:
        """The receipt of an answer by ``tier``. Totals cover every tier that was asked."""
        asked = [one.document() for one in self.attempts]
        answering = next((one for one in reversed(asked) if one["tier"] == tier), {})
        return {
            "tier": tier,
            "policy_version": self.policy_version,
            "cache": self.cache,
            "cache_key": self.cache_key,
            "start": self.start,
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
            "score": answering.get("score"),
            "tiers": asked,
            "steps": answering.get("steps", 0),
            "drafted": answering.get("drafted", 0),
            "accepted": answering.get("accepted", 0),
            "by_source": answering.get("by_source", {}),
            "salvaged_tokens": sum(one.get("salvaged_tokens", 0) for one in asked),
            "rejected_tokens": _rejected_tokens(self.attempts),
            "router_ms": round(self.router_ms, 3),
            "total_ms": round(total_ms, 3),
        }


def _rejected_tokens(attempts: list[Attempt]) -> int:
    """Completion tokens that were generated and not returned."""
    return sum(
        one.usage.completion_tokens
        for one in attempts
        if one.usage is not None and one.outcome == "rejected"
    )


def engine_part(receipt: Mapping[str, Json] | None) -> Mapping[str, Json]:
    """The engine's account of decoding, wherever in its response key it put it."""
    inner = (receipt or {}).get("receipt", receipt)
    return inner if isinstance(inner, Mapping) else {}


def sources(engine: Mapping[str, Json]) -> dict[str, dict[str, int]]:
    """Draft tokens proposed and accepted by source."""
    told = engine.get("by_source")
    if not isinstance(told, Mapping):
        return {}
    return {
        str(name): {"proposed": count(one.get("proposed")), "accepted": count(one.get("accepted"))}
        for name, one in told.items()
        if isinstance(one, Mapping)
    }


def count(value: Json) -> int:
    """A count somebody else's server told us, 0 if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
