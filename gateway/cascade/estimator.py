"""The trained router and judge, as the cascade wants to be told."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.cascade.answer import Choice
from gateway.generation import Endpoint, Json
from router_model import AnswerEvidence, Judge, ModelMismatch, Reading, Request, Router

_RIVALS = 2  # the margin is between the two likeliest tokens
_log = logging.getLogger(__name__)


class TrainedEstimator:
    """Implements ``Estimator``. Without a judge an answer is scored by the request alone."""

    def __init__(self, router: Router, judge: Judge | None, *, version: str) -> None:
        self._router = router
        self._judge = judge
        self.version = version

    @property
    def top_logprobs(self) -> int | None:
        """See ``Estimator``."""
        return None if self._judge is None else _RIVALS

    def read(self, endpoint: Endpoint, body: Mapping[str, Json]) -> TrainedOutlook | None:
        """See ``Estimator``. A prompt given as tokens cannot be read."""
        request = _request(endpoint, body)
        if request is None:
            return None
        return TrainedOutlook(self._router.read(request), self._judge)


@dataclass(frozen=True, slots=True)
class TrainedOutlook:
    """Implements ``Outlook``."""

    reading: Reading
    judge: Judge | None

    @property
    def probabilities(self) -> Mapping[str, float]:
        """See ``Outlook``."""
        return self.reading.probabilities

    @property
    def expected_tokens(self) -> float | None:
        """See ``Outlook``."""
        return self.reading.expected_tokens

    def score(self, tier: str, choice: Choice, tokens: int | None) -> float | None:
        """See ``Outlook``."""
        if self.judge is None or tier not in self.judge.tiers:
            return self.reading.probabilities.get(tier)
        return self.judge.score(
            AnswerEvidence.from_entries(
                tier=tier,
                reading=self.reading,
                answer=choice.text,
                entries=choice.logprobs,
                finish_reason=choice.finish_reason,
                tokens=tokens,
            )
        )


def load_estimator(folder: Path | None, ladder: Sequence[str]) -> TrainedEstimator | None:
    """The router and judge in ``folder``, None (and a line in the log) when they do not fit."""
    if folder is None:
        return None
    try:
        router = Router.load(folder)
        router.check(ladder)
    except ModelMismatch as error:
        _log.warning("no router: %s", error)
        return None
    try:
        judge = Judge.load(folder)
    except ModelMismatch as error:
        _log.warning("no judge: %s", error)
        judge = None
    return TrainedEstimator(router, judge, version=_version(folder))


def _request(endpoint: Endpoint, body: Mapping[str, Json]) -> Request | None:
    wanted: Request | None = body.get("messages" if endpoint == "chat" else "prompt")
    if endpoint == "completions":
        return wanted if isinstance(wanted, str) else None
    return wanted


def _version(folder: Path) -> str:
    """Each description names the digest of its arrays, so a digest of both stands for all."""
    found = sorted(folder.glob("*.json"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in found)).hexdigest()[:16]
