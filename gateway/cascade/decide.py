"""Every decision of the cascade as a pure function of a policy and probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.cascade.policy import Policy


def start_index(
    policy: Policy, probabilities: Mapping[str, float] | None, fallback: int | None = None
) -> int:
    """Where to begin: the first tier whose P(good | request) reaches its start threshold.

    The last tier otherwise. A tier the router says nothing about is never started at. Without
    any probabilities it is ``fallback``, or the last tier.
    """
    last = len(policy.rungs) - 1
    if probabilities is None:
        return last if fallback is None else fallback
    for index, rung in enumerate(policy.rungs[:-1]):
        if probabilities.get(rung.tier, -1.0) >= rung.start:
            return index
    return last


def accepts(policy: Policy, index: int, score: float | None) -> bool:
    """Whether the answer of tier ``index`` stands. Without a score nothing speaks against it."""
    if index == len(policy.rungs) - 1 or score is None:
        return True
    return score >= policy.rungs[index].accept


def attempt_order(policy: Policy, start: int) -> tuple[int, ...]:
    """Tiers to try: from ``start`` upwards, then, when all those fail, downwards from it."""
    return (*range(start, len(policy.rungs)), *range(start - 1, -1, -1))


def best_index(scores: Sequence[float | None]) -> int:
    """Which of several rejected answers to return: the best score, the later one of equals.

    Raises:
        ValueError: there is none.
    """
    if not scores:
        raise ValueError("got no answers; expected at least one")
    return max(range(len(scores)), key=lambda i: (_or_lowest(scores[i]), i))


def still_serves(
    policy: Policy, tier: str, *, probabilities: Mapping[str, float] | None, score: float | None
) -> bool:
    """Whether today's policy could still end at ``tier`` with an answer of that score.

    It must start no higher and accept what it got. Answers of the last tier always serve; an
    answer nobody scored never does.
    """
    if tier not in policy.ladder:
        return False
    index = policy.index(tier)
    if index == len(policy.rungs) - 1:
        return True
    if score is None or start_index(policy, probabilities) > index:
        return False
    return accepts(policy, index, score)


def _or_lowest(score: float | None) -> float:
    return -1.0 if score is None else score
