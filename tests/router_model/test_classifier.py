"""The router says the same saved and loaded, alone and in a crowd, with or without scikit-learn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV

from router_model.classifier import Router, request_rows
from router_model.errors import ModelMismatch
from router_model.estimators import FOLDS, Candidate
from router_model.features import extract
from router_model.metrics import auroc
from router_model.table import OutcomeTable
from router_model.train import Trained

TIERS = ("brook", "creek", "river")
MakeTable = Callable[..., OutcomeTable]


def test_a_loaded_router_says_what_the_trained_one_said(
    made_table: MakeTable, trained: Trained, saved: Path
) -> None:
    loaded = Router.load(saved)
    for prompt in made_table("test", 20).requests:
        assert loaded.predict(prompt) == pytest.approx(trained.router.predict(prompt), abs=1e-12)


def test_probabilities_come_for_every_tier_in_order(saved: Path) -> None:
    found = Router.load(saved).predict("Repeat these words exactly: a b")
    assert tuple(found) == TIERS
    assert all(0.0 <= chance <= 1.0 for chance in found.values())


def test_it_agrees_with_scikit_learn_s_predict_proba_to_a_millionth(
    made_table: MakeTable,
    quick: tuple[Candidate, ...],
    training_table: OutcomeTable,
    saved: Path,
) -> None:
    router = Router.load(saved)
    name = router.metadata["estimator"]
    candidate = next(each for each in quick if each.name == name)
    rows = request_rows([extract(each) for each in training_table.requests], router.projection)
    labels = training_table.correct()[:, 1]
    method = "isotonic" if router.calibrations[1].knots else "sigmoid"
    reference = CalibratedClassifierCV(
        candidate.classifier(), method=method, cv=FOLDS, ensemble=False
    ).fit(rows, labels)
    test = made_table("test", 50).requests
    asked = request_rows([extract(each) for each in test], router.projection)
    ours = [router.predict(each)["creek"] for each in test]
    np.testing.assert_allclose(ours, reference.predict_proba(asked)[:, 1], atol=1e-6)


def test_readings_of_many_are_those_of_each(made_table: MakeTable, saved: Path) -> None:
    router = Router.load(saved)
    prompts = made_table("test", 5).requests
    together = router.read_all([extract(each) for each in prompts])
    for prompt, reading in zip(prompts, together, strict=True):
        assert router.read(prompt).probabilities == pytest.approx(reading.probabilities)
        assert router.read(prompt).expected_tokens == pytest.approx(reading.expected_tokens)


def test_it_tells_right_from_wrong_on_prompts_it_never_saw(
    made_table: MakeTable, saved: Path
) -> None:
    router, table = Router.load(saved), made_table("test", 300)
    chances = np.array([router.predict(each)["creek"] for each in table.requests])
    assert auroc(chances, table.correct()[:, 1]) > 0.9


def test_a_longer_task_is_expected_to_take_more_tokens(saved: Path) -> None:
    router = Router.load(saved)
    short = router.read("Repeat these words exactly: apple1 stone2").expected_tokens
    long = router.read("Repeat these words exactly: " + "apple1 stone2 " * 7).expected_tokens
    assert long > short > 0


@pytest.mark.parametrize("request_", ["", "\ud800", [], [{"role": "user", "content": None}]])
def test_odd_requests_get_finite_probabilities(saved: Path, request_) -> None:  # type: ignore[no-untyped-def]
    found = Router.load(saved).predict(request_)
    assert all(np.isfinite(chance) for chance in found.values())


def test_other_tiers_or_another_order_are_refused(saved: Path) -> None:
    router = Router.load(saved)
    router.check(TIERS)
    with pytest.raises(ModelMismatch, match=r"got .*'lake'.* expected .*'river'"):
        router.check(("brook", "creek", "lake"))
    with pytest.raises(ModelMismatch):
        router.check(("creek", "brook", "river"))


def test_other_weights_behind_a_tier_are_refused(saved: Path) -> None:
    router = Router.load(saved)
    router.check(TIERS, {"brook": "fp-brook"})
    with pytest.raises(ModelMismatch, match="'creek': got 'new', expected 'fp-creek'"):
        router.check(TIERS, {"brook": "fp-brook", "creek": "new"})


def test_a_router_with_a_part_missing_is_refused(saved: Path, tmp_path: Path) -> None:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    described = json.loads((tmp_path / "router.json").read_text())
    described["tiers"] = ["brook", "creek", "lake"]
    (tmp_path / "router.json").write_text(json.dumps(described))
    with pytest.raises(ModelMismatch, match="whole router"):
        Router.load(tmp_path)


def test_inference_needs_neither_scikit_learn_nor_torch(saved: Path) -> None:
    code = (
        "import sys; from router_model import Judge, Router;"
        f"r = Router.load({str(saved)!r}); Judge.load({str(saved)!r}); r.predict('Add 1 and 2');"
        "print([m for m in ('sklearn', 'scipy', 'torch', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
