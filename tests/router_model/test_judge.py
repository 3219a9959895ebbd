"""The judge tells right answers from wrong ones, also of servers that give no log-probs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router_model.classifier import Router
from router_model.errors import ModelMismatch, UnknownTier
from router_model.evidence import AnswerEvidence
from router_model.judge import Judge
from router_model.metrics import auroc, calibration_error
from router_model.outcomes import Outcome
from router_model.simulate import evidence_of
from router_model.table import OutcomeTable, table_of
from router_model.train import Trained, train

TIERS = ("brook", "creek", "river")
MakeTable = Callable[..., OutcomeTable]
MakeOutcomes = Callable[..., list[Outcome]]


def judged(
    made_table: MakeTable, saved: Path, tier: str, *, blind: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of one tier's answers to 300 new prompts, and what was right."""
    router, judge = Router.load(saved), Judge.load(saved)
    outcomes = made_table("test", 300).column(tier)
    seen = [evidence_of(each, router.read(each.request)) for each in outcomes]
    if blind:
        seen = [replace(each, logprobs=None, margins=None) for each in seen]
    return np.array(list(map(judge.score, seen))), np.array([each.correct for each in outcomes])


def test_with_log_probs_it_knows_more_than_without(made_table: MakeTable, saved: Path) -> None:
    informed = auroc(*judged(made_table, saved, "creek"))
    assert informed > auroc(*judged(made_table, saved, "creek", blind=True)) > 0.8


@pytest.mark.parametrize("blind", [False, True])
def test_its_probabilities_are_calibrated(made_table: MakeTable, saved: Path, blind: bool) -> None:
    assert calibration_error(*judged(made_table, saved, "creek", blind=blind)) < 0.06


def test_a_loaded_judge_says_what_the_trained_one_said(
    made_table: MakeTable, trained: Trained, saved: Path
) -> None:
    outcome = made_table("test", 1).column("creek")[0]
    evidence = evidence_of(outcome, trained.router.read(outcome.request))
    loaded = Judge.load(saved)
    assert loaded.score(evidence) == pytest.approx(trained.judge.score(evidence), abs=1e-12)


def test_doubt_in_one_token_lowers_the_score(made_outcomes: MakeOutcomes, saved: Path) -> None:
    router, judge = Router.load(saved), Judge.load(saved)
    outcome = next(each for each in made_outcomes("test", 50) if each.tier == "creek")
    sure = evidence_of(outcome, router.read(outcome.request))
    sure = replace(sure, logprobs=(-0.001,) * 8, margins=(5.0,) * 8)
    doubtful = replace(sure, logprobs=(-2.5, *sure.logprobs[1:]), margins=(0.1, *sure.margins[1:]))
    assert judge.score(doubtful) < judge.score(sure) - 0.1


def test_a_tier_it_was_not_trained_on_is_an_error(saved: Path) -> None:
    reading = Router.load(saved).read("Add 1.")
    evidence = AnswerEvidence(tier="lake", reading=reading, answer="1")
    with pytest.raises(UnknownTier, match=r"got 'lake', expected one of \('brook'"):
        Judge.load(saved).score(evidence)


def test_a_tier_that_never_gave_log_probs_is_judged_by_its_text(training_table) -> None:  # type: ignore[no-untyped-def]
    outcomes = [
        replace(each, logprobs=None, margins=None)
        for row in training_table.outcomes
        for each in row
    ]
    from router_model.estimators import CANDIDATES

    foreign = train(table_of(outcomes, "router-train", TIERS), candidates=CANDIDATES[:1])
    assert foreign.judge.with_logprobs == {}
    reading = foreign.router.read("Repeat these words exactly: apple1")
    told = AnswerEvidence(tier="creek", reading=reading, answer="apple1", logprobs=(-0.1,))
    assert 0.0 <= foreign.judge.score(told) <= 1.0


def test_other_evidence_names_are_refused(saved: Path, tmp_path: Path) -> None:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    described = json.loads((tmp_path / "judge.json").read_text())
    (tmp_path / "judge.json").write_text(json.dumps(described | {"evidence": ["chance"]}))
    with pytest.raises(ModelMismatch, match="evidence list: got"):
        Judge.load(tmp_path)
