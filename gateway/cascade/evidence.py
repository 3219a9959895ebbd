"""What the cascade asks of a router and a judge, whoever trained them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.cascade.answer import Choice
from gateway.generation import Endpoint, Json


class Outlook(Protocol):
    """What is known of one request before anything was generated for it."""

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Calibrated P(this tier's answer is good | request) by tier name."""
        ...

    @property
    def expected_tokens(self) -> float | None:
        """Predicted length of the answer, None when nobody can tell."""
        ...

    def score(self, tier: str, choice: Choice, tokens: int | None) -> float | None:
        """P(good | request, answer) of one choice of ``tokens``, None if that is unknown.

        None when nobody can tell for this tier.
        """
        ...


class Estimator(Protocol):
    """A router and a judge as one."""

    @property
    def version(self) -> str:
        """Changes whenever scores of before and after cannot be compared."""
        ...

    @property
    def top_logprobs(self) -> int | None:
        """Rivals wanted beside each token's log-prob; None when log-probs are of no use."""
        ...

    def read(self, endpoint: Endpoint, body: Mapping[str, Json]) -> Outlook | None:
        """Look at one request, in about a millisecond; None when there is nothing to read."""
        ...


def joint_score(scores: Sequence[float | None]) -> float | None:
    """The score of several choices: that of the worst; None if any is unknown."""
    known = [score for score in scores if score is not None]
    return min(known) if known and len(known) == len(scores) else None
