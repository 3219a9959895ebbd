"""Predicts, before anything is generated, how likely each tier is to answer a request rightly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_model.artifact import Artifact, grouped, load, save
from router_model.errors import ModelMismatch
from router_model.features import Features, Floats, extract
from router_model.request_text import Request
from router_model.scorers import Calibration, Scorer, calibration_from, scorer_from

KIND = "router"


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What the router knows of one request.

    ``probabilities``: calibrated P(this tier's answer is right), by tier, cheapest tier first.
    ``expected_tokens``: predicted length of the answer. ``row``: (F,) features for the judge.
    """

    probabilities: Mapping[str, float]
    expected_tokens: float
    row: Floats
    words: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """A trained router. ``tiers`` are ordered from cheapest to dearest.

    ``projection``: (HASHED_SIZE, K), from hashed n-grams to K numbers, saved as float16; the
    scorer's rows are the numeric features followed by these. ``calibrations``: one a tier.
    The scorer's last output is log(1 + tokens of the answer). ``trained_on``: sorted digests of
    the prompts it has seen.
    """

    tiers: tuple[str, ...]
    projection: Floats
    scorer: Scorer
    calibrations: tuple[Calibration, ...]
    trained_on: NDArray[np.uint64]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path | str) -> Router:
        """Read a router. Raises ModelMismatch when it does not fit this version."""
        saved = load(Path(folder), KIND)
        try:
            return _restored(saved)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ModelMismatch(f"{folder}: expected a whole router, got {error!r}") from error

    def save(self, folder: Path | str) -> None:
        """Write router.npz and router.json."""
        groups = {"scorer": self.scorer.arrays()}
        for tier, calibration in zip(self.tiers, self.calibrations, strict=True):
            groups[f"calibration.{tier}"] = calibration.arrays()
        arrays = grouped(groups)
        arrays["projection"] = self.projection.astype(np.float16)
        arrays["trained_on"] = self.trained_on
        save(Path(folder), KIND, Artifact(arrays, {**self.metadata, "tiers": list(self.tiers)}))

    def predict(self, request: Request) -> Mapping[str, float]:
        """Calibrated P(this tier's answer is right) by tier, of a prompt or chat messages."""
        return self.read(request).probabilities

    def read(self, request: Request) -> Reading:
        """Probabilities, expected length, and the features the judge will want."""
        return self.read_all([extract(request)])[0]

    def read_all(self, requests: Sequence[Features]) -> list[Reading]:
        """Readings of several requests at once."""
        rows = request_rows(requests, self.projection)
        raw = self.scorer.score(rows)
        chances = self.chances(raw)
        lengths = np.expm1(np.clip(raw[:, -1], 0.0, 20.0))
        return [
            Reading(dict(zip(self.tiers, chance, strict=True)), length, row, features.words)
            for chance, length, row, features in zip(
                chances.tolist(), lengths.tolist(), rows, requests, strict=True
            )
        ]

    def chances(self, raw: Floats) -> Floats:
        """Probabilities (B, tiers) from raw scores (B, tiers + 1)."""
        each = [c.probability(raw[:, place]) for place, c in enumerate(self.calibrations)]
        return np.stack(each, axis=1)

    def check(self, tiers: Sequence[str], fingerprints: Mapping[str, str] | None = None) -> None:
        """Refuse to serve tiers other than those it was trained for.

        Raises:
            ModelMismatch: other tiers or another order; a tier whose fingerprint is known on both
                sides and differs.
        """
        if tuple(tiers) != self.tiers:
            raise ModelMismatch(f"tiers: got {tuple(tiers)}, expected {self.tiers} (as trained)")
        trained: Mapping[str, str] = self.metadata.get("fingerprints", {})
        for tier, got in (fingerprints or {}).items():
            if trained.get(tier, got) != got:
                raise ModelMismatch(
                    f"fingerprint of tier {tier!r}: got {got!r}, expected {trained[tier]!r}"
                )


def request_rows(requests: Sequence[Features], projection: Floats) -> Floats:
    """(B, numeric + K) rows that scorers read, of several requests."""
    return np.stack([_row(features, projection) for features in requests])


def _row(features: Features, projection: Floats) -> Floats:
    """Only the rows of the projection that the request's n-grams reach are touched."""
    reached = features.hashed.nonzero()[0]
    return np.concatenate([features.numeric, features.hashed[reached] @ projection[reached]])


def _restored(saved: Artifact) -> Router:
    tiers = tuple(str(tier) for tier in saved.metadata["tiers"])
    return Router(
        tiers,
        np.asarray(saved.arrays["projection"], dtype=np.float64),
        scorer_from(saved.group("scorer")),
        tuple(calibration_from(saved.group(f"calibration.{tier}")) for tier in tiers),
        np.asarray(saved.arrays["trained_on"], dtype=np.uint64),
        {key: value for key, value in saved.metadata.items() if key not in _FILE_KEYS},
    )


_FILE_KEYS = frozenset({"schema", "kind", "features", "arrays_digest", "tiers"})
