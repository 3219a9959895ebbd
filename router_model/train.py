"""Trains a router and a judge on recorded outcomes of the split that is there for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.decomposition import TruncatedSVD
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from router_model.classifier import Reading, Router, request_rows
from router_model.estimators import (
    CANDIDATES,
    Candidate,
    Fitted,
    calibrated_across,
    figures,
    fit_classifier,
    fit_constant,
    fit_length,
    held_out_scores,
    is_learnable,
    merged,
)
from router_model.features import Features, Floats, extract
from router_model.judge import Judge, Verdict, evidence_row
from router_model.simulate import evidence_of
from router_model.table import OutcomeTable

TOPICS = 24
MIN_PROMPTS = 50

Labels = Mapping[str, NDArray[np.bool_]]
Say = Callable[[str], None]


class Trained(NamedTuple):
    """What training yields."""

    router: Router
    judge: Judge


class Chosen(NamedTuple):
    """The best candidate, fitted to each label; ``report`` is how all did in cross-validation."""

    candidate: Candidate
    fitted: Mapping[str, Fitted]
    report: dict[str, Any]


def train(
    table: OutcomeTable,
    *,
    candidates: Sequence[Candidate] = CANDIDATES,
    say: Say = lambda _: None,
) -> Trained:
    """Train on outcomes of the split ``router-train``.

    Raises:
        SplitMismatch: the table is of another split.
        ValueError: fewer than MIN_PROMPTS prompts.
    """
    table.require("router-train")
    if len(table) < MIN_PROMPTS:
        raise ValueError(f"got {len(table)} prompts to train on, expected {MIN_PROMPTS} or more")
    with threadpool_limits(1):  # small data: threads that share cores are ten times slower
        say(f"reading {len(table)} prompts")
        features = [extract(request) for request in table.requests]
        router, readings = _train_router(table, features, candidates, say)
        return Trained(router, _train_judge(table, readings, candidates, say))


def _train_router(
    table: OutcomeTable, features: Sequence[Features], candidates: Sequence[Candidate], say: Say
) -> tuple[Router, list[Reading]]:
    projection = topics_of(features)
    rows = request_rows(features, projection)
    chosen = choose(candidates, rows, _labels(table), say, "router")
    length, lengths = fit_length(chosen.candidate, rows, table.tokens()[:, -1])
    router = Router(
        table.tiers,
        projection,
        merged([*(each.scorer for each in chosen.fitted.values()), length]),
        tuple(each.calibration for each in chosen.fitted.values()),
        np.sort(table.digests),
        described(table) | chosen.report,
    )
    return router, _held_out_readings(features, rows, chosen.fitted, lengths)


def _labels(table: OutcomeTable) -> Labels:
    return dict(zip(table.tiers, table.correct().T, strict=True))


def topics_of(features: Sequence[Features]) -> Floats:
    """(HASHED_SIZE, K) projection to the hashed n-grams' main directions, exact in float16."""
    hashed = csr_array(np.stack([each.hashed for each in features]))
    components = min(TOPICS, len(features) - 1)
    model = TruncatedSVD(components, random_state=0).fit(hashed)
    directions = np.asarray(model.components_, dtype=np.float16).T
    return directions.astype(np.float64)


def choose(
    candidates: Sequence[Candidate], rows: Floats, labels: Labels, say: Say, what: str
) -> Chosen:
    """Fit to every label the candidate of the lowest mean cross-validated log-loss."""
    known = {name: label for name, label in labels.items() if is_learnable(label)}
    scores = {
        candidate.name: {n: held_out_scores(candidate, rows, y) for n, y in known.items()}
        for candidate in candidates
    }
    compared = {
        candidate: {n: figures(calibrated_across(s, known[n]), known[n]) for n, s in each.items()}
        for candidate, each in scores.items()
    }
    best = min(candidates, key=lambda each: _mean_loss(compared[each.name]))
    say(f"{what}: {best.name}, log-loss {_mean_loss(compared[best.name]):.4f}")
    fitted = {
        name: fit_classifier(best, rows, label, scores[best.name][name])
        if name in known
        else fit_constant(rows, label)
        for name, label in labels.items()
    }
    held_out = {name: figures(each.held_out, labels[name]) for name, each in fitted.items()}
    report = {"estimator": best.name, "held_out": held_out, "compared": compared}
    return Chosen(best, fitted, _rounded(report))


def _mean_loss(by_label: Mapping[str, Mapping[str, float]]) -> float:
    return sum(each["log_loss"] for each in by_label.values()) / max(1, len(by_label))


def _held_out_readings(
    features: Sequence[Features], rows: Floats, fitted: Mapping[str, Fitted], lengths: Floats
) -> list[Reading]:
    """What a router that had not seen each prompt says of it: the judge must not learn to trust
    probabilities that were fitted to the very answers it judges."""
    chances = np.stack([each.held_out for each in fitted.values()], axis=1).tolist()
    tokens = np.expm1(np.clip(lengths, 0.0, 20.0)).tolist()
    return [
        Reading(dict(zip(fitted, chance, strict=True)), length, row, each.words)
        for chance, length, row, each in zip(chances, tokens, rows, features, strict=True)
    ]


class Lesson(NamedTuple):
    """One verdict to learn: of one tier, with or without log-probs."""

    tier: str
    with_logprobs: bool
    rows: Floats
    labels: NDArray[np.bool_]

    @property
    def name(self) -> str:
        """Name in reports."""
        return f"{self.tier}.{'with' if self.with_logprobs else 'without'}"


def _train_judge(
    table: OutcomeTable, readings: Sequence[Reading], candidates: Sequence[Candidate], say: Say
) -> Judge:
    verdicts: dict[bool, dict[str, Verdict]] = {True: {}, False: {}}
    reports: dict[str, Any] = {}
    for lesson in _lessons(table, readings):
        labels = {lesson.tier: lesson.labels}
        chosen = choose(candidates, lesson.rows, labels, say, f"judge of {lesson.name}")
        fitted = chosen.fitted[lesson.tier]
        verdicts[lesson.with_logprobs][lesson.tier] = Verdict(fitted.scorer, fitted.calibration)
        reports[lesson.name] = chosen.report
    metadata = described(table) | {"verdicts": reports}
    return Judge(table.tiers, verdicts[True], verdicts[False], metadata)


def _lessons(table: OutcomeTable, readings: Sequence[Reading]) -> Iterator[Lesson]:
    """Every verdict there is enough data for; a tier without log-probs has only one."""
    for tier, right in zip(table.tiers, table.correct().T, strict=True):
        seen = list(map(evidence_of, table.column(tier), readings))
        told = np.array([bool(each.logprobs) for each in seen])
        for with_logprobs in (True, False):
            kept = np.flatnonzero(told | (not with_logprobs))
            if len(kept) >= MIN_PROMPTS:
                rows = [evidence_row(seen[i], with_logprobs=with_logprobs) for i in kept]
                yield Lesson(tier, with_logprobs, np.stack(rows), right[kept])


def described(table: OutcomeTable) -> dict[str, Any]:
    """What the model was trained on."""
    correct = table.correct()
    digest = blake2b(np.sort(table.digests).tobytes() + correct.tobytes(), digest_size=16)
    shares = dict(zip(table.tiers, correct.mean(axis=0).round(4).tolist(), strict=True))
    return {
        "training_data": {"prompts": len(table), "digest": digest.hexdigest(), "right": shares},
        "fingerprints": table.fingerprints(),
    }


def _rounded(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {name: _rounded(value) for name, value in found.items()}
    return round(found, 4) if isinstance(found, float) else found
