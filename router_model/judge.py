"""Judges, after an answer was generated, how likely it is to be right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from router_model.artifact import Arrays, Artifact, grouped, load, save
from router_model.errors import ModelMismatch, UnknownTier
from router_model.evidence import (
    ANSWER_NAMES,
    LOGPROB_NAMES,
    AnswerEvidence,
    answer_numbers,
    confidence_numbers,
)
from router_model.features import Floats
from router_model.scorers import Calibration, Scorer, calibration_from, scorer_from

KIND = "judge"


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """How one kind of evidence is turned into a probability."""

    scorer: Scorer
    calibration: Calibration

    def probability(self, rows: Floats) -> Floats:
        """(B,) probabilities of evidence rows (B, F)."""
        return self.calibration.probability(self.scorer.score(rows)[:, 0])

    def arrays(self, name: str) -> dict[str, Arrays]:
        """Everything as groups of arrays for saving."""
        return {f"{name}.s": self.scorer.arrays(), f"{name}.c": self.calibration.arrays()}


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """A trained judge: for every tier a verdict without log-probs, and one with if it had any."""

    tiers: tuple[str, ...]
    with_logprobs: Mapping[str, Verdict]
    without_logprobs: Mapping[str, Verdict]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path | str) -> Judge:
        """Read a judge. Raises ModelMismatch when it does not fit this version."""
        saved = load(Path(folder), KIND)
        names = saved.metadata.get("evidence")
        if names != _names():
            raise ModelMismatch(f"judge's evidence list: got {names!r}, expected {_names()!r}")
        try:
            return _restored(saved)
        except (KeyError, ValueError, TypeError) as error:
            raise ModelMismatch(f"{folder}: expected a whole judge, got {error!r}") from error

    def save(self, folder: Path | str) -> None:
        """Write judge.npz and judge.json."""
        groups: dict[str, Arrays] = {}
        for tier, verdict in self.with_logprobs.items():
            groups |= verdict.arrays(f"{tier}.with")
        for tier, verdict in self.without_logprobs.items():
            groups |= verdict.arrays(f"{tier}.without")
        metadata = {**self.metadata, "tiers": list(self.tiers), "evidence": _names()}
        save(Path(folder), KIND, Artifact(grouped(groups), metadata))

    def score(self, evidence: AnswerEvidence) -> float:
        """Calibrated P(the answer is right). Raises UnknownTier for a tier not trained on."""
        informed = bool(evidence.logprobs) and evidence.tier in self.with_logprobs
        verdicts = self.with_logprobs if informed else self.without_logprobs
        if evidence.tier not in verdicts:
            raise UnknownTier(f"judge of tier: got {evidence.tier!r}, expected one of {self.tiers}")
        row = evidence_row(evidence, with_logprobs=informed)
        return float(verdicts[evidence.tier].probability(row[None])[0])


def evidence_row(evidence: AnswerEvidence, *, with_logprobs: bool) -> Floats:
    """(F,) numbers one verdict reads: answer, then log-probs if any, then the request's row."""
    parts = [answer_numbers(evidence)]
    if with_logprobs:
        parts.append(confidence_numbers(evidence))
    return np.concatenate([*parts, evidence.reading.row])


def _names() -> list[str]:
    return [*ANSWER_NAMES, *LOGPROB_NAMES]


def _restored(saved: Artifact) -> Judge:
    tiers = tuple(str(tier) for tier in saved.metadata["tiers"])
    metadata = {key: value for key, value in saved.metadata.items() if key not in _FILE_KEYS}
    with_logprobs = {
        tier: _verdict(saved, f"{tier}.with") for tier in tiers if saved.group(f"{tier}.with.s")
    }
    return Judge(
        tiers, with_logprobs, {tier: _verdict(saved, f"{tier}.without") for tier in tiers}, metadata
    )


def _verdict(saved: Artifact, name: str) -> Verdict:
    return Verdict(
        scorer_from(saved.group(f"{name}.s")), calibration_from(saved.group(f"{name}.c"))
    )


_FILE_KEYS = frozenset({"schema", "kind", "features", "arrays_digest", "tiers", "evidence"})
