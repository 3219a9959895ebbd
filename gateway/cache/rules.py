"""What may be kept, and what a caller's Cache-Control asks for."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.cascade.answer import Answer
from gateway.generation import Job, Json


def deterministic(body: Mapping[str, Json]) -> bool:
    """Whether asking twice gives the same answer: temperature 0, or an explicit seed."""
    temperature, seed = body.get("temperature"), body.get("seed")
    greedy = _is_number(temperature) and temperature == 0
    return greedy or (isinstance(seed, int) and not isinstance(seed, bool))


def complete(job: Job, answer: Answer) -> bool:
    """Whether every choice ended for a reason that the request itself gives.

    "length" counts only when the request's own limit was reached, not the model's context.
    """
    reasons = {choice.finish_reason for choice in answer.choices}
    if reasons == {"stop"}:
        return True
    if not reasons <= {"stop", "length"} or len(answer.choices) != 1:
        return False
    limit = job.body.get("max_completion_tokens", job.body.get("max_tokens"))
    return isinstance(limit, int) and answer.usage.completion_tokens >= limit


def max_age_s(directives: frozenset[str]) -> float | None:
    """The oldest entry the caller takes, in seconds; None when it does not say."""
    for directive in directives:
        name, _, value = directive.partition("=")
        if name.strip().lower() == "max-age":
            digits = value.strip().strip('"')
            return float(digits) if digits.isdecimal() and len(digits) < 12 else 0.0
    return None


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
